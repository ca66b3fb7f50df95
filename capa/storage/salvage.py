"""What can be read of a damaged SQLite file, in a new one; the damaged one is kept as evidence."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from capa.storage.atomic import fsync_dir, fsync_file
from capa.storage.inflight import EVENTS_FILE, connect_for_reading, create_events, create_samples

__all__ = ["EVIDENCE_DIR", "keep_evidence", "resume_salvage", "salvage"]

EVIDENCE_DIR = "evidence"
_COMPANIONS = ("-wal", "-shm", "-journal")


def salvage(path: Path) -> str:
    """Replace a damaged file by one with every row that can be read; return what was done.

    Rows are read from the front until one fails, then from the back. Killed half-way,
    ``resume_salvage`` goes on.

    Raises:
        OSError, sqlite3.Error: the new file cannot be written; the old one is untouched.
    """
    target = _salvaged(path)
    target.unlink(missing_ok=True)
    rows = 0
    with closing(sqlite3.connect(target, isolation_level=None)) as new:
        (create_events if path.name == EVENTS_FILE else create_samples)(new)
        tables = ("events",) if path.name == EVENTS_FILE else ("meta", "channels", "batches")
        for table in tables:
            rows += _copy(path, new, table)
    fsync_file(target)
    keep_evidence(path)
    target.replace(path)
    fsync_dir(path.parent)
    return f"{path.name} was damaged: {rows} rows could be read; it is kept in {EVIDENCE_DIR}/"


def resume_salvage(path: Path) -> None:
    """Finish a salvage that was killed after the damaged file had been put aside."""
    target = _salvaged(path)
    if target.exists() and not path.exists():
        target.replace(path)
        fsync_dir(path.parent)
    target.unlink(missing_ok=True)


def keep_evidence(path: Path) -> None:
    """Move a file, with what SQLite keeps beside it, into ``evidence/``."""
    folder = path.parent / EVIDENCE_DIR
    folder.mkdir(exist_ok=True)
    for suffix in (*_COMPANIONS, ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.replace(_free_name(folder / source.name))
    fsync_dir(folder)


def _free_name(path: Path) -> Path:
    """Return a name that is not taken: evidence never replaces evidence."""
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate


def _salvaged(path: Path) -> Path:
    return path.with_name(f".{path.name}.salvaged")


def _copy(path: Path, new: sqlite3.Connection, table: str) -> int:
    rows: dict[int, tuple[object, ...]] = {}
    for order in ("ASC", "DESC"):
        for rowid, row in _readable(path, table, order):
            if rowid in rows:
                break
            rows[rowid] = row
    if not rows:
        return 0
    marks = ", ".join("?" * len(next(iter(rows.values()))))
    with new:
        new.execute("BEGIN")
        # table is one of ours, never a name from outside
        new.executemany(
            f"INSERT OR IGNORE INTO {table} VALUES ({marks})",  # noqa: S608 - see above
            [rows[key] for key in sorted(rows)],
        )
    return len(rows)


def _readable(path: Path, table: str, order: str) -> Iterator[tuple[int, tuple[object, ...]]]:
    """Yield rows, each led by its rowid, until one cannot be read."""
    query = f"SELECT rowid, * FROM {table} ORDER BY rowid {order}"  # noqa: S608 - own names
    try:
        with closing(connect_for_reading(path)) as old:
            for rowid, *row in old.execute(query):
                yield rowid, tuple(row)
    except sqlite3.DatabaseError:
        return
