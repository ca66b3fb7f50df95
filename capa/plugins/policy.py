"""Which plug-ins may run here, and which file says so."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from capa.config.problems import Problem, ProblemsError

__all__ = [
    "BOX_SETTINGS",
    "LOCK_VARIABLE",
    "MODE_VARIABLE",
    "PluginMode",
    "PluginModeError",
    "Policy",
    "policy",
    "policy_here",
]

BOX_SETTINGS = Path("/etc/capad/capad.toml")
"""The daemon's settings; the tool ``capa`` shows and changes what the daemon goes by."""

MODE_VARIABLE = "CAPA_PLUGIN_MODE"
LOCK_VARIABLE = "CAPA_PLUGINS_LOCK"


class PluginMode(StrEnum):
    """``production`` runs only what the lock trusts; ``dev`` runs all and shows what differs."""

    PRODUCTION = "production"
    DEV = "dev"


class PluginModeError(ProblemsError):
    """A mode that there is not. It is never guessed: a slip must not turn the gate off."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The mode in force and the lock; None is no lock at all."""

    mode: PluginMode = PluginMode.DEV
    lock: Path | None = None


def policy(
    mode: str | None = None,
    lock: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Policy:
    """Settle mode and lock: the environment wins over what the settings say, ``dev`` is the rest.

    Raises:
        PluginModeError: the mode is neither ``production`` nor ``dev``.
    """
    environ = os.environ if environ is None else environ
    told = environ.get(MODE_VARIABLE) or None
    lock_told = environ.get(LOCK_VARIABLE) or None
    wanted = told or mode or PluginMode.DEV
    if wanted not in set(PluginMode):
        where = f"{MODE_VARIABLE}=" if told else "[plugins] mode = "
        message, hint = f"{where}{wanted!r} is no mode", "say 'production' or 'dev'"
        raise PluginModeError([Problem("plugins.mode", message, hint=hint)])
    return Policy(PluginMode(wanted), Path(lock_told) if lock_told else lock)


def policy_here(lock: Path | None = None, box_settings: Path = BOX_SETTINGS) -> Policy:
    """Settle mode and lock for a person at a shell.

    ``lock`` is what they said, and wins; else the environment, else the box's settings, else
    ``plugins.lock`` in the working directory, where there is no box.

    Raises:
        PluginModeError: the mode is none, or the box's settings can't be read.
    """
    mode, told = _of_box(box_settings)
    under = policy(mode, told or Path("plugins.lock"))
    return under if lock is None else Policy(under.mode, lock)


def _of_box(file: Path) -> tuple[str | None, Path | None]:
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("plugins", {})
        mode, lock = table.get("mode", PluginMode.PRODUCTION), table.get("lock")
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, AttributeError) as error:
        problem = Problem("plugins.settings", str(error), file=str(file), hint="see capad --check")
        raise PluginModeError([problem]) from error
    beside = file.with_name("plugins.lock")
    return mode, (file.parent / lock if isinstance(lock, str) else beside)
