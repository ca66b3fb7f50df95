"""Many samples as few points: what a page or a plot can show of a channel, peaks included."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from capa.errors import BundleError
from capa.storage.open import Bundle

__all__ = ["Binned", "binned", "span_s"]


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


def span_s(bundle: Bundle, table: pa.Table) -> float:
    """Return the time that pages and plots show: the run's, and no less than its samples'."""
    last_s = pc.max(table["t_mono_s"]).as_py() or 0.0
    try:
        return max(bundle.recorded_s(), last_s)
    except BundleError:  # no events to tell
        return float(last_s)


def binned(table: pa.Table, *, until_s: float, bins: int) -> list[Binned]:
    """Return each channel of a table of samples, cut into ``bins`` slices up to ``until_s``.

    A measurement is a sample with a value; NaN is none.
    """
    totals = table.group_by(["channel", "unit"], use_threads=False)
    totals = totals.aggregate([("t_mono_ns", "count")])
    good = table.select(["channel", "t_mono_s", "value"]).filter(pc.field("value").is_valid())
    whole = good.group_by("channel", use_threads=False).aggregate(
        [("value", kind) for kind in ("first", "last", "min", "max")]
    )
    bounds = {row["channel"]: row for row in whole.to_pylist()}
    slices = _slices(good, until_s, bins)
    return [_channel(row, bounds.get(row["channel"]), slices) for row in totals.to_pylist()]


def _slices(good: pa.Table, until_s: float, bins: int) -> dict[str, list[dict[str, float]]]:
    share = pc.multiply(good["t_mono_s"], bins / until_s if until_s > 0 else 0.0)
    place = pc.max_element_wise(pc.min_element_wise(pc.floor(share), float(bins - 1)), 0.0)
    found = (
        good.append_column("place", place.cast(pa.int32()))
        .group_by(["channel", "place"], use_threads=False)
        .aggregate([("value", kind) for kind in ("mean", "min", "max")])
    )
    by_channel: dict[str, list[dict[str, float]]] = {}
    for row in found.to_pylist():
        by_channel.setdefault(row["channel"], []).append(row)
    return by_channel


def _channel(
    row: dict[str, object],
    bounds: dict[str, float] | None,
    slices: dict[str, list[dict[str, float]]],
) -> Binned:
    name = str(row["channel"])
    mine = sorted(slices.get(name, []), key=lambda each: each["place"])
    known = bounds or {}
    return Binned(
        channel=name,
        unit=str(row["unit"]),
        samples=int(str(row["t_mono_ns_count"])),
        first=known.get("value_first"),
        last=known.get("value_last"),
        low=known.get("value_min"),
        high=known.get("value_max"),
        places=tuple(int(each["place"]) for each in mine),
        means=tuple(each["value_mean"] for each in mine),
        lows=tuple(each["value_min"] for each in mine),
        highs=tuple(each["value_max"] for each in mine),
    )
