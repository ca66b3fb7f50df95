"""Finalizing: from whatever a run left in its folder to a sealed bundle.

A pure function of the folder, and idempotent: each step either leaves its result in place, whole,
or can be done again, so that it may be killed at any point and started anew. Nothing is removed
before what replaces it has been written, fsynced and read back.
"""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from capa.clock import utc_now
from capa.config.problems import Problem
from capa.errors import BundleError
from capa.storage.atomic import fsync_dir, fsync_file, is_leftover, write_atomically
from capa.storage.finalize import FinalizeResult
from capa.storage.inflight import (
    EVENTS_FILE,
    INFLIGHT_FILE,
    connect_for_reading,
    create_events,
    create_samples,
    wal_of,
)
from capa.storage.lock import FolderLock
from capa.storage.manifest import (
    GUARD_FILE,
    MANIFEST_FILE,
    FileEntry,
    Manifest,
    NewerFormatError,
    read_manifest,
    write_manifest,
)
from capa.storage.salvage import EVIDENCE_DIR, keep_evidence, resume_salvage, salvage
from capa.storage.scalars import SCALARS_FILE, check_scalars, write_scalars
from capa.storage.sums import SUMS_FILE, content_files, format_sums, sha256_of, strangers
from capa.storage.verify import verify_bundle, verify_contents

__all__ = ["finalize_bundle"]

LOCK_TIMEOUT_S = 10.0
INTERRUPTED = "interrupted: whatever recorded this run ended without closing it"


@dataclass
class _Work:
    """One finalizing: the folder, the manifest as it grows, what is to be said about it."""

    path: Path
    manifest: Manifest
    notes: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    last_ns: int = 0

    def update(self, **values: Any) -> None:  # noqa: ANN401 - the manifest checks them
        self.manifest = Manifest.model_validate(self.manifest.model_dump() | values)


def finalize_bundle(path: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> FinalizeResult:
    """Seal the bundle in ``path``; one that is sealed already is verified and left alone.

    A run that is still ``running`` in the manifest, and that nobody holds, was interrupted: it
    becomes ``crashed``. What stops it is returned in words, and a later call goes on from there.
    """
    if not any((path / name).exists() for name in (MANIFEST_FILE, EVENTS_FILE, INFLIGHT_FILE)):
        return FinalizeResult("open", f"{path}: is not a bundle; nothing was touched")
    lock = FolderLock(path)
    try:
        if not _acquire(lock, lock_timeout_s):
            return FinalizeResult("open", f"{path}: somebody else has this bundle in hand")
        return _finalize(path)
    except NewerFormatError as error:
        return FinalizeResult("open", str(error))
    except (OSError, sqlite3.Error, pa.ArrowException, BundleError) as error:
        return FinalizeResult("finalizing", f"{path}: {type(error).__name__}: {error}")
    finally:
        lock.release()


def _acquire(lock: FolderLock, timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not lock.acquire():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.05)
    return True


def _finalize(path: Path) -> FinalizeResult:
    work = _begin(path)
    if work.manifest.bundle_status == "sealed":
        return _again(work)
    if work.manifest.bundle_status == "verification_failed":
        return FinalizeResult("verification_failed", "; ".join(work.manifest.finalize_notes))
    _remove_leftovers(path)
    _settle_outcome(work)
    _finish_events(work)
    _finish_scalars(work)
    _close_times(work)
    return _seal(work)


def _begin(path: Path) -> _Work:
    """Read the manifest; one that cannot be read is put aside, and made anew from what is here."""
    try:
        return _Work(path, read_manifest(path))
    except NewerFormatError:
        raise
    except BundleError as error:
        work = _Work(path, Manifest(run_id=path.name))
        work.notes.append(f"the manifest was made anew: {error}")
    if (path / MANIFEST_FILE).exists():
        keep_evidence(path / MANIFEST_FILE)
    return work


def _again(work: _Work) -> FinalizeResult:
    """Verify what is sealed; only the sums may be missing, after a kill between the last writes."""
    if not (work.path / SUMS_FILE).exists() and not any(
        problem.blocking for problem in verify_contents(work.path, work.manifest)
    ):
        _write_sums(work)
    problems = _blocking(work.path)
    if problems:
        return FinalizeResult("verification_failed", "; ".join(map(str, problems)))
    return FinalizeResult("sealed", "was sealed already, and verifies")


def _remove_leftovers(path: Path) -> None:
    for item in path.iterdir():
        if is_leftover(item.name) and item.is_file() and not item.is_symlink():
            item.unlink()
    (path / SUMS_FILE).unlink(missing_ok=True)


def _settle_outcome(work: _Work) -> None:
    """Decide how the run ended, and write it down before anything else."""
    if work.manifest.run_status == "running":
        work.update(run_status="crashed", exit_reason=INTERRUPTED)
    _take_guard_record(work)
    work.notes = [*work.manifest.finalize_notes, *work.notes]
    work.update(bundle_status="finalizing", finalize_notes=tuple(dict.fromkeys(work.notes)))
    write_manifest(work.path, work.manifest)


def _take_guard_record(work: _Work) -> None:
    """Take what the guardian wrote into the manifest; the file itself stays as it is."""
    try:
        record = json.loads((work.path / GUARD_FILE).read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        work.notes.append(f"{GUARD_FILE} can't be read: {error}")
        return
    if isinstance(record, dict):
        work.update(guard=record)


def _as_single_file(path: Path, create: Callable[[sqlite3.Connection], None]) -> None:
    """Bring the WAL into the database, so that the one file holds everything."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        create(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        if mode != "delete":
            raise BundleError(f"{path}: stays in mode {mode}; does another program hold it open?")
    fsync_file(path)
    fsync_dir(path.parent)


def _check(path: Path) -> None:
    """Look for damage, without changing anything.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    with closing(connect_for_reading(path)) as connection:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _repaired(work: _Work, name: str, create: Callable[[sqlite3.Connection], None]) -> Path:
    """Return the path of a database in one sound file, salvaged if need be."""
    path = work.path / name
    resume_salvage(path)
    if wal_of(path).exists() and not (path.exists() and path.stat().st_size):
        # SQLite would take such a log for a leftover, and delete it.
        work.notes.append(f"{name} was missing beside its log, which is kept in {EVIDENCE_DIR}/")
        keep_evidence(path)
    try:
        if path.exists():
            _check(path)
    except sqlite3.OperationalError:  # locked, read-only, full: not damage
        raise
    except sqlite3.DatabaseError:
        work.notes.append(salvage(path))
    _as_single_file(path, create)
    return path


def _finish_events(work: _Work) -> None:
    missing = not (work.path / EVENTS_FILE).exists()
    path = _repaired(work, EVENTS_FILE, create_events)
    if missing:
        work.notes.append(f"{EVENTS_FILE} was missing; this one is empty")
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT count(*), coalesce(max(t_mono_ns), 0) FROM events"
        work.rows[EVENTS_FILE], last_ns = connection.execute(query).fetchone()
    work.last_ns = max(work.last_ns, last_ns)


def _finish_scalars(work: _Work) -> None:
    """Turn the samples into Parquet; the original goes once the result has been read back."""
    target, source = work.path / SCALARS_FILE, work.path / INFLIGHT_FILE
    resume_salvage(source)
    if not source.exists() and target.exists():  # killed after the original was removed
        work.rows[SCALARS_FILE], _ = check_scalars(target)
    else:
        if not source.exists():
            work.notes.append(f"{INFLIGHT_FILE} was missing: there are no samples")
        path = _repaired(work, INFLIGHT_FILE, create_samples)
        _convert(work, path, target)
        path.unlink(missing_ok=True)
        fsync_dir(work.path)
    last = [q.last_ns for q in work.manifest.quality.values() if q.last_ns is not None]
    work.last_ns = max(work.last_ns, *last, 0)


def _convert(work: _Work, source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.capa-tmp")
    with closing(sqlite3.connect(source)) as connection:
        quality = write_scalars(
            connection, temporary, anchor_utc=_anchor(work, connection), run_id=work.manifest.run_id
        )
        (expected,) = connection.execute("SELECT coalesce(sum(n), 0) FROM batches").fetchone()
    fsync_file(temporary)
    rows, _ = check_scalars(temporary)
    if rows != sum(entry.samples for entry in quality.values()):
        raise BundleError(f"{temporary}: reads back {rows} rows, not what was written")
    if rows != expected:
        work.notes.append(f"{expected - rows} samples of damaged batches could not be read")
    temporary.replace(target)
    fsync_dir(target.parent)
    work.rows[SCALARS_FILE] = rows
    work.update(quality={name: entry.model_dump() for name, entry in quality.items()})
    work.update(finalize_notes=tuple(work.notes))
    write_manifest(work.path, work.manifest)
    if rows != expected:
        keep_evidence(source)


def _anchor(work: _Work, connection: sqlite3.Connection) -> datetime:
    """Return the instant from which times count: the manifest's, else the recorder's own note."""
    if work.manifest.started_utc is None:
        row = connection.execute("SELECT value FROM meta WHERE key = 'anchor_utc'").fetchone()
        if row is None:
            work.notes.append("the time of the start is lost: t_utc counts from the recovery")
        work.update(started_utc=datetime.fromisoformat(row[0]) if row else utc_now())
    anchor = work.manifest.started_utc
    if anchor is None:
        raise BundleError(f"{work.path}: no time of start")
    return anchor


def _close_times(work: _Work) -> None:
    """Give an interrupted run the time of its last record as its end."""
    started = work.manifest.started_utc
    if work.manifest.ended_utc is None and started is not None:
        ended = started + timedelta(microseconds=work.last_ns / 1000)
        work.update(ended_utc=ended, duration_s=work.last_ns / 1e9)


def _seal(work: _Work) -> FinalizeResult:
    work.notes += [f"{name} {words}; left out" for name, words in strangers(work.path).items()]
    files = {
        name: FileEntry(
            sha256=sha256_of(file), size=file.stat().st_size, rows=work.rows.get(name)
        ).model_dump()
        for name, file in content_files(work.path).items()
    }
    work.update(
        files=files,
        bundle_status="sealed",
        sealed_utc=utc_now(),
        finalize_notes=tuple(dict.fromkeys(work.notes)),
    )
    write_manifest(work.path, work.manifest)
    _write_sums(work)
    problems = _blocking(work.path)
    if not problems:
        return FinalizeResult("sealed", "; ".join(work.notes))
    words = "; ".join(map(str, problems))
    work.notes.append(f"did not verify after sealing: {words}")
    work.update(bundle_status="verification_failed", finalize_notes=tuple(work.notes))
    write_manifest(work.path, work.manifest)
    (work.path / SUMS_FILE).unlink(missing_ok=True)
    return FinalizeResult("verification_failed", words)


def _blocking(path: Path) -> list[Problem]:
    return [problem for problem in verify_bundle(path) if problem.blocking]


def _write_sums(work: _Work) -> None:
    sums = {name: entry.sha256 for name, entry in work.manifest.files.items()}
    sums[MANIFEST_FILE] = sha256_of(work.path / MANIFEST_FILE)
    write_atomically(work.path / SUMS_FILE, format_sums(sums))
