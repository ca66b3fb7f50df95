"""Many samples as few points: what a page or a plot can show of a channel, peaks included."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capa.errors import BundleError
from capa.storage.open import Bundle
from capa.storage.pieces import SCALARS_FILE, Wanted, check_columns, in_flight, pieces

__all__ = ["Binned", "Overview", "overview"]

_COLUMNS = ("channel", "unit", "t_mono_s", "value")


@dataclass(frozen=True, slots=True)
class Binned:
    """One channel in slices of the time; only slices with measurements are there.

    ``samples`` counts all rows; ``first``, ``last``, ``low``, ``high`` are None without any
    measurement. ``places`` are the numbers of the slices, from 0.
    """

    channel: str
    unit: str
    samples: int
    first: float | None
    last: float | None
    low: float | None
    high: float | None
    places: tuple[int, ...] = ()
    means: tuple[float, ...] = ()
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """All channels of a run, cut into slices of the time up to ``until_s``."""

    until_s: float
    channels: tuple[Binned, ...]


@dataclass
class _Slice:
    total: float = 0.0
    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")


@dataclass
class _Gathered:
    """What has gone by of one channel; ``first`` and ``last`` are led by their times."""

    unit: str
    samples: int = 0
    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None
    slices: dict[int, _Slice] = field(default_factory=dict)

    def take(self, place: int, row: dict[str, Any]) -> None:
        """Take what a piece holds of one slice, in the order of time."""
        mine = self.slices.setdefault(place, _Slice())
        mine.total += row["value_sum"]
        mine.count += row["value_count"]
        mine.low = min(mine.low, row["value_min"])
        mine.high = max(mine.high, row["value_max"])
        begun = (row["t_mono_s_first"], row["value_first"])
        ended = (row["t_mono_s_last"], row["value_last"])
        if self.first is None or begun[0] < self.first[0]:
            self.first = begun
        if self.last is None or ended[0] >= self.last[0]:
            self.last = ended

    def binned(self, channel: str) -> Binned:
        told = sorted(self.slices.items())
        return Binned(
            channel=channel,
            unit=self.unit,
            samples=self.samples,
            first=None if self.first is None else self.first[1],
            last=None if self.last is None else self.last[1],
            low=min((it.low for _, it in told), default=None),
            high=max((it.high for _, it in told), default=None),
            places=tuple(place for place, _ in told),
            means=tuple(it.total / it.count for _, it in told),
            lows=tuple(it.low for _, it in told),
            highs=tuple(it.high for _, it in told),
        )


def overview(bundle: Bundle, *, bins: int) -> Overview:
    """Cut a run into ``bins`` slices, one piece of it in memory at a time.

    The time is the run's, and no less than its samples'. A measurement is a sample with a value;
    NaN is none.

    Raises:
        BundleError: the samples can't be read.
    """
    until_s = _span_s(bundle)
    found: dict[str, _Gathered] = {}
    for table in pieces(bundle.path, Wanted(_COLUMNS)):
        for row in _totals(table):
            one = found.setdefault(row["channel"], _Gathered(row["unit"]))
            one.samples += row["t_mono_s_count"]
        for row in _slices(table, until_s, bins):
            found[row["channel"]].take(row["place"], row)
    channels = tuple(one.binned(name) for name, one in found.items())
    return Overview(until_s, channels)


def _totals(table: pa.Table) -> Iterator[dict[str, Any]]:
    grouped = table.group_by(["channel", "unit"], use_threads=False)
    yield from grouped.aggregate([("t_mono_s", "count")]).to_pylist()


def _slices(table: pa.Table, until_s: float, bins: int) -> Iterator[dict[str, Any]]:
    good = table.filter(pc.field("value").is_valid())
    share = pc.multiply(good["t_mono_s"], bins / until_s if until_s > 0 else 0.0)
    place = pc.max_element_wise(pc.min_element_wise(pc.floor(share), float(bins - 1)), 0.0)
    kinds = [("value", kind) for kind in ("sum", "count", "min", "max", "first", "last")]
    times = [("t_mono_s", kind) for kind in ("first", "last")]
    grouped = good.append_column("place", place.cast(pa.int32())).group_by(
        ["channel", "place"], use_threads=False
    )
    yield from grouped.aggregate([*kinds, *times]).to_pylist()


def _span_s(bundle: Bundle) -> float:
    last_s = _last_sample_s(bundle)
    try:
        return max(bundle.recorded_s(), last_s)
    except BundleError:  # no events to tell
        return last_s


def _last_sample_s(bundle: Bundle) -> float:
    """Return about when the last sample was taken; 0 without any."""
    path = bundle.path / SCALARS_FILE
    try:
        if path.exists():
            metadata = pq.read_metadata(path)
            check_columns(path, metadata.schema.to_arrow_schema(), _COLUMNS)
            return _last_in_parquet_s(metadata)
        with in_flight(bundle.path) as connection:
            row = connection.execute(
                "SELECT t_mono_ns FROM batches ORDER BY id DESC LIMIT 1"
            ).fetchone()
    except (OSError, pa.ArrowException, sqlite3.Error) as error:
        raise BundleError(
            f"{bundle.path}: the samples can't be read: {error}; see what capa bundle verify says"
        ) from error
    if row is None or not isinstance(row[0], bytes) or len(row[0]) % 8:
        return 0.0  # nothing, or damaged: the events tell
    return max(memoryview(row[0]).cast("q"), default=0) / 1e9


def _last_in_parquet_s(metadata: Any) -> float:  # noqa: ANN401 - pyarrow has no types
    last_s = 0.0
    for place in range(metadata.num_row_groups):
        group = metadata.row_group(place)
        for number in range(group.num_columns):
            column = group.column(number)
            if column.path_in_schema == "t_mono_s" and column.is_stats_set:
                last_s = max(last_s, column.statistics.max)
    return last_s
