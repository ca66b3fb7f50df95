"""What can be read of a damaged SQLite file, in a new one; the damaged one is kept as evidence."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from capa.storage.atomic import fsync_dir, fsync_file
from capa.storage.evidence import EVIDENCE_DIR, keep_evidence
from capa.storage.inflight import EVENTS_FILE, connect_for_reading, create_events, create_inflight

__all__ = ["columns_of", "resume_salvage", "salvage"]

_MAX_ROWS = 2**40
_UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""The latter where SQLite's own words quote what is damaged."""
_DAMAGED = "damaged"
_INFLIGHT_TABLES = (
    "meta",
    "channels",
    "batches",
    "fields",
    "record_batches",
    "device_health",
    "recorder_health",
)


def salvage(path: Path) -> str:
    """Replace a damaged file by one with every row that can be read; return what was done.

    Where a row can't be read, reading goes on with the next one that can. Killed half-way,
    ``resume_salvage`` goes on.

    Raises:
        OSError, sqlite3.Error: the new file cannot be written; the old one is untouched.
    """
    target = _salvaged(path)
    target.unlink(missing_ok=True)
    rows = 0
    with closing(sqlite3.connect(target, isolation_level=None)) as new:
        tables = ("events",) if path.name == EVENTS_FILE else _INFLIGHT_TABLES
        (create_events if path.name == EVENTS_FILE else create_inflight)(new)
        for table, statement in _older(path, tables, new):
            new.execute(f"DROP TABLE {table}")
            new.execute(statement)
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


def _older(
    path: Path, tables: tuple[str, ...], new: sqlite3.Connection
) -> Iterator[tuple[str, str]]:
    """Yield tables of an older format, which have fewer columns, and how they were made.

    Where only names differ, these are damaged: rows are copied by place, into what we call them.
    """
    for table, statement in _statements(path, tables):
        with closing(sqlite3.connect(":memory:")) as trial:
            try:
                trial.execute(statement)
            except sqlite3.Error:
                continue
            if 0 < len(columns_of(trial, table)) < len(columns_of(new, table)):
                yield table, statement


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the names of a table's columns, in their order; none where there is no table."""
    query = "SELECT name FROM pragma_table_info(?) ORDER BY cid"
    return [str(name) for (name,) in connection.execute(query, (table,))]


def _statements(path: Path, tables: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return how the damaged file's own tables were made."""
    try:
        with closing(connect_for_reading(path)) as old:
            rows = old.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
            ).fetchall()
    except _UNREADABLE:
        return []
    mine = [(name, str(sql)) for name, sql in rows if name in tables]
    return [(name, sql) for name, sql in mine if sql.startswith("CREATE TABLE")]


def _salvaged(path: Path) -> Path:
    return path.with_name(f".{path.name}.salvaged")


_Row = tuple[object, ...]
"""A row, led by its rowid."""


def _copy(path: Path, new: sqlite3.Connection, table: str) -> int:
    """Copy every row of a table that can be read; return how many these are.

    A damaged tree may lead back to where it was read already, for ever: only new rows go on.
    """
    last: int | None = 0
    copied: set[int] = set()
    new.execute("BEGIN")
    while last is not None:
        before = len(copied)
        for rowid, *row in _readable(path, table, last):
            if (number := int(str(rowid))) in copied:
                continue
            marks = ", ".join("?" * len(row))
            # table is one of ours, never a name from outside
            new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608
            copied.add(number)
            last = number
        if len(copied) == before:
            last = _beyond_damage(path, table, last)
    new.execute("COMMIT")
    return len(copied)


def _readable(path: Path, table: str, after: int) -> Iterator[_Row]:
    """Yield rows until one cannot be read; at least one, if the next one can be."""
    query = f"SELECT rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid"  # noqa: S608 - ours
    try:
        with closing(connect_for_reading(path)) as old:
            yield from old.execute(query, (after,))
            return
    except _UNREADABLE:
        pass
    # Python's module has read one row further than it hands out: the last good one is lost so.
    if isinstance(one := _probe(path, table, after), tuple):
        yield one


def _beyond_damage(path: Path, table: str, last: int) -> int | None:
    """Return the rowid after which rows can be read again; None at the end of the table."""
    if _probe(path, table, last) is not _DAMAGED:
        return None
    near, far = 0, 1
    while _probe(path, table, last + far) is _DAMAGED:
        near, far = far, far * 2
        if far > _MAX_ROWS:
            return None
    while far - near > 1:
        middle = (near + far) // 2
        if _probe(path, table, last + middle) is _DAMAGED:
            near = middle
        else:
            far = middle
    return None if _probe(path, table, last + far) is None else last + far


def _probe(path: Path, table: str, after: int) -> "_Row | str | None":
    """Return the next row; None where there is none, ``_DAMAGED`` where it can't be read."""
    query = f"SELECT rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT 1"  # noqa: S608
    try:
        with closing(connect_for_reading(path)) as old:
            row: _Row | None = old.execute(query, (after,)).fetchone()
            return row
    except _UNREADABLE:
        return _DAMAGED
