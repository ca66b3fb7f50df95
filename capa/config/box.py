"""Where a box has its things, where nothing says otherwise."""

import tomllib
from pathlib import Path

from capa.errors import CapaError

__all__ = ["BOX_RUNTIME_DIR", "BOX_SETTINGS", "BOX_SPOOL", "sign_key_of_box"]

BOX_SETTINGS = Path("/etc/capad/capad.toml")
"""The daemon's settings; the tool ``capa`` shows and changes what the daemon goes by."""
BOX_RUNTIME_DIR = Path("/run/capad")
BOX_SPOOL = Path("/var/lib/capad/spool")


def sign_key_of_box(settings: Path) -> Path | None:
    """Return the key with which the daemon of a box signs bundles; None without one, or a box.

    Raises:
        CapaError: the settings are there and do not say.
    """
    try:
        runs = tomllib.loads(settings.read_text(encoding="utf-8")).get("runs", {})
        key = runs.get("sign_key")
        return None if key is None else settings.absolute().parent / key
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CapaError(f"{settings}: can't be read: {error}") from error
