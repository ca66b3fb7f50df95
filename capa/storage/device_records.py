"""``inflight.sqlite`` into ``device_records/<adapter>.parquet``: what the devices said, as it came.

One of the modules that load pyarrow, so only the finalizing child imports it.
"""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path

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
from capa.storage.packed import Lost, PackedRecords, read_records
from capa.storage.records import FieldRow
from capa.storage.row_groups import RowGroups
from capa.storage.spill import Spill

__all__ = ["RECORDS_DIR", "write_records"]

RECORDS_DIR = "device_records"
_CHUNK_ROWS = 65_536

_SCHEMA = pa.schema(
    [
        pa.field("device", TEXT, nullable=False),
        pa.field("t_mono_ns", pa.int64(), nullable=False),
        pa.field("t_mono_s", pa.float64(), nullable=False),
        pa.field("t_utc", INSTANT, nullable=False),
        pa.field("field", TEXT, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("unit", TEXT, nullable=False),
        pa.field("status", TEXT, nullable=False),
        pa.field("native", pa.string()),
    ]
)
_COLUMNS = pa.schema(
    [
        ("field", pa.uint16()),
        ("t_mono_ns", pa.int64()),
        ("value", pa.float64()),
        ("status", pa.uint8()),
        ("native", pa.string()),
    ]
)
_PLACE = pa.uint32()
_PLACE_BYTES = 4
_NOT_A_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]|^\.")


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields that devices told of, by number; one that was lost is called by its number."""

    rows: tuple[FieldRow, ...]
    devices: tuple[str, ...]

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> "_Fields":
        found = {row[0]: FieldRow(*row) for row in connection.execute("SELECT * FROM fields")}
        count = max(found, default=-1) + 1
        rows = tuple(
            found.get(n) or FieldRow(n, "?", "lost", f"field {n}", "") for n in range(count)
        )
        return cls(rows, tuple(dict.fromkeys(row.device for row in rows)))

    @property
    def owners(self) -> pa.Array:
        """The place of each field's device."""
        places = [self.devices.index(row.device) for row in self.rows]
        return pa.array(places, pa.uint16())

    def adapter(self, device: str) -> str:
        return next(row.adapter for row in self.rows if row.device == device)


def write_records(
    connection: sqlite3.Connection, folder: Path, *, anchor_utc: datetime, run_id: str, lost: Lost
) -> dict[str, Path]:
    """Write a Parquet file for each family into ``folder``, under a leftover's name.

    Returns these files by the names that they are to have, relative to the bundle.

    Raises:
        sqlite3.Error: the source cannot be read.
        OSError: a target cannot be written.
    """
    fields = _Fields.read(connection)
    schema = _SCHEMA.with_metadata(
        {
            "capa.format_version": str(FORMAT_VERSION),
            "capa.run_id": run_id,
            "capa.anchor_utc": anchor_utc.isoformat(),
            "capa.sorted_by": "device, then in the order of arrival",
        }
    )
    written = {}
    anchor_us = round(anchor_utc.timestamp() * 1e6)
    with Spill(folder, "records", _COLUMNS) as spill:
        _sort_apart(connection, spill, fields, lost)
        keys = spill.finish()
        adapters = {key: fields.adapter(fields.devices[key]) for key in keys}
        for adapter in sorted(set(adapters.values())):
            name = _NOT_A_FILE_NAME.sub("_", adapter)
            target = folder / f".{name}.records.capa-tmp"
            with RowGroups(target, schema) as groups:
                for key in (key for key in keys if adapters[key] == adapter):
                    for rows in spill.read(key):
                        groups.add(_dressed(rows, key, fields, anchor_us, schema))
            written[f"{RECORDS_DIR}/{name}.parquet"] = target
    return written


def _sort_apart(connection: sqlite3.Connection, spill: Spill, fields: _Fields, lost: Lost) -> None:
    gathered: list[PackedRecords] = []
    owners, count = fields.owners, 0
    with Aside() as aside:
        for row in read_records(connection, lost):
            gathered.append(row)
            count += row[0]
            if count >= _CHUNK_ROWS:
                aside.do(_spill, spill, gathered, owners)
                gathered, count = [], 0
        if gathered:
            aside.do(_spill, spill, gathered, owners)


def _spill(spill: Spill, gathered: Sequence[PackedRecords], owners: pa.Array) -> None:
    _, numbers, *columns, replies = zip(*gathered, strict=True)
    *columns, places = columns
    numbers = from_bytes(pa.uint16(), numbers)
    arrays = [
        numbers,
        from_bytes(pa.int64(), columns[0]),
        from_bytes(pa.float64(), columns[1]),
        from_bytes(pa.uint8(), columns[2]),
        _replies(places, replies),
    ]
    spill.add(owners.take(numbers), pa.RecordBatch.from_arrays(arrays, schema=_COLUMNS))


def _replies(places: Sequence[bytes], replies: Sequence[list[str]]) -> pa.Array:
    """Return each reading's reply; null where the driver kept none."""
    texts = pa.array([text or None for some in replies for text in some], pa.string())
    ends = accumulate(len(piece) // _PLACE_BYTES for piece in places)
    before = [0, *accumulate(map(len, replies))][:-1]
    base = pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), pa.array(before, _PLACE))
    return texts.take(pc.add(from_bytes(_PLACE, places), pc.run_end_decode(base)))


def _dressed(
    rows: pa.RecordBatch, key: int, fields: _Fields, anchor_us: int, schema: pa.Schema
) -> pa.Table:
    times, numbers = rows["t_mono_ns"], rows["field"].cast(pa.int32())
    names = pa.array([row.name for row in fields.rows], pa.string())
    units = pa.array([row.unit for row in fields.rows], pa.string())
    return pa.Table.from_arrays(
        [
            repeated(key, len(times), fields.devices),
            times,
            seconds(times),
            utc(times, anchor_us),
            pa.DictionaryArray.from_arrays(numbers, names),
            nan_to_null(rows["value"]),
            pa.DictionaryArray.from_arrays(numbers, units),
            statuses(rows["status"]),
            rows["native"],
        ],
        schema=schema,
    )
