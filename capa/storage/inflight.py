"""The SQLite files of a bundle in flight: their tables, and the transactions that fill them.

Both are in WAL mode with ``synchronous=NORMAL``: a commit is a write into the page cache and so
survives the process at once; what makes it survive a power cut is an fdatasync of the WAL file,
which the syncer does from its own thread and descriptor (the same call that ``synchronous=FULL``
would make, but without holding up the next event). Checkpoints are the syncer's too.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from capa.storage.samples import ColumnBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EVENTS_FILE",
    "INFLIGHT_FILE",
    "EventRow",
    "EventStore",
    "SampleStore",
    "connect",
    "connect_for_reading",
    "create_events",
    "create_samples",
    "wal_of",
]

EVENTS_FILE = "events.sqlite"
INFLIGHT_FILE = "inflight.sqlite"

_BUSY_TIMEOUT_S = 1.0

_EVENTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    t_mono_ns INTEGER NOT NULL,
    t_utc TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    source TEXT NOT NULL,
    message TEXT NOT NULL,
    metadata_json TEXT NOT NULL
)"""

_INSERT_EVENT = (
    "INSERT INTO events (t_mono_ns, t_utc, kind, severity, source, message, metadata_json)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)

_SAMPLES_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS channels"
    " (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unit TEXT NOT NULL)",
    # Append only, with no other index: a flush touches the last page or two of the file and
    # not one page a channel, which would write twenty times as much to an SD card.
    "CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, channel_id INTEGER NOT NULL,"
    " n INTEGER NOT NULL, t_min_ns INTEGER NOT NULL, t_max_ns INTEGER NOT NULL,"
    " t_mono_ns BLOB NOT NULL, value BLOB NOT NULL, status BLOB NOT NULL, raw_value BLOB NOT NULL)",
)

_INSERT_BATCH = (
    "INSERT INTO batches (channel_id, n, t_min_ns, t_max_ns, t_mono_ns, value, status, raw_value)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class EventRow(NamedTuple):
    """An event as it is stored, without its id, which is its place in the order of writing."""

    t_mono_ns: int
    t_utc: str
    kind: str
    severity: str
    source: str
    message: str
    metadata_json: str


def connect(path: Path) -> sqlite3.Connection:
    """Open a file for recording; transactions are explicit and any one thread may use it."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def create_events(connection: sqlite3.Connection) -> None:
    """Make the table of ``events.sqlite``."""
    connection.execute(_EVENTS_SCHEMA)


def create_samples(connection: sqlite3.Connection) -> None:
    """Make the tables of ``inflight.sqlite``."""
    for statement in _SAMPLES_SCHEMA:
        connection.execute(statement)


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open a file without changing a byte of it or of its WAL, not even on closing."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def wal_of(path: Path) -> Path:
    """Return the path of a database's write-ahead log."""
    return path.with_name(path.name + "-wal")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> "Iterator[None]":
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class EventStore:
    """``events.sqlite``, open for writing."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        create_events(self._connection)

    def write(self, rows: Iterable[EventRow]) -> None:
        """Commit rows in one transaction, in their order.

        Raises:
            sqlite3.Error: nothing was written.
        """
        with _transaction(self._connection):
            self._connection.executemany(_INSERT_EVENT, rows)

    def close(self) -> None:
        """Close; the last one to close also checkpoints."""
        self._connection.close()


class SampleStore:
    """``inflight.sqlite``, open for writing."""

    def __init__(self, path: Path, *, meta: Mapping[str, str], units: Mapping[str, str]) -> None:
        self._connection = connect(path)
        self._channel_ids: dict[str, int] = {}
        with _transaction(self._connection):
            create_samples(self._connection)
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        self._declare(units)

    def write(self, batches: Sequence[ColumnBatch]) -> None:
        """Commit batches in one transaction; a channel that was never declared has no unit.

        Raises:
            sqlite3.Error: nothing was written.
        """
        unknown = {b.channel: "" for b in batches if b.channel not in self._channel_ids}
        if unknown:
            self._declare(unknown)
        ids = self._channel_ids
        rows = [
            (
                ids[b.channel],
                b.count,
                b.t_min_ns,
                b.t_max_ns,
                b.t_mono_ns,
                b.value,
                b.status,
                b.raw_value,
            )
            for b in batches
        ]
        with _transaction(self._connection):
            self._connection.executemany(_INSERT_BATCH, rows)

    def close(self) -> None:
        """Close; the last one to close also checkpoints."""
        self._connection.close()

    def _declare(self, units: Mapping[str, str]) -> None:
        new = {name: number for number, name in enumerate(units, start=len(self._channel_ids) + 1)}
        with _transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO channels VALUES (?, ?, ?)",
                [(number, name, units[name]) for name, number in new.items()],
            )
        self._channel_ids.update(new)
