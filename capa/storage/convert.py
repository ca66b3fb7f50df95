"""What was in flight becomes the files that are kept; it goes once these have been read back."""

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from capa.clock import utc_now
from capa.errors import BundleError
from capa.storage.atomic import fsync_dir, fsync_file
from capa.storage.device_records import RECORDS_DIR, write_records
from capa.storage.evidence import EVIDENCE_DIR, keep_evidence
from capa.storage.inflight import (
    EVENTS_FILE,
    INFLIGHT_FILE,
    connect_for_reading,
    create_inflight,
    create_status,
    is_orphaned,
)
from capa.storage.packed import Lost
from capa.storage.quality import Seen
from capa.storage.repaired import repaired
from capa.storage.row_groups import check_parquet
from capa.storage.salvage import resume_salvage
from capa.storage.scalars import SCALARS_FILE, channel_info, write_scalars
from capa.storage.steps import judge_steps, read_steps
from capa.storage.work import Work

__all__ = ["STATUS_FILE", "finish_inflight"]

STATUS_FILE = "status.sqlite"


def finish_inflight(work: Work) -> None:
    """Turn ``inflight.sqlite`` into Parquet and ``status.sqlite``.

    Raises:
        OSError, sqlite3.Error, pyarrow.ArrowException, BundleError: it stays as it is; try again.
    """
    target, source = work.path / SCALARS_FILE, work.path / INFLIGHT_FILE
    resume_salvage(source)
    if source.exists() or not target.exists():
        if not source.exists() and not is_orphaned(source):
            work.note(f"{INFLIGHT_FILE} was missing: there are no samples")
        _convert(work, repaired(work, INFLIGHT_FILE, create_inflight))
        source.unlink(missing_ok=True)
        fsync_dir(work.path)
    # Else: killed after the original was removed; what it became has been read back then.
    for name in (SCALARS_FILE, *_records_files(work.path)):
        if name not in work.rows:
            work.rows[name] = check_parquet(work.path / name)


def _records_files(folder: Path) -> list[str]:
    return [
        f"{RECORDS_DIR}/{file.name}" for file in sorted(folder.glob(f"{RECORDS_DIR}/*.parquet"))
    ]


def _convert(work: Work, source: Path) -> None:
    lost = Lost()
    with closing(connect_for_reading(source)) as connection:
        anchor = _anchor(work, connection)
        _convert_samples(work, connection, anchor, lost)
        _convert_records(work, connection, anchor, lost)
        _convert_status(work, source)
    if lost.rows:
        work.note(
            f"{lost.values} values of {lost.rows} damaged batches could not be read; the file is "
            f"kept in {EVIDENCE_DIR}/"
        )
    work.save()
    if lost.rows:
        keep_evidence(source)


def _convert_samples(
    work: Work, connection: sqlite3.Connection, anchor: datetime, lost: Lost
) -> None:
    target = work.path / SCALARS_FILE
    temporary = target.with_name(f".{target.name}.capa-tmp")
    seen = write_scalars(
        connection, temporary, anchor_utc=anchor, run_id=work.manifest.run_id, lost=lost
    )
    _put(work, SCALARS_FILE, temporary, rows=sum(one.samples for one in seen.values()))
    last = [one.last_ns for one in seen.values() if one.last_ns is not None]
    work.last_ns = max([work.last_ns, *last])
    _judge(work, connection, seen)


def _judge(work: Work, connection: sqlite3.Connection, seen: dict[str, Seen]) -> None:
    """Put into the manifest how good what was recorded is."""
    lasted_s = work.manifest.duration_s
    end_ns = work.last_ns if lasted_s is None else round(lasted_s * 1e9)
    quality = {name: one.quality(end_ns).model_dump() for name, one in seen.items()}
    with closing(connect_for_reading(work.path / EVENTS_FILE)) as events:
        walked = read_steps(events)
    steps = judge_steps(walked, work.path / SCALARS_FILE, channel_info(connection), end_ns=end_ns)
    work.update(quality=quality)
    if steps:  # else what the engine told at the end stands
        work.update(steps=[step.model_dump() for step in steps])


def _convert_records(
    work: Work, connection: sqlite3.Connection, anchor: datetime, lost: Lost
) -> None:
    written = write_records(
        connection, work.path, anchor_utc=anchor, run_id=work.manifest.run_id, lost=lost
    )
    if written:
        (work.path / RECORDS_DIR).mkdir(exist_ok=True)
    for name, temporary in written.items():
        _put(work, name, temporary)
    if written:
        fsync_dir(work.path)


def _put(work: Work, name: str, temporary: Path, *, rows: int | None = None) -> None:
    """Give a Parquet file its name, once it is on the disk and has been read back."""
    fsync_file(temporary)
    found = check_parquet(temporary)
    if rows is not None and found != rows:
        raise BundleError(f"{temporary}: reads back {found} rows, not {rows} as written")
    temporary.replace(work.path / name)
    fsync_dir((work.path / name).parent)
    work.rows[name] = found


def _convert_status(work: Work, source: Path) -> None:
    target = work.path / STATUS_FILE
    temporary = target.with_name(f".{target.name}.capa-tmp")
    temporary.unlink(missing_ok=True)
    with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("ATTACH ? AS inflight", (str(source),))
        connection.execute("BEGIN")
        create_status(connection)
        for table in ("device_health", "recorder_health"):
            # table is one of ours, never a name from outside
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM inflight.{table}")  # noqa: S608
        connection.execute("COMMIT")
    fsync_file(temporary)
    temporary.replace(target)
    fsync_dir(target.parent)


def _anchor(work: Work, connection: sqlite3.Connection) -> datetime:
    """Return the instant from which times count: the manifest's, else the recorder's own note."""
    if work.manifest.started_utc is None:
        row = connection.execute("SELECT value FROM meta WHERE key = 'anchor_utc'").fetchone()
        try:
            work.update(started_utc=datetime.fromisoformat(str(row[0] if row else "")))
        except ValueError:  # which pydantic's is, too
            work.note("the time of the start is lost: t_utc counts from the recovery")
            work.update(started_utc=utc_now())
    anchor = work.manifest.started_utc
    if anchor is None:
        raise BundleError(f"{work.path}: no time of start")
    return anchor
