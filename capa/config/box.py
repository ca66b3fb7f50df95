"""Where a box has its things, where nothing says otherwise; and what its settings say of them."""

import os
import tomllib
from pathlib import Path

from capa.errors import CapaError

__all__ = [
    "BOX_PLUGINS_LOCK",
    "BOX_PROFILE",
    "BOX_RUNS",
    "BOX_RUNTIME_DIR",
    "BOX_SETTINGS",
    "BOX_SPOOL",
    "anchored",
    "runtime_of_box",
    "sign_key_of_box",
    "state_of_box",
]

BOX_SETTINGS = Path("/etc/capad/capad.toml")
"""The daemon's settings; the tool ``capa`` shows and changes what the daemon goes by."""
BOX_PROFILE = Path("/etc/capad/hardware.toml")
BOX_PLUGINS_LOCK = Path("/etc/capad/plugins.lock")
BOX_RUNTIME_DIR = Path("/run/capad")
BOX_SPOOL = Path("/var/lib/capad/spool")
BOX_RUNS = Path("/var/lib/capad/runs")


def state_of_box(settings: Path) -> Path | None:
    """Return where the daemon of a box keeps its trips and what is due; None without a box.

    It is the folder that holds the spool: that survives a reboot, and those who may drop files
    can't write there.

    Raises:
        CapaError: the settings are there and do not say.
    """
    spool = _path(settings, "spool", "root", BOX_SPOOL)
    return None if spool is None else spool.parent


def runtime_of_box(settings: Path) -> Path | None:
    """Return where the daemon of a box has the lock of its rig; None without a box.

    Raises:
        CapaError: the settings are there and do not say.
    """
    return _path(settings, "runtime", "dir", BOX_RUNTIME_DIR)


def sign_key_of_box(settings: Path) -> Path | None:
    """Return the key with which the daemon of a box signs bundles; None without one, or a box.

    Raises:
        CapaError: the settings are there and do not say.
    """
    return _path(settings, "runs", "sign_key", None)


def anchored(folder: Path, path: Path) -> Path:
    """Return a path of the settings in a folder: absolute, without ``..``, as a person reads it."""
    return Path(os.path.normpath(folder / path))


def _path(settings: Path, table: str, key: str, otherwise: Path | None) -> Path | None:
    """Return a path that the settings name; None without settings."""
    try:
        data = tomllib.loads(settings.read_text(encoding="utf-8"))
        named = data.get(table, {}).get(key, otherwise)
        return None if named is None else anchored(settings.absolute().parent, named)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CapaError(f"{settings}: can't be read: {error}") from error
