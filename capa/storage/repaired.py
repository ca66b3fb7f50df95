"""A bundle's SQLite file as one sound file: its log taken in, salvaged if need be."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from capa.errors import BundleError
from capa.storage.atomic import fsync_dir, fsync_file, write_atomically
from capa.storage.evidence import EVIDENCE_DIR, evidence_name, keep_evidence
from capa.storage.inflight import (
    EVENTS_FILE,
    EventRow,
    connect_for_reading,
    is_orphaned,
    wal_of,
)
from capa.storage.salvage import columns_of, resume_salvage, salvage
from capa.storage.wal import first_page, mend_wal
from capa.storage.work import Work

__all__ = ["repaired"]


def repaired(work: Work, name: str, create: Callable[[sqlite3.Connection], None]) -> Path:
    """Return the path of a database in one sound file; what was odd about it is noted.

    Raises:
        OSError, sqlite3.Error, BundleError: the disk refuses, or somebody holds the file.
    """
    path = work.path / name
    resume_salvage(path)
    if is_orphaned(path):
        _adopt(work, path)
    if (mended := mend_wal(path)) is not None:
        work.note(mended)
    try:
        if path.exists():
            _check(path, create)
    except sqlite3.OperationalError:  # locked, read-only, full: not damage
        raise
    except sqlite3.DatabaseError:
        work.note(salvage(path))
    if path.exists():
        _look_inside(work, path)
    _as_single_file(path, create)
    return path


def _adopt(work: Work, path: Path) -> None:
    """Make a log's missing database anew, out of the log; it is kept as it was found, too."""
    log = wal_of(path)
    shutil.copyfile(log, kept := evidence_name(log))
    fsync_file(kept)
    page = first_page(path)
    if page is None:
        log.unlink()
        words = f"nothing of it could be read; it is kept in {EVIDENCE_DIR}/"
    else:
        write_atomically(path, page)
        words = f"what that holds was read; it is kept in {EVIDENCE_DIR}/"
    work.note(f"{path.name} was missing beside its log: {words}")


def _look_inside(work: Work, path: Path) -> None:
    """Note what is missing; events that are no events are put aside, and there are none then."""
    tables = _tables(path)
    if not tables:
        work.note(f"there is nothing in {path.name}: if it had a log, that is lost")
        return
    main = "events" if path.name == EVENTS_FILE else "batches"
    if main not in tables:
        work.note(f"{path.name} has no table {main}")
    elif path.name == EVENTS_FILE and not tables[main] >= set(EventRow._fields):
        work.note(f"{path.name} has another table of events; it is kept in {EVIDENCE_DIR}/")
        keep_evidence(path)


def _tables(path: Path) -> dict[str, set[str]]:
    """Return the columns of each table."""
    query = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
    with closing(connect_for_reading(path)) as connection:
        found = connection.execute(f"{query} WHERE m.type = 'table'").fetchall()
    tables: dict[str, set[str]] = {}
    for table, column in found:
        tables.setdefault(table, set()).add(column)
    return tables


def _check(path: Path, create: Callable[[sqlite3.Connection], None]) -> None:
    """Look for damage, without changing anything.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    with closing(connect_for_reading(path)) as connection:
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except UnicodeDecodeError as error:  # SQLite's own words quote what is damaged
            raise sqlite3.DatabaseError(f"its schema is damaged: {error.reason}") from error
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        with closing(sqlite3.connect(":memory:")) as known:
            create(known)
            for (table,) in known.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
                ours, found = columns_of(known, table), columns_of(connection, table)
                if len(found) == len(ours) and found != ours:
                    raise sqlite3.DatabaseError(f"{table} has other names for its columns")


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
