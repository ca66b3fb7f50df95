"""What the daemon is told: ``capad.toml`` and the flags that win over it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from capa.config.box import (
    BOX_PLUGINS_LOCK,
    BOX_PROFILE,
    BOX_RUNS,
    BOX_RUNTIME_DIR,
    BOX_SETTINGS,
    BOX_SPOOL,
    anchored,
)
from capa.config.explain import explain
from capa.config.problems import ProblemsError
from capa.config.reading import decode_text, parse_toml, read_bytes
from capa.config.safety import NextRun
from capa.models import Frozen, Number, Whole
from capa.plugins.policy import IMPORT_DEADLINE_S

__all__ = [
    "KeepSettings",
    "PluginSettings",
    "RigSettings",
    "RunSettings",
    "RuntimeSettings",
    "SafetySettings",
    "Settings",
    "SpoolSettings",
    "load_settings",
    "settings_text",
]


class RigSettings(Frozen):
    """Which rig this box is wired to."""

    profile: Path = BOX_PROFILE


class SpoolSettings(Frozen):
    """Where jobs are dropped, and who may drop what."""

    root: Path = BOX_SPOOL
    settle_s: float = Field(default=0.25, gt=0, le=60)
    rescan_s: float = Field(default=5.0, ge=0.5, le=3600)
    max_bytes: int = Field(default=1024 * 1024, gt=0)
    owners: tuple[str, ...] = ()
    """User names (or numeric ids) whose files are run; empty: anybody who may write there."""


class KeepSettings(Frozen):
    """How long bundles stay; without a limit, for ever. See ``capa.storage.retention``."""

    max_age_days: Number | None = Field(default=None, gt=0)
    """Runs that ended longer ago, and so long before the newest one, go."""
    min_free_gb: Number | None = Field(default=None, gt=0)
    """The oldest go while their disk has less than this (10^9 bytes) free."""
    min_runs: Whole = Field(default=10, ge=1)
    """So many of the newest stay, whatever their age and the disk."""


class RunSettings(Frozen):
    """Where bundles go, how long they stay, and whose key signs them."""

    root: Path = BOX_RUNS
    sign_key: Path | None = None
    """An Ed25519 key as ``ssh-keygen`` makes them; without one, bundles are not signed."""
    keep: KeepSettings = KeepSettings()


class RuntimeSettings(Frozen):
    """Where what outlives a restart, but not a boot, is kept."""

    dir: Path = BOX_RUNTIME_DIR


class PluginSettings(Frozen):
    """Which procedures are trusted."""

    mode: Literal["production", "dev"] = "production"
    lock: Path = BOX_PLUGINS_LOCK
    import_deadline_s: Number = Field(default=IMPORT_DEADLINE_S, gt=0, le=600)
    """What importing one of them may take; one that takes longer is left out."""


class SafetySettings(Frozen):
    """How long things may take when a run ends."""

    grace_s: float = Field(default=10.0, gt=0)
    """What a stopped procedure has to return by itself before it is cancelled."""
    safing_budget_s: float = Field(default=5.0, gt=0)
    """What driving and proving the first stage of the safe state may take."""
    next_run_may_start: NextRun = "after_last_stage"
    """Whether the next run waits for the last stage of the safe state; a profile may say other."""


class Settings(Frozen):
    """Everything in ``capad.toml``; each key has a default that suits a box."""

    rig: RigSettings = RigSettings()
    spool: SpoolSettings = SpoolSettings()
    runs: RunSettings = RunSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    plugins: PluginSettings = PluginSettings()
    safety: SafetySettings = SafetySettings()


def load_settings(path: Path | None, flags: Mapping[str, Path | None]) -> Settings:
    """Read the file and lay the flags over it.

    ``path`` None takes the box's own file, if there is one. ``flags`` are by dotted key
    (``"spool.root"``); None stands for a flag that was not given. Relative paths in the file are
    relative to the file, those in flags to the working directory.

    Raises:
        ProblemsError: everything that is wrong with the file.
    """
    if path is None and not BOX_SETTINGS.exists():
        settings = Settings()
    else:
        settings = _read(BOX_SETTINGS if path is None else path)
    for key, value in flags.items():
        if value is not None:
            table, name = key.split(".")
            part = getattr(settings, table).model_copy(update={name: value.absolute()})
            settings = settings.model_copy(update={table: part})
    return settings


def settings_text(settings: Settings) -> str:
    """Return the settings in force as one ``table.key = value`` a line."""
    lines = []
    for table, keys in settings.model_dump(mode="json").items():
        lines += _lines(table, keys)
    return "\n".join(lines)


def _lines(table: str, keys: Mapping[str, object]) -> list[str]:
    lines = []
    for key, value in keys.items():
        name = f"{table}.{key}"
        lines += _lines(name, value) if isinstance(value, dict) else [f"{name} = {value!r}"]
    return lines


def _read(path: Path) -> Settings:
    source = parse_toml(decode_text(read_bytes(path), file=str(path)), file=str(path))
    try:
        settings = Settings.model_validate(source.data)
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), source, Settings, area="settings")
        raise ProblemsError(problems) from None
    return _anchored(settings, path.absolute().parent)


def _anchored(settings: Settings, folder: Path) -> Settings:
    """Make every relative path relative to the file's folder."""
    tables: dict[str, BaseModel] = {}
    for name, table in settings:
        paths = {key: anchored(folder, value) for key, value in table if isinstance(value, Path)}
        tables[name] = table.model_copy(update=paths)
    return settings.model_copy(update=tables)
