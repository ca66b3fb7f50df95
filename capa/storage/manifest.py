"""``manifest.json``: what a bundle is, how its run ended, what it holds."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from capa.errors import BundleError
from capa.models import Frozen
from capa.storage.atomic import write_atomically
from capa.storage.entries import (
    ChainEntry,
    ChannelQuality,
    FileEntry,
    HoldQuality,
    RampQuality,
    RecorderStats,
    SignerEntry,
    StepEntry,
    VerdictEntry,
)
from capa.storage.events import metadata_json

__all__ = [
    "FORMAT_VERSION",
    "GUARD_FILE",
    "MANIFEST_FILE",
    "BundleStatus",
    "ChainEntry",
    "ChannelQuality",
    "FileEntry",
    "HoldQuality",
    "Manifest",
    "NewerFormatError",
    "RampQuality",
    "RecorderStats",
    "RunStatus",
    "SignerEntry",
    "StepEntry",
    "VerdictEntry",
    "manifest_bytes",
    "read_manifest",
    "salvaged_manifest",
    "versions",
    "write_manifest",
]

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
GUARD_FILE = "guard_verdicts.json"
"""The guardian's record, laid into the folder of an interrupted run before it is finalized."""

RunStatus = Literal["running", "completed", "aborted", "crashed"]
BundleStatus = Literal["open", "finalizing", "sealed", "verification_failed"]


_LONGEST_S = 9e9
"""What nanoseconds in 64 bits can tell."""


def _instant(at: datetime) -> datetime:
    """Take an instant without an offset for UTC, and refuse one that no run can be added to."""
    if not _FIRST_YEAR <= at.year < _LAST_YEAR:
        raise ValueError(f"{at.year} is not the year of a run")
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_Instant = Annotated[datetime, AfterValidator(_instant)]


class NewerFormatError(BundleError):
    """A bundle of a format that this version does not know: hands off."""


class Manifest(Frozen):
    """The whole manifest; ``custom`` takes what has no field of its own."""

    format_version: int = Field(default=FORMAT_VERSION, ge=1)
    run_id: str
    run_status: RunStatus = "running"
    bundle_status: BundleStatus = "open"
    exit_reason: str = ""
    created_utc: _Instant | None = None
    started_utc: _Instant | None = None
    ended_utc: _Instant | None = None
    sealed_utc: _Instant | None = None
    duration_s: float | None = Field(default=None, ge=0, le=_LONGEST_S)
    operator: dict[str, Any] | str | None = None
    sample: dict[str, Any] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    procedure: dict[str, Any] | str | None = None
    method: str | None = None
    profile: str | None = None
    source: str | None = None
    """The name of the file that asked for the run."""
    job: str | None = None
    """The job of the spool that it was; by this a recovery finds the run of a job."""
    authorization_id: str | None = None
    verdicts: dict[str, VerdictEntry] = Field(default_factory=dict)
    problems: tuple[dict[str, Any], ...] = ()
    settings: tuple[dict[str, Any], ...] = ()
    """What the instruments were set to when the run was armed, each against what was expected."""
    files: dict[str, FileEntry] = Field(default_factory=dict)
    quality: dict[str, ChannelQuality] = Field(default_factory=dict)
    steps: tuple[StepEntry, ...] = ()
    recorder: RecorderStats | None = None
    events_chain: ChainEntry | None = None
    signer: SignerEntry | None = None
    guard: dict[str, Any] | None = None
    """What ``capad-guard`` did after this run's daemon had died, as it wrote it down."""
    finalize_notes: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    custom: dict[str, Any] = Field(default_factory=dict)

    def merged(self, values: Mapping[str, Any]) -> "Manifest":
        """Return a manifest with these values; never fails for what they are.

        What has no field, or does not fit its field, is kept as it is under ``custom``: a run's
        outcome must not get lost over the shape of a detail.
        """
        plain = {key: _undress(value) for key, value in values.items()}
        known = {key: value for key, value in plain.items() if key in _FIELDS}
        custom = {key: value for key, value in plain.items() if key not in _FIELDS}
        base = self.model_dump()
        try:
            return Manifest.model_validate(_with_custom(base | known, custom))
        except ValidationError as error:
            misfits = {str(problem["loc"][0]) for problem in error.errors()}
        fitting = {key: value for key, value in known.items() if key not in misfits}
        custom |= {key: value for key, value in known.items() if key in misfits}
        return Manifest.model_validate(_with_custom(base | fitting, custom))


_FIELDS = frozenset(Manifest.model_fields)


def _with_custom(fields: dict[str, Any], custom: Mapping[str, Any]) -> dict[str, Any]:
    if not custom:
        return fields
    own = fields.get("custom")
    return fields | {"custom": (own if isinstance(own, dict) else {}) | _jsonable(custom)}


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(metadata_json(values))
    return result


def _undress(value: object) -> object:
    """Turn dataclasses (verdicts, problems) into dicts, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return _undress(asdict(value))
    if isinstance(value, Mapping):
        return {key: _undress(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_undress(item) for item in value)
    return value


def versions() -> dict[str, str]:
    """Return the versions that a bundle was made with."""
    try:
        capa = version("capa")
    except PackageNotFoundError:  # run from a source tree that was never installed
        capa = "unknown"
    return {"capa": capa, "python": platform.python_version(), "platform": platform.platform()}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a bundle.

    Raises:
        OSError: the disk refuses; the old one is still there.
    """
    write_atomically(folder / MANIFEST_FILE, manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return a manifest as it is written."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        BundleError: it is missing, unreadable, or of a format newer than this version knows.
    """
    path = folder / MANIFEST_FILE
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is not JSON ({error}); was it cut or edited?") from error
    found = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(found, int):
        _refuse_newer(path, found)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first, *more = error.errors(include_url=False)
        where = ".".join(map(str, first["loc"])) or "the whole of it"
        others = f" (and {len(more)} more)" if more else ""
        raise BundleError(f"{path}: is not a manifest: {where}: {first['msg']}{others}") from error
    _refuse_newer(path, manifest.format_version)
    return manifest


def salvaged_manifest(folder: Path) -> Manifest:
    """Return what fits of a manifest that is none; what does not fit its field is in ``custom``.

    Of one that is no JSON, nothing is left but the run's id, which the folder has.
    """
    bare = Manifest(run_id=folder.name)
    try:
        data = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return bare
    if not isinstance(data, dict):
        return bare
    return bare.merged({**data, "run_id": folder.name, "bundle_status": "finalizing"})


def _refuse_newer(path: Path, found: int) -> None:
    if found > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path}: has format {found}, this capa knows up to {FORMAT_VERSION}; use a newer capa"
        )
