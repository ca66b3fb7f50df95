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

from capa.storage.chain import first_hash, row_hash
from capa.storage.health import DeviceHealthRow, RecorderHealthRow
from capa.storage.records import RecordBatch
from capa.storage.samples import ColumnBatch, check_sum

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EVENTS_FILE",
    "INFLIGHT_FILE",
    "EventRow",
    "EventStore",
    "HealthRow",
    "InflightStore",
    "Packed",
    "connect",
    "connect_for_reading",
    "create_events",
    "create_inflight",
    "create_status",
    "is_orphaned",
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
    metadata_json TEXT NOT NULL,
    prev_hash TEXT NOT NULL
)"""

_INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

_STATUS_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS device_health (id INTEGER PRIMARY KEY, t_mono_ns INTEGER NOT NULL,"
    " t_utc TEXT NOT NULL, device TEXT NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL,"
    " polls INTEGER NOT NULL, failures INTEGER NOT NULL, consecutive_failures INTEGER NOT NULL,"
    " last_ok_age_s REAL, counters_json TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS recorder_health (id INTEGER PRIMARY KEY,"
    " t_mono_ns INTEGER NOT NULL, t_utc TEXT NOT NULL, queue_depth INTEGER NOT NULL,"
    " lag_s REAL NOT NULL, pending_samples INTEGER NOT NULL, dropped_samples INTEGER NOT NULL,"
    " failures INTEGER NOT NULL)",
)

_INFLIGHT_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS channels"
    " (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unit TEXT NOT NULL)",
    # Append only, with no other index, and one row a flush: a flush touches the last page or two
    # of the file and not one page a channel, which would write twenty times as much to an SD card.
    "CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, n INTEGER NOT NULL,"
    " channel_id BLOB NOT NULL, t_mono_ns BLOB NOT NULL, value BLOB NOT NULL,"
    " status BLOB NOT NULL, raw_value BLOB NOT NULL, crc32 INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS fields (number INTEGER PRIMARY KEY, device TEXT NOT NULL,"
    " adapter TEXT NOT NULL, name TEXT NOT NULL, unit TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS record_batches (id INTEGER PRIMARY KEY, n INTEGER NOT NULL,"
    " field BLOB NOT NULL, t_mono_ns BLOB NOT NULL, value BLOB NOT NULL, status BLOB NOT NULL,"
    " reply BLOB NOT NULL, replies TEXT NOT NULL, crc32 INTEGER NOT NULL)",
    *_STATUS_SCHEMA,
)

_INSERT_BATCH = (
    "INSERT INTO batches (n, channel_id, t_mono_ns, value, status, raw_value, crc32)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_FIELD = "INSERT OR IGNORE INTO fields VALUES (?, ?, ?, ?, ?)"
_INSERT_RECORDS = (
    "INSERT INTO record_batches (n, field, t_mono_ns, value, status, reply, replies, crc32)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_DEVICE_HEALTH = (
    "INSERT INTO device_health (t_mono_ns, t_utc, device, state, detail, polls, failures,"
    " consecutive_failures, last_ok_age_s, counters_json) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_RECORDER_HEALTH = (
    "INSERT INTO recorder_health (t_mono_ns, t_utc, queue_depth, lag_s, pending_samples,"
    " dropped_samples, failures) VALUES (?, ?, ?, ?, ?, ?, ?)"
)

HealthRow = DeviceHealthRow | RecorderHealthRow
Packed = ColumnBatch | RecordBatch | HealthRow
"""What goes into ``inflight.sqlite``."""


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


def create_inflight(connection: sqlite3.Connection) -> None:
    """Make the tables of ``inflight.sqlite``."""
    for statement in _INFLIGHT_SCHEMA:
        connection.execute(statement)


def create_status(connection: sqlite3.Connection) -> None:
    """Make the tables of ``status.sqlite``."""
    for statement in _STATUS_SCHEMA:
        connection.execute(statement)


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open a file without changing a byte of it or of its WAL, not even on closing.

    Text that is no UTF-8, by a flipped bit, is read with an escape in its place: nothing of it is
    a reason not to read the rest.

    Raises:
        sqlite3.DatabaseError: only its log is left. SQLite would take that for a leftover, and
            delete it, although it is told to read only.
    """
    if is_orphaned(path):
        raise sqlite3.DatabaseError(f"{path.name} is empty or missing beside its log")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = _text
    return connection


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def is_orphaned(path: Path) -> bool:
    """Whether there is a log whose database is missing or empty (one byte is empty to SQLite)."""
    log = wal_of(path)
    if not log.exists() or not log.stat().st_size:
        return False
    return not path.exists() or path.stat().st_size <= 1


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
    """``events.sqlite``, open for writing; it chains what it writes."""

    def __init__(self, path: Path, *, run_id: str) -> None:
        self._connection = connect(path)
        create_events(self._connection)
        self._rows = 0
        self._head = first_hash(run_id)

    def write(self, rows: Iterable[EventRow]) -> None:
        """Commit rows in one transaction, in their order.

        Raises:
            sqlite3.Error: nothing was written.
        """
        number, head, chained = self._rows, self._head, []
        for row in rows:
            number += 1
            full = (number, *row, head)
            chained.append(full)
            head = row_hash(full)
        with _transaction(self._connection):
            self._connection.executemany(_INSERT_EVENT, chained)
        self._rows, self._head = number, head

    def close(self) -> None:
        """Close; the last one to close also checkpoints."""
        self._connection.close()


class InflightStore:
    """``inflight.sqlite``, open for writing."""

    def __init__(self, path: Path, *, meta: Mapping[str, str], units: Mapping[str, str]) -> None:
        self._connection = connect(path)
        self._channel_ids: dict[str, int] = {}
        self._known_fields = 0
        with _transaction(self._connection):
            create_inflight(self._connection)
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        self._declare(units)

    def write(self, packed: Sequence[Packed]) -> None:
        """Commit batches and rows in one transaction; a channel never declared has no unit.

        Raises:
            sqlite3.Error: nothing was written.
        """
        batches = [one for one in packed if isinstance(one, ColumnBatch)]
        records = [one for one in packed if isinstance(one, RecordBatch)]
        names = {name for batch in batches for name, _ in batch.channels}
        if unknown := names - self._channel_ids.keys():
            self._declare(dict.fromkeys(sorted(unknown), ""))
        with _transaction(self._connection):
            self._connection.executemany(_INSERT_BATCH, map(self._batch_row, batches))
            self._write_records(records)
            devices = [one for one in packed if isinstance(one, DeviceHealthRow)]
            self._connection.executemany(_INSERT_DEVICE_HEALTH, devices)
            recorder = [one for one in packed if isinstance(one, RecorderHealthRow)]
            self._connection.executemany(_INSERT_RECORDER_HEALTH, recorder)
        if records:
            self._known_fields = len(records[-1].fields)

    def _batch_row(self, batch: ColumnBatch) -> tuple[object, ...]:
        ids = self._channel_ids
        owners = b"".join([ids[name].to_bytes(2, "little") * n for name, n in batch.channels])
        columns = (owners, batch.t_mono_ns, batch.value, batch.status, batch.raw_value)
        return (batch.count, *columns, check_sum(*columns))

    def _write_records(self, records: Sequence[RecordBatch]) -> None:
        if not records:
            return
        new = records[-1].fields[self._known_fields :]
        self._connection.executemany(
            _INSERT_FIELD, [(f.number, f.device, f.adapter, f.name, f.unit) for f in new]
        )
        self._connection.executemany(_INSERT_RECORDS, map(_records_row, records))

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


def _records_row(batch: RecordBatch) -> tuple[object, ...]:
    columns = (batch.field, batch.t_mono_ns, batch.value, batch.status, batch.reply)
    crc32 = check_sum(*columns, batch.replies.encode())
    return (batch.count, *columns, batch.replies, crc32)
