"""The samples of a bundle piece by piece, so that a long run is never in memory as a whole.

Of ``scalars.parquet`` only the row groups and columns that are wanted are read: what is in a row
group its statistics tell.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capa.errors import BundleError
from capa.storage.columns import INSTANT, TEXT, from_bytes, nan_to_null, seconds, statuses, utc
from capa.storage.inflight import INFLIGHT_FILE, connect_for_reading
from capa.storage.packed import Lost, PackedSamples, read_samples

__all__ = ["COLUMNS", "SCALARS_FILE", "Wanted", "check_columns", "in_flight", "pieces"]

SCALARS_FILE = "scalars.parquet"
COLUMNS = pa.schema(
    [
        ("channel", TEXT),
        ("t_mono_ns", pa.int64()),
        ("t_mono_s", pa.float64()),
        ("t_utc", INSTANT),
        ("value", pa.float64()),
        ("unit", TEXT),
        ("status", TEXT),
        ("raw_value", pa.float64()),
    ]
)
_CHUNK_ROWS = 131_072


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples, and what of them; times in ns since the arming, ``end_ns`` is not in it."""

    columns: Sequence[str] = tuple(COLUMNS.names)
    channels: Collection[str] | None = None
    start_ns: int | None = None
    end_ns: int | None = None

    def condition(self) -> pc.Expression | None:
        """Return what a sample must fulfil; None: nothing."""
        at, found = pc.field("t_mono_ns"), []
        if self.channels is not None:
            found.append(pc.field("channel").cast(pa.string()).isin(list(self.channels)))
        if self.start_ns is not None:
            found.append(at >= self.start_ns)
        if self.end_ns is not None:
            found.append(at < self.end_ns)
        return reduce(and_, found) if found else None

    def may_be_in(self, group: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
        """Whether a row group may hold such a sample; True where its statistics say nothing."""
        channel, at = _bounds(group, "channel"), _bounds(group, "t_mono_ns")
        if channel and self.channels is not None:
            low, high = channel
            if not any(low <= name <= high for name in self.channels):
                return False
        if not at:
            return True
        after_end = self.end_ns is not None and at[0] >= self.end_ns
        before_start = self.start_ns is not None and at[1] < self.start_ns
        return not (after_end or before_start)


def _bounds(group: Any, name: str) -> tuple[Any, Any] | None:  # noqa: ANN401 - as above
    for place in range(group.num_columns):
        column = group.column(place)
        if column.path_in_schema == name:
            told = column.statistics
            return (told.min, told.max) if told is not None and told.has_min_max else None
    return None


def pieces(
    folder: Path, wanted: Wanted, *, anchor_utc: datetime | None = None
) -> Iterator[pa.Table]:
    """Yield samples, about a row group at a time.

    Of a sealed bundle they come in the order of the file. Of one in flight each piece is sorted,
    by channel and time, and the pieces come in the order of arrival.

    Raises:
        BundleError: the samples can't be read.
    """
    path = folder / SCALARS_FILE
    if path.exists():
        found = _from_parquet(path, wanted)
    else:
        found = _selected(_from_flight(folder, anchor_utc), wanted)
    try:
        yield from found
    except (OSError, pa.ArrowException, sqlite3.Error) as error:
        raise BundleError(
            f"{folder}: the samples can't be read: {error}; see what capa bundle verify says"
        ) from error


def check_columns(path: Path, schema: pa.Schema, names: Collection[str]) -> None:
    """Look whether a file of samples has these columns, each once and of its kind.

    Raises:
        BundleError: it has not; somebody else wrote it.
    """
    for name in names:
        place, kind = schema.get_field_index(name), _kind(COLUMNS.field(name).type)
        if place < 0:
            words = f"there is no column {name}, or more than one"
        elif _kind(found := schema.field(place).type) != kind:
            words = f"the column {name} is {found}, not {kind}"
        else:
            continue
        raise BundleError(f"{path}: {words}; see what capa bundle verify says")


def _kind(of: pa.DataType) -> str:
    """Return what a column is like; text is text, with a dictionary or without."""
    plain = of.value_type if pa.types.is_dictionary(of) else of
    if pa.types.is_string(plain) or pa.types.is_large_string(plain):
        return "text"
    return "a time" if pa.types.is_timestamp(plain) else str(plain)


def in_flight(folder: Path) -> "closing[sqlite3.Connection]":
    """Open what a run recorded that is not sealed.

    Raises:
        BundleError: there is nothing of the kind.
        sqlite3.Error: it cannot be opened.
    """
    path = folder / INFLIGHT_FILE
    if not path.exists():
        raise BundleError(f"{folder}: there is neither {SCALARS_FILE} nor {INFLIGHT_FILE}")
    return closing(connect_for_reading(path))


def _from_parquet(path: Path, wanted: Wanted) -> Iterator[pa.Table]:
    condition = wanted.condition()
    needed = list(wanted.columns)
    if condition is not None:
        needed += [name for name in ("channel", "t_mono_ns") if name not in needed]
    with pq.ParquetFile(path) as file:
        check_columns(path, file.schema_arrow, needed)
        for place in range(file.num_row_groups):
            if wanted.may_be_in(file.metadata.row_group(place)):
                table = file.read_row_group(place, columns=needed)
                yield from _selected([table], wanted)


def _selected(tables: Iterator[pa.Table] | list[pa.Table], wanted: Wanted) -> Iterator[pa.Table]:
    condition = wanted.condition()
    for table in tables:
        found = table if condition is None else table.filter(condition)
        if found.num_rows:
            yield found.select(list(wanted.columns))


def _from_flight(folder: Path, anchor_utc: datetime | None) -> Iterator[pa.Table]:
    with in_flight(folder) as connection:
        named = connection.execute("SELECT id, name, unit FROM channels ORDER BY id").fetchall()
        gathered: list[PackedSamples] = []
        count = 0
        for row in read_samples(connection, Lost()):
            gathered.append(row)
            count += row[0]
            if count >= _CHUNK_ROWS:
                yield _table(gathered, named, anchor_utc)
                gathered, count = [], 0
        if gathered:
            yield _table(gathered, named, anchor_utc)


def _table(
    rows: list[PackedSamples], named: list[tuple[int, str, str]], anchor_utc: datetime | None
) -> pa.Table:
    """Return batches as they will be when they are sealed, sorted among themselves."""
    _, owners, times, values, codes, raws = zip(*rows, strict=True)
    places = pc.index_in(
        from_bytes(pa.uint16(), owners), value_set=pa.array([row[0] for row in named], pa.uint16())
    )
    at = from_bytes(pa.int64(), times)
    table = pa.Table.from_arrays(
        [
            pa.DictionaryArray.from_arrays(places, pa.array([row[1] for row in named])),
            at,
            seconds(at),
            utc(at, 0 if anchor_utc is None else round(anchor_utc.timestamp() * 1e6)),
            nan_to_null(from_bytes(pa.float64(), values)),
            pa.DictionaryArray.from_arrays(places, pa.array([row[2] for row in named])),
            statuses(from_bytes(pa.uint8(), codes)),
            nan_to_null(from_bytes(pa.float64(), raws)),
        ],
        schema=COLUMNS,
    )
    return table.take(_order(places, at))


def _order(places: pa.Array, at: pa.Array) -> pa.Array:
    keys = pa.table({"place": places, "time": at})
    return pc.sort_indices(keys, sort_keys=[("place", "ascending"), ("time", "ascending")])
