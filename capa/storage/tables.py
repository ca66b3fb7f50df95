"""Samples as Arrow tables: from ``scalars.parquet``, or from what is still in flight."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capa.errors import BundleError
from capa.storage.columns import from_bytes, nan_to_null, seconds, statuses, utc
from capa.storage.inflight import INFLIGHT_FILE, connect_for_reading
from capa.storage.packed import Lost, read_samples

__all__ = ["COLUMNS", "channel_units", "read_scalars", "wide"]

SCALARS_FILE = "scalars.parquet"
_TEXT = pa.dictionary(pa.int32(), pa.string())
COLUMNS = pa.schema(
    [
        ("channel", _TEXT),
        ("t_mono_ns", pa.int64()),
        ("t_mono_s", pa.float64()),
        ("t_utc", pa.timestamp("us", tz="UTC")),
        ("value", pa.float64()),
        ("unit", _TEXT),
        ("status", _TEXT),
        ("raw_value", pa.float64()),
    ]
)


def channel_units(folder: Path) -> dict[str, str]:
    """Return the unit of each channel of a bundle, in the order in which they are stored."""
    path = folder / SCALARS_FILE
    if path.exists():
        table = _parquet(path, ["channel", "unit"], None)
        seen = table.group_by(["channel", "unit"], use_threads=False).aggregate([])
        pairs = zip(seen["channel"].to_pylist(), seen["unit"].to_pylist(), strict=True)
        return dict(pairs)
    with _in_flight(folder) as connection:
        return dict(connection.execute("SELECT name, unit FROM channels ORDER BY id"))


def read_scalars(
    folder: Path,
    channels: Sequence[str] | None,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    anchor_utc: datetime | None = None,
) -> pa.Table:
    """Read samples; see ``Bundle.scalars``."""
    condition = None
    for bound in _bounds(start_ns, end_ns):
        condition = bound if condition is None else condition & bound
    if channels is not None:
        _check_names(folder, channels)
        named = pc.field("channel").cast(pa.string()).isin(list(channels))
        condition = named if condition is None else condition & named
    path = folder / SCALARS_FILE
    if path.exists():
        return _parquet(path, COLUMNS.names, condition)
    table = _from_flight(folder, anchor_utc)
    return table if condition is None else table.filter(condition)


def wide(table: pa.Table, *, every_s: float, carry_s: float) -> pa.Table:
    """Return one row every ``every_s`` and one column a channel: its latest measurement.

    A measurement older than ``carry_s`` is not carried on: the cell is empty. Measurements are
    samples with a usable status and a value.
    """
    step = round(every_s * 1e9)
    good = table.filter(
        pc.field("status").cast(pa.string()).isin(["ok", "settling"]) & pc.field("value").is_valid()
    )
    last = (pc.max(table["t_mono_ns"]).as_py() or 0) if table.num_rows else 0
    grid = pa.array(range(0, last + step, step), pa.int64())
    columns = {"t_mono_s": pc.divide(grid.cast(pa.float64(), safe=False), 1e9)}
    for name in dict.fromkeys(table["channel"].to_pylist()):
        rows = good.filter(pc.field("channel").cast(pa.string()) == name)
        columns[name] = _latest(rows, grid, round(carry_s * 1e9))
    return pa.table(columns)


def _latest(rows: pa.Table, grid: pa.Array, carry_ns: int) -> pa.Array:
    """Return at each instant of the grid the latest value that is not older than ``carry_ns``."""
    times = rows["t_mono_ns"].combine_chunks()
    every = pc.unique(pa.chunked_array([times, grid]))
    every = every.take(pc.sort_indices(every))
    place = pc.fill_null_forward(pc.index_in(every, value_set=times))
    at = pc.index_in(grid, value_set=every)
    place = place.take(at)
    age = pc.subtract(grid, times.take(place))
    values = rows["value"].combine_chunks().take(place)
    return pc.if_else(pc.less_equal(age, carry_ns), values, pa.scalar(None, pa.float64()))


def _bounds(start_ns: int | None, end_ns: int | None) -> list[pc.Expression]:
    found = []
    if start_ns is not None:
        found.append(pc.field("t_mono_ns") >= start_ns)
    if end_ns is not None:
        found.append(pc.field("t_mono_ns") < end_ns)
    return found


def _check_names(folder: Path, channels: Sequence[str]) -> None:
    known = channel_units(folder)
    for name in channels:
        if name not in known:
            there = ", ".join(known) or "none"
            raise BundleError(f"{folder}: no samples of a channel {name!r}; there are {there}")


def _parquet(path: Path, columns: Sequence[str], condition: pc.Expression | None) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns), filters=condition)
    except (OSError, pa.ArrowException) as error:
        raise BundleError(
            f"{path}: the samples can't be read: {error}; see what capa bundle verify says"
        ) from error


def _in_flight(folder: Path) -> "closing[sqlite3.Connection]":
    path = folder / INFLIGHT_FILE
    if not path.exists():
        raise BundleError(f"{folder}: there is neither {SCALARS_FILE} nor {INFLIGHT_FILE}")
    return closing(connect_for_reading(path))


def _from_flight(folder: Path, anchor_utc: datetime | None) -> pa.Table:
    try:
        with _in_flight(folder) as connection:
            named = connection.execute("SELECT id, name, unit FROM channels ORDER BY id").fetchall()
            rows = list(read_samples(connection, Lost()))
    except sqlite3.Error as error:
        path = folder / INFLIGHT_FILE
        raise BundleError(f"{path}: the samples can't be read: {error}") from error
    if not rows:
        return COLUMNS.empty_table()
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
    keys = pa.table({"place": places, "time": at})
    return table.take(
        pc.sort_indices(keys, sort_keys=[("place", "ascending"), ("time", "ascending")])
    )
