"""Which plug-ins may run here, and which file says so."""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from capa.config.box import BOX_SETTINGS
from capa.config.problems import Problem, ProblemsError

__all__ = [
    "DEADLINE_VARIABLE",
    "IMPORT_DEADLINE_S",
    "LOCK_VARIABLE",
    "MODE_VARIABLE",
    "PluginMode",
    "PluginModeError",
    "Policy",
    "policy",
    "policy_here",
]

MODE_VARIABLE = "CAPA_PLUGIN_MODE"
LOCK_VARIABLE = "CAPA_PLUGINS_LOCK"
DEADLINE_VARIABLE = "CAPA_PLUGIN_IMPORT_DEADLINE_S"

IMPORT_DEADLINE_S = 10.0
"""What importing one plug-in may take: numpy and scipy on a slow disk need some, a hang all."""


class PluginMode(StrEnum):
    """``production`` runs only what the lock trusts; ``dev`` runs all and shows what differs."""

    PRODUCTION = "production"
    DEV = "dev"


class PluginModeError(ProblemsError):
    """A mode that there is not. It is never guessed: a slip must not turn the gate off."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The mode in force, the lock (None is no lock at all), and what one import may take."""

    mode: PluginMode = PluginMode.DEV
    lock: Path | None = None
    import_deadline_s: float = IMPORT_DEADLINE_S


def policy(
    mode: str | None = None,
    lock: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    import_deadline_s: float | None = None,
) -> Policy:
    """Settle it all: the environment wins over what the settings say, ``dev`` is the rest.

    Raises:
        PluginModeError: the mode is neither ``production`` nor ``dev``, or the deadline none.
    """
    environ = os.environ if environ is None else environ
    told = environ.get(MODE_VARIABLE) or None
    lock_told = environ.get(LOCK_VARIABLE) or None
    wanted = told or mode or PluginMode.DEV
    if wanted not in set(PluginMode):
        where = f"{MODE_VARIABLE}=" if told else "[plugins] mode = "
        message, hint = f"{where}{wanted!r} is no mode", "say 'production' or 'dev'"
        raise PluginModeError([Problem("plugins.mode", message, hint=hint)])
    deadline_s = _deadline(environ.get(DEADLINE_VARIABLE), import_deadline_s)
    return Policy(PluginMode(wanted), Path(lock_told) if lock_told else lock, deadline_s)


def _deadline(told: str | None, set_s: object) -> float:
    """Return the deadline in force, in seconds; like the mode it is never guessed."""
    if not told and set_s is None:
        return IMPORT_DEADLINE_S
    try:
        deadline_s = float(told or str(set_s))
    except ValueError:
        deadline_s = math.nan
    if 0 < deadline_s < math.inf:
        return deadline_s
    where = f"{DEADLINE_VARIABLE}={told!r}" if told else f"[plugins] import_deadline_s = {set_s!r}"
    message, hint = f"{where} is no time", "write it in seconds, as in 30"
    raise PluginModeError([Problem("plugins.import_deadline", message, hint=hint)])


def policy_here(lock: Path | None = None, box_settings: Path = BOX_SETTINGS) -> Policy:
    """Settle them for a person at a shell.

    ``lock`` is what they said, and wins; else the environment, else the box's settings, else
    ``plugins.lock`` in the working directory, where there is no box.

    Raises:
        PluginModeError: the mode is none, or the box's settings can't be read.
    """
    mode, told, deadline_s = _of_box(box_settings)
    under = policy(mode, told or Path("plugins.lock"), import_deadline_s=deadline_s)
    return under if lock is None else replace(under, lock=lock)


def _of_box(file: Path) -> tuple[str | None, Path | None, float | None]:
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("plugins", {})
        mode, lock = table.get("mode", PluginMode.PRODUCTION), table.get("lock")
        deadline_s = table.get("import_deadline_s")
    except FileNotFoundError:
        return None, None, None
    except (OSError, ValueError, AttributeError) as error:
        problem = Problem("plugins.settings", str(error), file=str(file), hint="see capad --check")
        raise PluginModeError([problem]) from error
    beside = file.with_name("plugins.lock")
    return mode, (file.parent / lock if isinstance(lock, str) else beside), deadline_s
