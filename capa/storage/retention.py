"""Which bundles are to go: by age, and by the free space of their disk; the oldest first.

Nothing here trusts a clock alone, because one that is wrong by a year would make everything old.
*Old* is counted back from the newest run, and from now where that is earlier; and which bundle is
older than which must be so by date and by the number of the job, which no clock makes. The first
that is not to go yet ends the pass. What is to go is removed by ``capa.storage.removal``, only if
it verifies just then.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from capa.storage.catalog import RunRow, catalogued
from capa.storage.removal import Kept, Removed, Why, remove_bundle

__all__ = ["KEEP_TAG", "Failed", "Limits", "Outcome", "oldest_first", "pin_file", "prune"]

KEEP_TAG = "keep"
"""A run whose experiment has this tag is never removed."""
_PIN = ".keep"
_NUMBER = re.compile(r"(\d{6,})-")
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Limits:
    """How long bundles stay; None sets no limit. The newest ``min_runs`` (at least one) stay."""

    max_age_days: float | None = None
    min_free_gb: float | None = None
    min_runs: int = 1


@dataclass(frozen=True, slots=True)
class Failed:
    """A bundle that could not be removed, and what the system said."""

    run_id: str
    reason: str


Outcome = Removed | Kept | Failed


def pin_file(runs_root: Path, run: str) -> Path:
    """Return the file whose presence keeps a run for good; beside the bundle, which is sealed."""
    return runs_root / f"{run}{_PIN}"


def prune(
    runs_root: Path,
    limits: Limits,
    *,
    by: str,
    now_utc: datetime,
    at_most: int | None = None,
    dry_run: bool = False,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> Iterator[Outcome]:
    """Remove what is to go, and yield what became of each; also of what must stay all the same.

    Args:
        runs_root: the bundles' folder.
        limits: what is to go.
        by: who removes, for the record.
        now_utc: the wall time.
        at_most: how many to remove; None for all.
        dry_run: only say what would be done.
        free_bytes: measures the disk.

    Raises:
        BundleError: the folder can't be read.
        OSError: the disk can't be measured.
    """
    rows = oldest_first(catalogued(runs_root))
    stay = _newest(rows, max(1, limits.min_runs))
    before = _age_limit(rows, limits, now_utc)
    freed, removed = 0, 0
    for row in rows:
        why = _why(row, before)
        if why is None and limits.min_free_gb is not None:
            free = free_bytes(runs_root) + freed
            why = "space" if free < limits.min_free_gb * _GB else None
        if why is None or removed == at_most:
            return
        if row.folder in stay:
            continue
        outcome = _remove(runs_root, row, why, by, dry_run=dry_run)
        if isinstance(outcome, Removed):
            removed += 1
            freed += outcome.size_bytes if dry_run else 0
        yield outcome


def oldest_first(rows: Sequence[RunRow]) -> list[RunRow]:
    """Return runs in the order in which they may go: old by date and by number, whichever is less.

    A run without a number (of ``capa run``) counts as that of the run before it by date.
    """
    by_date = sorted(rows, key=lambda row: row.folder)
    number, numbers = 0, {}
    for row in by_date:
        match = _NUMBER.match(row.job)
        number = int(match[1]) if match else number
        numbers[row.folder] = number
    by_number = sorted(by_date, key=lambda row: numbers[row.folder])
    rank = {row.folder: place for place, row in enumerate(by_number)}
    return [
        row
        for _, _, row in sorted(
            (max(place, rank[row.folder]), place, row) for place, row in enumerate(by_date)
        )
    ]


def _newest(rows: Sequence[RunRow], count: int) -> set[str]:
    """Return the folders that stay: the newest by either order, and the newest by date."""
    by_date = sorted(row.folder for row in rows)
    return {row.folder for row in rows[-count:]} | set(by_date[-count:])


def _age_limit(rows: Sequence[RunRow], limits: Limits, now_utc: datetime) -> datetime | None:
    """Return the instant before which a run has to have ended to be too old."""
    if limits.max_age_days is None:
        return None
    ends = [end for row in rows if (end := _ended(row)) is not None]
    newest = max(ends, default=now_utc)
    return min(now_utc, newest) - timedelta(days=limits.max_age_days)


def _why(row: RunRow, before: datetime | None) -> Why | None:
    ended = _ended(row)
    return "age" if before is not None and ended is not None and ended < before else None


def _ended(row: RunRow) -> datetime | None:
    """Return when a run ended, as well as it is known: from its manifest, else from its name."""
    text = row.ended_utc or row.started_utc
    if text is not None:
        return datetime.fromisoformat(text)
    with suppress(ValueError):
        return datetime.strptime(row.folder[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    return None


def _remove(runs_root: Path, row: RunRow, why: Why, by: str, *, dry_run: bool) -> Outcome:
    path = runs_root / row.folder
    try:
        if pin_file(runs_root, row.folder).exists():
            return Kept(row.folder, f"it is pinned: {pin_file(runs_root, row.folder).name}")
        if f'"{KEEP_TAG}"' in row.tags:
            return Kept(row.folder, f"its experiment has the tag {KEEP_TAG}")
        return remove_bundle(path, why=why, by=by, dry_run=dry_run)
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}"
        return Failed(row.folder, reason)
