"""``inflight.sqlite`` into ``scalars.parquet``: streamed, sorted, with bounded memory.

The one module that loads pyarrow, so only the finalizing child imports it.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capa.storage.manifest import ChannelQuality
from capa.storage.samples import STATUS_OF_CODE

__all__ = ["ROW_GROUP_ROWS", "SCALARS_FILE", "check_scalars", "write_scalars"]

SCALARS_FILE = "scalars.parquet"
ROW_GROUP_ROWS = 262_144
_CHUNK_ROWS = 131_072
_NS_PER_S = 1e9
_LAST_USABLE_CODE = 1

_TEXT = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [
        pa.field("channel", _TEXT, nullable=False),
        pa.field("t_mono_ns", pa.int64(), nullable=False),
        pa.field("t_mono_s", pa.float64(), nullable=False),
        pa.field("t_utc", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("unit", _TEXT, nullable=False),
        pa.field("status", _TEXT, nullable=False),
        pa.field("raw_value", pa.float64()),
    ]
)
_COLUMNS = pa.schema(
    [
        ("t_mono_ns", pa.int64()),
        ("value", pa.float64()),
        ("status", pa.uint8()),
        ("raw_value", pa.float64()),
    ]
)
_ENCODING: dict[str, Any] = {
    "compression": "zstd",
    # Measurements hardly ever repeat: trying a dictionary on them costs more than all the rest.
    "use_dictionary": ["channel", "unit", "status"],
    "column_encoding": {
        "t_mono_ns": "DELTA_BINARY_PACKED",
        "t_utc": "DELTA_BINARY_PACKED",
        "t_mono_s": "BYTE_STREAM_SPLIT",
        "value": "BYTE_STREAM_SPLIT",
        "raw_value": "BYTE_STREAM_SPLIT",
    },
}
_SELECT = (
    "SELECT channel_id, t_min_ns, n, t_mono_ns, value, status, raw_value"
    " FROM batches"
    # A damaged row, whose columns are not as long as it says, is left out (and missed later).
    " WHERE length(t_mono_ns) = 8 * n AND length(value) = 8 * n AND length(status) = n"
    " AND length(raw_value) = 8 * n ORDER BY channel_id, t_min_ns, id"
)

_Row = tuple[int, int, int, bytes, bytes, bytes, bytes]


@dataclass
class _Seen:
    """What went by of one channel."""

    samples: int = 0
    unusable: int = 0
    first_ns: int | None = None
    last_ns: int | None = None

    def add(self, columns: pa.Table) -> None:
        times, status = columns["t_mono_ns"], columns["status"]
        self.samples += columns.num_rows
        self.unusable += pc.sum(pc.greater(status, _LAST_USABLE_CODE)).as_py()
        self.first_ns = times[0].as_py() if self.first_ns is None else self.first_ns
        self.last_ns = times[-1].as_py()


@dataclass
class _Names:
    """The dictionaries of the text columns; indices are positions in them."""

    channels: list[str]
    units: list[str]
    place: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> "_Names":
        rows = connection.execute("SELECT id, name, unit FROM channels ORDER BY name").fetchall()
        places = {row[0]: place for place, row in enumerate(rows)}
        return cls([row[1] for row in rows], [row[2] for row in rows], places)


def write_scalars(
    connection: sqlite3.Connection, target: Path, *, anchor_utc: datetime, run_id: str
) -> dict[str, ChannelQuality]:
    """Write every sample, sorted by channel id and within a channel by time.

    By channel first, because who reads one channel of 30 then reads one row group in 30, and
    neighbours in a column resemble each other, so that it packs better. A value or raw value that
    is NaN becomes null. Memory is bounded by a row group, SQLite's sorter and what arrived out of
    order.

    Raises:
        sqlite3.Error: the source cannot be read.
        OSError: the target cannot be written.
    """
    names = _Names.read(connection)
    anchor_us = round(anchor_utc.timestamp() * 1e6)
    seen: dict[str, _Seen] = {}
    schema = _SCHEMA.with_metadata(
        {
            "capa.run_id": run_id,
            "capa.anchor_utc": anchor_utc.isoformat(),
            "capa.sorted_by": "channel (in the order in which it was declared), t_mono_ns",
        }
    )
    with pq.ParquetWriter(target, schema, write_page_checksum=True, **_ENCODING) as writer:
        pending: list[pa.Table] = []
        for channel_id, columns in _sorted_chunks(connection):
            place = names.place[channel_id]
            seen.setdefault(names.channels[place], _Seen()).add(columns)
            pending.append(_dressed(columns, place, names, anchor_us, schema))
            pending = _write_full_groups(writer, pending)
        if pending:
            writer.write_table(pa.concat_tables(pending), row_group_size=ROW_GROUP_ROWS)
    return {
        name: ChannelQuality(
            samples=it.samples, unusable=it.unusable, first_ns=it.first_ns, last_ns=it.last_ns
        )
        for name, it in seen.items()
    }


def check_scalars(path: Path) -> tuple[int, datetime | None]:
    """Read a Parquet file back, every page of it; return its rows and the anchor it names.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        rows = sum(batch.num_rows for batch in file.iter_batches(batch_size=_CHUNK_ROWS))
        anchor = (file.schema_arrow.metadata or {}).get(b"capa.anchor_utc")
    return rows, datetime.fromisoformat(anchor.decode()) if anchor else None


def _write_full_groups(writer: pq.ParquetWriter, pending: list[pa.Table]) -> list[pa.Table]:
    """Write as many whole row groups as there are; return the rest."""
    if sum(table.num_rows for table in pending) < ROW_GROUP_ROWS:
        return pending
    table = pa.concat_tables(pending)
    full = table.num_rows - table.num_rows % ROW_GROUP_ROWS
    writer.write_table(table.slice(0, full), row_group_size=ROW_GROUP_ROWS)
    return [table.slice(full)] if full < table.num_rows else []


def _sorted_chunks(connection: sqlite3.Connection) -> Iterator[tuple[int, pa.Table]]:
    """Yield the channels one after another, each in pieces that are in order among themselves."""
    rows: Iterator[_Row] = connection.execute(_SELECT)
    for channel_id, of_channel in groupby(rows, key=itemgetter(0)):
        carry = _COLUMNS.empty_table()
        gathered: list[_Row] = []
        count = 0
        for row in of_channel:
            if count >= _CHUNK_ROWS:
                # Rows come by their earliest sample: none that follows is earlier than this one.
                done, carry = _split(_in_order(carry, gathered), before_ns=row[1])
                gathered, count = [], 0
                if done.num_rows:
                    yield channel_id, done
            gathered.append(row)
            count += row[2]
        done = _in_order(carry, gathered)
        if done.num_rows:
            yield channel_id, done


def _in_order(carry: pa.Table, rows: list[_Row]) -> pa.Table:
    count = sum(row[2] for row in rows)
    columns = [
        b"".join(row[3] for row in rows),
        b"".join(row[4] for row in rows),
        b"".join(row[5] for row in rows),
        b"".join(row[6] for row in rows),
    ]
    arrays = [
        pa.Array.from_buffers(kind, count, [None, pa.py_buffer(column)])
        for kind, column in zip(_COLUMNS.types, columns, strict=True)
    ]
    table = pa.concat_tables([carry, pa.Table.from_arrays(arrays, schema=_COLUMNS)])
    table = table.combine_chunks()
    times = table["t_mono_ns"]
    if pc.all(pc.less_equal(times[:-1], times[1:])).as_py() is False:
        table = table.take(pc.sort_indices(times))  # stable
    return table


def _split(table: pa.Table, *, before_ns: int) -> tuple[pa.Table, pa.Table]:
    ready = pc.sum(pc.less(table["t_mono_ns"], before_ns)).as_py() or 0
    return table.slice(0, ready), table.slice(ready)


def _dressed(
    columns: pa.Table, place: int, names: _Names, anchor_us: int, schema: pa.Schema
) -> pa.Table:
    """Add what a reader wants to see: names, units, seconds, UTC."""
    times = columns["t_mono_ns"].combine_chunks()
    status = columns["status"].combine_chunks()
    micros = pc.add(pc.divide(times, 1000), anchor_us)
    statuses = [str(STATUS_OF_CODE[code]) for code in sorted(STATUS_OF_CODE)]
    return pa.Table.from_arrays(
        [
            _repeated(place, len(times), names.channels),
            times,
            pc.divide(times.cast(pa.float64(), safe=False), _NS_PER_S),
            micros.cast(pa.timestamp("us", tz="UTC")),
            _nan_to_null(columns["value"].combine_chunks()),
            _repeated(place, len(times), names.units),
            pa.DictionaryArray.from_arrays(status.cast(pa.int32()), pa.array(statuses)),
            _nan_to_null(columns["raw_value"].combine_chunks()),
        ],
        schema=schema,
    )


def _repeated(place: int, count: int, texts: list[str]) -> pa.DictionaryArray:
    indices = pa.repeat(pa.scalar(place, pa.int32()), count)
    return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string()))


def _nan_to_null(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
