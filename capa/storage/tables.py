"""The samples of a bundle as Arrow tables: long, wide; from Parquet, or from a run in flight.

One of the modules that load pyarrow.
"""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from capa.errors import BundleError
from capa.storage.pieces import COLUMNS, SCALARS_FILE, Wanted, in_flight, pieces

__all__ = ["channel_units", "read_scalars", "wide"]


def channel_units(folder: Path) -> dict[str, str]:
    """Return the unit of each channel of a bundle, in the order in which they are stored.

    Raises:
        BundleError: the samples can't be read.
    """
    if (folder / SCALARS_FILE).exists():
        found: dict[str, str] = {}
        for table in pieces(folder, Wanted(("channel", "unit"))):
            seen = table.group_by(["channel", "unit"], use_threads=False).aggregate([])
            pairs = zip(seen["channel"].to_pylist(), seen["unit"].to_pylist(), strict=True)
            found |= pairs
        return found
    try:
        with in_flight(folder) as connection:
            return dict(connection.execute("SELECT name, unit FROM channels ORDER BY id"))
    except sqlite3.Error as error:
        raise BundleError(f"{folder}: the channels can't be read: {error}") from error


def read_scalars(
    folder: Path,
    channels: Sequence[str] | None,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    anchor_utc: datetime | None = None,
) -> pa.Table:
    """Read samples, the row groups that hold them and no others; see ``Bundle.scalars``."""
    if channels is not None:
        _check_names(folder, channels)
    wanted = Wanted(channels=channels, start_ns=start_ns, end_ns=end_ns)
    found = list(pieces(folder, wanted, anchor_utc=anchor_utc))
    if not found:
        return COLUMNS.empty_table()
    table = pa.concat_tables(found)
    if (folder / SCALARS_FILE).exists():
        return table
    names = pa.array(channel_units(folder), pa.string())
    return _sorted(table, names) if len(found) > 1 else table


def _sorted(table: pa.Table, names: pa.Array) -> pa.Table:
    """Put pieces in order: by channel, as they were declared, then by time."""
    places = pc.index_in(table["channel"].cast(pa.string()), value_set=names)
    keys = pa.table({"place": places, "time": table["t_mono_ns"]})
    order = pc.sort_indices(keys, sort_keys=[("place", "ascending"), ("time", "ascending")])
    return table.take(order)


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


def _check_names(folder: Path, channels: Sequence[str]) -> None:
    known = channel_units(folder)
    for name in channels:
        if name not in known:
            there = ", ".join(known) or "none"
            raise BundleError(f"{folder}: no samples of a channel {name!r}; there are {there}")
