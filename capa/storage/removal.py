"""Removing a bundle for good, and the record of it, ``runs/removed.jsonl``.

A bundle that is to go is verified, then renamed aside (``.RUN.removing-WHY``): that is the instant
at which it is gone. Its manifest goes last, after the record has its line, so that a kill leaves
something that tells what it is, and that ``clear_leftovers`` finishes. The order suits a full disk
too, on which not even a line of a record finds room before something was deleted.
"""

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from capa.clock import utc_now
from capa.errors import BundleError
from capa.storage.atomic import clear_temporaries, fsync_dir
from capa.storage.folder import is_unborn
from capa.storage.lock import FolderLock
from capa.storage.manifest import MANIFEST_FILE, Manifest, read_manifest
from capa.storage.verify import verify_bundle

__all__ = [
    "REMOVED_FILE",
    "Kept",
    "Removed",
    "Why",
    "clear_leftovers",
    "remove_bundle",
    "removed_runs",
]

REMOVED_FILE = "removed.jsonl"

Why = Literal["age", "space", "hand"]
"""Too old, the disk too full, or by hand."""

_ASIDE = re.compile(r"\.(?P<run>.+)\.removing-(?P<why>age|space|hand)")


@dataclass(frozen=True, slots=True)
class Removed:
    """A line of the record: what was removed, when, by whom, why, and what it had been.

    ``manifest_sha256`` is the sum of its ``manifest.json``: a copy of the bundle that is kept
    elsewhere is known by it.
    """

    run_id: str
    removed_utc: str
    why: Why
    by: str
    manifest_sha256: str
    size_bytes: int
    run_status: str = ""
    started_utc: str | None = None
    ended_utc: str | None = None
    operator: str = ""
    method: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A bundle that stays although its time has come, and why."""

    run_id: str
    reason: str


def remove_bundle(path: Path, *, why: Why, by: str, dry_run: bool = False) -> Removed | Kept:
    """Remove a sealed bundle that verifies, and nothing else; with ``dry_run`` only say so.

    Raises:
        OSError: it can't be renamed or deleted; what is done of it is finished by the next call
            of ``clear_leftovers``.
    """
    if path.is_symlink():
        return Kept(path.name, "it is a symbolic link: what it leads to is somebody else's")
    lock = FolderLock(path)
    if not lock.acquire():
        return Kept(path.name, "somebody has it in hand")
    try:
        reason = _not_whole(path)
        if reason is not None:
            return Kept(path.name, reason)
        if dry_run:
            return _told(path, path.name, why, by)
        aside = path.with_name(f".{path.name}.removing-{why}")
        path.rename(aside)
        fsync_dir(path.parent)
        return _finish(aside, path.name, why, by)
    finally:
        lock.release()


def clear_leftovers(runs_root: Path) -> list[str]:
    """Finish removals that a kill cut short, and delete what it left of unborn bundles.

    Returns what was done, in words; what can't be done just now is said in them, too. Nothing that
    was ever recorded into is touched but what had been verified and renamed aside.
    """
    said = []
    clear_temporaries(runs_root)
    with suppress(FileNotFoundError):
        for entry in sorted(runs_root.iterdir()):
            try:
                words = _clear(entry)
            except OSError as error:
                words = f"{entry}: left over, and can't be removed: {error.strerror}"
            if words is not None:
                said.append(words)
    return said


def removed_runs(runs_root: Path) -> list[Removed]:
    """Return the record, in the order of the removals; a line that a power cut tore is left out.

    Raises:
        BundleError: the record is there and can't be read.
    """
    path = runs_root / REMOVED_FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    found = []
    for line in lines:
        with suppress(ValueError, TypeError):
            found.append(Removed(**json.loads(line)))
    return found


def _not_whole(path: Path) -> str | None:
    """Return why a bundle must not be removed; None: it is sealed, and verifies just now."""
    problems = [problem for problem in verify_bundle(path) if problem.blocking]
    if not problems:
        return None
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"it does not verify: {problems[0]}{more}"


def _clear(entry: Path) -> str | None:
    if (match := _ASIDE.fullmatch(entry.name)) and entry.is_dir() and not entry.is_symlink():
        lock = FolderLock(entry)
        if not lock.acquire():
            return None  # somebody is at it
        try:
            _finish(entry, match["run"], cast("Why", match["why"]), "capad")
        finally:
            lock.release()
        return f"{match['run']}: its removal, which was cut short, was finished"
    if is_unborn(entry):
        lock = FolderLock(entry)
        if not lock.acquire():
            return None  # it is being made just now, by capa run
        try:
            shutil.rmtree(entry)
        finally:
            lock.release()
        return f"{entry.name}: a bundle that a kill kept from being made, without a record in it"
    return None


def _finish(aside: Path, run_id: str, why: Why, by: str) -> Removed:
    """Delete a bundle that was renamed aside, its manifest last, after the record has its line."""
    told = _told(aside, run_id, why, by)
    for entry in sorted(aside.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MANIFEST_FILE:
            entry.unlink()
    if told.manifest_sha256 and not _is_recorded(aside.parent, told):
        _append(aside.parent / REMOVED_FILE, told)
    (aside / MANIFEST_FILE).unlink(missing_ok=True)
    aside.rmdir()
    fsync_dir(aside.parent)
    return told


def _is_recorded(runs_root: Path, told: Removed) -> bool:
    """Whether a kill came between the line and the end of the manifest."""
    return any(
        (it.run_id, it.manifest_sha256) == (told.run_id, told.manifest_sha256)
        for it in removed_runs(runs_root)
    )


def _told(folder: Path, run_id: str, why: Why, by: str) -> Removed:
    """Say of a bundle what the record is to say; nothing but its name where no manifest is left."""
    try:
        data = (folder / MANIFEST_FILE).read_bytes()
        manifest = read_manifest(folder)
    except (FileNotFoundError, BundleError):
        data, manifest = b"", Manifest(run_id=run_id)
    return Removed(
        run_id=run_id,
        removed_utc=utc_now().isoformat(timespec="milliseconds"),
        why=why,
        by=by,
        manifest_sha256=hashlib.sha256(data).hexdigest() if data else "",
        size_bytes=sum(entry.size for entry in manifest.files.values()) + len(data),
        run_status=manifest.run_status,
        started_utc=_text(manifest.started_utc),
        ended_utc=_text(manifest.ended_utc),
        operator=_id(manifest.operator),
        method=manifest.method or "",
        job=manifest.job or "",
    )


def _text(at: Any) -> str | None:  # noqa: ANN401 - a datetime or None
    return None if at is None else str(at.isoformat())


def _id(value: dict[str, Any] | str | None) -> str:
    return str(value.get("id", "")) if isinstance(value, dict) else value or ""


def _append(path: Path, told: Removed) -> None:
    """Add a line, durably; one that was torn before it does not take it along."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        line = json.dumps(asdict(told), ensure_ascii=False).encode("utf-8", "backslashreplace")
        data = (b"\n" if torn else b"") + line + b"\n"
        if file.write(data) != len(data):
            raise OSError(28, "the disk is full", str(path))
        os.fsync(file.fileno())
    fsync_dir(path.parent)
