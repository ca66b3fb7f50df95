"""After a start: what the last daemon left behind, put where it belongs. Nothing is run again."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from capa.errors import BundleError
from capa.storage.atomic import write_atomically
from capa.storage.finalize import finalize_in_child
from capa.storage.manifest import GUARD_FILE, MANIFEST_FILE, Manifest, read_manifest
from capad.aftermath import rungs_after
from capad.guarding import GuardReport
from capad.jobs import Job, JobState
from capad.reports import Report, interrupted
from capad.spool_folders import SpoolFolders

__all__ = ["recover"]

_UNFINISHED = ("open", "finalizing")
_NEWEST = 50
"""Bundles looked at for the one of a job that does not name it."""


async def recover(
    folders: SpoolFolders,
    runs_root: Path,
    *,
    guard: GuardReport | None,
    log: FilteringBoundLogger,
) -> list[Report]:
    """Seal the bundles of interrupted runs and settle their jobs; return the jobs' reports.

    ``guard`` is what the guardian last left: it goes into the bundles of the runs it came after.

    Raises:
        OSError: the spool can't be read or written just now; try again later.
    """
    if guard is not None:
        (log.info if guard.proven else log.error)("guard.verdicts", message=str(guard))
    for path in await trio.to_thread.run_sync(lambda: list(_unfinished(runs_root))):
        if guard is not None:
            await trio.to_thread.run_sync(_lay_in, path, guard)
        await _seal(path, log)
    jobs = await trio.to_thread.run_sync(lambda: list(folders.jobs(JobState.ACTIVE)))
    reports = []
    for job in jobs:
        report = await trio.to_thread.run_sync(_report, job, runs_root, guard)
        await trio.to_thread.run_sync(_settle, folders, job, report)
        log.warning("job.interrupted", job=job.id, message=report.summary)
        reports.append(report)
    return reports


def _unfinished(runs_root: Path) -> Iterator[Path]:
    """Yield the bundles that no daemon got to seal."""
    for manifest in sorted(runs_root.glob(f"*/{MANIFEST_FILE}")):
        found = _manifest(manifest.parent)
        if found is not None and found.bundle_status in _UNFINISHED:
            yield manifest.parent


def _lay_in(path: Path, guard: GuardReport) -> None:
    """Put the guardian's record beside the run that it made safe, unless that run came later."""
    began = _began(path)
    if began is not None and began <= guard.started_utc:
        write_atomically(path / GUARD_FILE, guard.text)


def _began(path: Path) -> datetime | None:
    manifest = _manifest(path)
    return None if manifest is None else manifest.started_utc or manifest.created_utc


async def _seal(path: Path, log: FilteringBoundLogger) -> None:
    try:
        status = (await finalize_in_child(path)).bundle_status
    except (OSError, BundleError) as error:
        log.warning("bundle.not_recovered", bundle=str(path), message=str(error))
        return
    log.warning("bundle.recovered", bundle=str(path), bundle_status=status)


def _run_of(job: Job, runs_root: Path) -> str | None:
    """Return the run that names the job: a kill may come before the job names the run."""
    for path in sorted(runs_root.glob(f"*/{MANIFEST_FILE}"), reverse=True)[:_NEWEST]:
        manifest = _manifest(path.parent)
        if manifest is not None and manifest.job == job.id:
            return manifest.run_id
    return None


def _report(job: Job, runs_root: Path, guard: GuardReport | None) -> Report:
    """Say what became of an interrupted job; only its sealed bundle can say that it was done."""
    run_id = job.run_id or _run_of(job, runs_root)
    if run_id is None:
        return interrupted(job, "it had not begun to record")
    path = runs_root / run_id
    manifest = _manifest(path)
    if manifest is None:
        return interrupted(job, f"its bundle {path} can't be read")
    if (manifest.run_status, manifest.bundle_status) == ("completed", "sealed"):
        summary = "completed and sealed; the daemon ended before it could say so"
        return Report(job, JobState.DONE, summary, advice=(f"Bundle: {path}",))
    detail = f"bundle {path}: {manifest.run_status}, {manifest.bundle_status}"
    acted = guard if manifest.guard is not None else None
    if acted is not None:
        detail += f"; {acted}"
    return interrupted(job, detail, rungs_after(path, acted))


def _settle(folders: SpoolFolders, job: Job, report: Report) -> None:
    folders.report(job, report.as_json(), report.as_text())
    folders.move(job, report.outcome, report.summary)


def _manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except (OSError, BundleError):
        return None
