"""After a start: what the last daemon left behind, put where it belongs. Nothing is run again."""

import errno
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

import trio
from structlog.typing import FilteringBoundLogger

from capa.errors import BundleError
from capa.storage.atomic import write_atomically
from capa.storage.finalize import FinalizeResult, finalize_in_child
from capa.storage.inflight import INFLIGHT_FILE
from capa.storage.lock import FolderLock
from capa.storage.manifest import GUARD_FILE, MANIFEST_FILE, Manifest, read_manifest
from capa.storage.removal import clear_leftovers
from capa.storage.sums import SUMS_FILE
from capad.aftermath import rungs_after
from capad.guarding import GuardReport
from capad.jobs import Job, JobState
from capad.reports import NO_WORD, NOT_LAID_IN, Report, interrupted, unread_word
from capad.spool_folders import SpoolFolders

__all__ = ["recover"]

_UNFINISHED = ("open", "finalizing")
_NEWEST = 50
"""Bundles looked at for the one of a job that does not name it."""
_LONGEST_WHY = 300
_A_LOOK_S = 0.2
"""For how long ``capa bundle show`` may have a bundle in hand, amply."""


async def recover(
    folders: SpoolFolders,
    runs_root: Path,
    *,
    guard: GuardReport | None,
    unread: str = "",
    log: FilteringBoundLogger,
    sign_key: Path | None = None,
) -> list[Report]:
    """Seal the bundles of interrupted runs and settle their jobs; return the jobs' reports.

    ``guard`` is what the guardian last left: it goes into the bundles of the runs it came after.
    ``unread`` says why that can't be read, if it is there and can't.
    With ``sign_key`` they are signed as any other. What a kill left of a bundle that was being
    made, or of one that was being removed, goes first.

    Raises:
        OSError: the spool can't be read or written just now; try again later.
    """
    if guard is not None:
        (log.info if guard.proven else log.error)("guard.verdicts", message=str(guard))
    if unread:
        log.error("guard.unreadable", message=f"what capad-guard left can't be read: {unread}")
    for words in await trio.to_thread.run_sync(clear_leftovers, runs_root):
        log.warning("runs.leftover", message=words)
    sealed: dict[Path, FinalizeResult] = {}
    for path in await trio.to_thread.run_sync(lambda: list(_unfinished(runs_root))):
        if guard is not None:
            await _lay_in(path, guard, log)
        sealed[path] = await _seal(path, log, sign_key)
    jobs = await trio.to_thread.run_sync(lambda: list(folders.jobs(JobState.ACTIVE)))
    reports = []
    for job in jobs:
        found = await trio.to_thread.run_sync(_bundle_of, job, runs_root)
        if found is not None and found not in sealed:  # what is sealed already it verifies
            sealed[found] = await finalize_in_child(found, sign_key=sign_key)
        result = None if found is None else sealed[found]
        report = await trio.to_thread.run_sync(_report, job, found, result, guard, unread)
        await trio.to_thread.run_sync(_settle, folders, job, report)
        log.warning("job.interrupted", job=job.id, message=report.summary)
        reports.append(report)
    return reports


def _unfinished(runs_root: Path) -> Iterator[Path]:
    """Yield the bundles that no daemon got to seal, those of a damaged manifest included."""
    for path in _bundles(runs_root):
        try:
            status = read_manifest(path).bundle_status
            unsummed = status == "sealed" and not (path / SUMS_FILE).is_file()
            unfinished = status in _UNFINISHED or unsummed
        except BundleError:
            unfinished = (path / INFLIGHT_FILE).exists()
        if unfinished:
            yield path


def _bundles(runs_root: Path) -> list[Path]:
    """Return what looks like a bundle, oldest first; hidden folders are none (yet, any more)."""
    names = (MANIFEST_FILE, INFLIGHT_FILE)
    found = {path.parent for name in names for path in runs_root.glob(f"*/{name}")}
    return sorted(path for path in found if not path.name.startswith("."))


async def _lay_in(path: Path, guard: GuardReport, log: FilteringBoundLogger) -> None:
    """Put the guardian's record beside the run that it made safe, unless that run came later.

    A folder that belongs to somebody else (of ``capa run``, by another user) stops nothing.
    """
    try:
        await trio.to_thread.run_sync(_lay_in_now, path, guard)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{path}: the guardian's verdicts can't be put into it: {error.strerror}"
        log.error("bundle.not_written", bundle=str(path), message=message)  # noqa: TRY400 - no bug


def _lay_in_now(path: Path, guard: GuardReport) -> None:
    """Write the record, unless the list of the bundle's files is made: it would be a stranger."""
    lock = FolderLock(path)
    if not lock.acquire_within(_A_LOOK_S):
        return  # it is recorded, or sealed, just now
    try:
        manifest = _manifest(path)
        if manifest is None or not _is_open(path, manifest):
            return
        if _came_after(manifest, guard):
            write_atomically(path / GUARD_FILE, guard.text)
    finally:
        lock.release()


def _came_after(manifest: Manifest, guard: GuardReport) -> bool:
    began = manifest.started_utc or manifest.created_utc
    return began is not None and began <= guard.started_utc


def _is_open(path: Path, manifest: Manifest) -> bool:
    return manifest.bundle_status in _UNFINISHED and not (path / SUMS_FILE).is_file()


def _is_sealed(path: Path, manifest: Manifest) -> bool:
    return manifest.bundle_status == "sealed" and (path / SUMS_FILE).is_file()


async def _seal(path: Path, log: FilteringBoundLogger, sign_key: Path | None) -> FinalizeResult:
    result = await finalize_in_child(path, sign_key=sign_key)
    if result.sealed:
        log.warning("bundle.recovered", bundle=str(path), message=result.detail)
    else:
        status, why = result.bundle_status, result.detail
        log.error("bundle.not_recovered", bundle=str(path), bundle_status=status, message=why)
    return result


def _run_of(job: Job, runs_root: Path) -> str | None:
    """Return the run that names the job: a kill may come before the job names the run."""
    for path in _bundles(runs_root)[: -_NEWEST - 1 : -1]:
        manifest = _manifest(path)
        if manifest is not None and manifest.job == job.id:
            return manifest.run_id
    return None


def _bundle_of(job: Job, runs_root: Path) -> Path | None:
    """Return the folder that a job's run was recorded in, if it had begun to."""
    run_id = job.run_id or _run_of(job, runs_root)
    return None if run_id is None else runs_root / run_id


def _report(
    job: Job,
    path: Path | None,
    result: FinalizeResult | None,
    guard: GuardReport | None,
    unread: str,
) -> Report:
    """Say what became of an interrupted job; only a bundle that was sealed can say it was done.

    One that does not verify can't. One that nobody could look at just now (somebody has it in
    hand, it takes too long) was verified when it was sealed, and is no reason to hold the queue.
    """
    if path is None or result is None:
        return interrupted(job, "it had not begun to record")
    manifest = _manifest(path)
    if manifest is None:
        return interrupted(job, f"its bundle {path} can't be read")
    if manifest.run_status == "completed" and result.sealed:
        summary = "completed and sealed; the daemon ended before it could say so"
        return Report(job, JobState.DONE, summary, advice=(f"Bundle: {path}",))
    why = f" ({shorten(result.detail, _LONGEST_WHY)})" if result.detail else ""
    unverified = result.bundle_status in _UNFINISHED and _is_sealed(path, manifest)
    if manifest.run_status == "completed" and unverified:
        summary = f"completed and sealed; not verified again since the daemon ended{why}"
        advice = (f"Bundle: {path}", f"To verify it: capa bundle verify {path}")
        return Report(job, JobState.DONE, summary, advice=advice)
    status = "sealed, not verified again" if unverified else result.bundle_status
    detail = f"bundle {path}: {manifest.run_status}, {status}{'' if result.sealed else why}"
    acted = guard if guard is not None and _came_after(manifest, guard) else None
    if acted is not None:
        detail += f"; {acted}"
    words = ""
    if manifest.guard is None:
        words = NOT_LAID_IN if acted else unread_word(unread) if unread else NO_WORD
    return interrupted(job, detail, rungs_after(path, acted), guard=words)


def _settle(folders: SpoolFolders, job: Job, report: Report) -> None:
    folders.report(job, report.as_json(), report.as_text())
    try:
        folders.move(job, report.outcome, report.summary)
    except OSError:
        if folders.found_in(job, report.outcome) is None:
            raise


def _manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except (OSError, BundleError):
        return None
