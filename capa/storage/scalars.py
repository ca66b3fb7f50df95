"""``inflight.sqlite`` into ``scalars.parquet``: streamed, sorted, with bounded memory.

The samples are read in the order in which they came, sorted apart by channel into files of their
own, and read back channel by channel. One of the modules that load pyarrow, so only the
finalizing child imports it.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capa.storage.aside import Aside
from capa.storage.columns import (
    INSTANT,
    TEXT,
    from_bytes,
    nan_to_null,
    repeated,
    seconds,
    statuses,
    utc,
)
from capa.storage.manifest import FORMAT_VERSION
from capa.storage.packed import Lost, read_samples
from capa.storage.quality import Seen
from capa.storage.row_groups import RowGroups
from capa.storage.spill import Spill

__all__ = ["SCALARS_FILE", "channel_info", "write_scalars"]

SCALARS_FILE = "scalars.parquet"
_CHUNK_ROWS = 131_072

_SCHEMA = pa.schema(
    [
        pa.field("channel", TEXT, nullable=False),
        pa.field("t_mono_ns", pa.int64(), nullable=False),
        pa.field("t_mono_s", pa.float64(), nullable=False),
        pa.field("t_utc", INSTANT, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("unit", TEXT, nullable=False),
        pa.field("status", TEXT, nullable=False),
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


@dataclass
class _Names:
    """The dictionaries of the text columns, in the order in which the channels were declared."""

    ids: list[int] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> "_Names":
        names = cls()
        for number, name, unit in connection.execute("SELECT * FROM channels ORDER BY id"):
            names.add(number, name, unit)
        return names

    def add(self, number: int, name: str, unit: str) -> None:
        self.ids.append(number)
        self.channels.append(name)
        self.units.append(unit)

    def place(self, number: int) -> int:
        """Return a channel's place; one whose declaration was lost is called by its number."""
        if number not in self.ids:
            self.add(number, f"channel {number}", "")
        return self.ids.index(number)


def channel_info(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """Return what the recorder noted of each channel, unit and all."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'channel_info'").fetchone()
    units = connection.execute("SELECT name, unit FROM channels ORDER BY id")
    info = _noted(row[0]) if row else {}
    return {name: {"unit": unit} | info.get(name, {}) for name, unit in units}


def _noted(text: object) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError):  # the samples themselves have check sums of their own
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: noted for name, noted in found.items() if isinstance(noted, dict)}


def write_scalars(
    connection: sqlite3.Connection, target: Path, *, anchor_utc: datetime, run_id: str, lost: Lost
) -> dict[str, Seen]:
    """Write every sample, sorted by channel and within a channel by time; return what was seen.

    By channel first, because who reads one channel of 30 then reads one row group in 30, and
    neighbours in a column resemble each other, so that it packs better. A value or raw value that
    is NaN becomes null. Memory is bounded by a row group and what arrived out of order.

    Raises:
        sqlite3.Error: the source cannot be read.
        OSError: the target cannot be written.
    """
    names, info = _Names.read(connection), channel_info(connection)
    anchor_us = round(anchor_utc.timestamp() * 1e6)
    seen: dict[str, Seen] = {}
    with Spill(target.parent, "samples", _COLUMNS) as spill:
        _sort_apart(connection, spill, lost)
        places = {names.place(key): key for key in spill.finish()}
        schema = _SCHEMA.with_metadata(_metadata(run_id, anchor_utc, info))
        with RowGroups(target, schema) as groups:
            for place, key in sorted(places.items()):
                name = names.channels[place]
                one = seen[name] = Seen.of(info.get(name, {}))
                for columns in in_order(partial(spill.read, key)):
                    one.add(columns["t_mono_ns"], columns["value"], columns["status"])
                    groups.add(_dressed(columns, place, names, anchor_us, schema))
    return seen


def _metadata(run_id: str, anchor_utc: datetime, info: Mapping[str, Any]) -> dict[str, str]:
    return {
        "capa.format_version": str(FORMAT_VERSION),
        "capa.run_id": run_id,
        "capa.anchor_utc": anchor_utc.isoformat(),
        "capa.sorted_by": "channel (in the order in which it was declared), t_mono_ns",
        "capa.channels": json.dumps(info),
    }


def _sort_apart(connection: sqlite3.Connection, spill: Spill, lost: Lost) -> None:
    gathered: list[tuple[bytes, ...]] = []
    count = 0
    with Aside() as aside:
        for number, *blobs in read_samples(connection, lost):
            gathered.append(tuple(blobs))
            count += number
            if count >= _CHUNK_ROWS:
                aside.do(_spill, spill, gathered)
                gathered, count = [], 0
        if gathered:
            aside.do(_spill, spill, gathered)


def _spill(spill: Spill, gathered: list[tuple[bytes, ...]]) -> None:
    owners, *columns = zip(*gathered, strict=True)
    arrays = [
        from_bytes(kind, pieces) for kind, pieces in zip(_COLUMNS.types, columns, strict=True)
    ]
    rows = pa.RecordBatch.from_arrays(arrays, schema=_COLUMNS)
    spill.add(from_bytes(pa.uint16(), owners), rows)


def in_order(read: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Yield a channel's rows in pieces that are in the order of time, and so among themselves.

    ``read`` is called twice: once to know how early what comes later is.
    """
    earliest = [min(pc.min(one["t_mono_ns"]).as_py() for one in piece) for piece in _pieces(read())]
    later = [*accumulate(reversed(earliest[1:]), min)][::-1]
    carry: list[pa.RecordBatch] = []
    for piece, before_ns in zip_longest(_pieces(read()), later):
        rows = _sorted(_joined([*carry, *piece]))
        ready = rows.num_rows
        if before_ns is not None and before_ns <= rows["t_mono_ns"][-1].as_py():
            ready = pc.sum(pc.less(rows["t_mono_ns"], before_ns)).as_py()
        if ready:
            yield rows.slice(0, ready)
        carry = [rows.slice(ready)] if ready < rows.num_rows else []


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    gathered: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        gathered.append(batch)
        count += batch.num_rows
        if count >= _CHUNK_ROWS:
            yield gathered
            gathered, count = [], 0
    if gathered:
        yield gathered


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    (one,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return one


def _sorted(rows: pa.RecordBatch) -> pa.RecordBatch:
    times = rows["t_mono_ns"]
    if pc.all(pc.less_equal(times[:-1], times[1:])).as_py() is False:
        return rows.take(pc.sort_indices(times))  # stable
    return rows


def _dressed(
    rows: pa.RecordBatch, place: int, names: _Names, anchor_us: int, schema: pa.Schema
) -> pa.Table:
    """Add what a reader wants to see: names, units, seconds, UTC."""
    times = rows["t_mono_ns"]
    return pa.Table.from_arrays(
        [
            repeated(place, len(times), names.channels),
            times,
            seconds(times),
            utc(times, anchor_us),
            nan_to_null(rows["value"]),
            repeated(place, len(times), names.units),
            statuses(rows["status"]),
            nan_to_null(rows["raw_value"]),
        ],
        schema=schema,
    )
