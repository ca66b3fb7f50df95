"""What became of each step: how long a value was held within its band, how fast a ramp went.

Made from the events and the samples of a bundle alone, so that it can be made again.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capa.storage.entries import HoldQuality, RampQuality, StepEntry

__all__ = ["judge_steps", "read_steps"]

_BAND_SHARE = 0.01
_GAP_PERIODS = 2.5
_OUTCOMES = {"method.step.exited": "exited", "method.step.failed": "failed"}
_QUERY = (
    "SELECT kind, t_mono_ns, metadata_json FROM events WHERE kind IN ('method.step.entered',"
    " 'method.step.exited', 'method.step.failed', 'method.command.issued',"
    " 'run.stop_requested') ORDER BY id"
)


@dataclass
class Walked:
    """One step, as its events tell of it: when, and what was commanded meanwhile."""

    index: int
    kind: str
    target: str | None
    segment: bool
    entered_ns: int
    left_ns: int | None = None
    outcome: str = "running"
    first: tuple[int, float] | None = None
    last: tuple[int, float] | None = None

    def commanded(self, at_ns: int, facts: Mapping[str, Any]) -> None:
        value = facts.get("value")
        if facts.get("channel") == self.target and isinstance(value, int | float):
            self.first = self.first or (at_ns, float(value))
            self.last = (at_ns, float(value))


@dataclass
class _Walk:
    steps: list[Walked] = field(default_factory=list)
    open: list[Walked] = field(default_factory=list)
    stopped: bool = False

    def take(self, kind: str, at_ns: int, facts: Mapping[str, Any]) -> None:
        if kind == "run.stop_requested":
            self.stopped = True
        elif kind == "method.step.entered":
            target, index = facts.get("target"), facts.get("step_index", len(self.steps))
            what = str(facts.get("step_kind", ""))
            step = Walked(index, what, target, bool(facts.get("segment")), at_ns)
            self.steps.append(step)
            self.open.append(step)
        elif kind == "method.command.issued":
            for step in self.open:
                step.commanded(at_ns, facts)
        elif self.open:
            step = self.open.pop()
            step.left_ns, step.outcome = at_ns, _OUTCOMES[kind]
            if self.stopped and step.outcome == "exited":
                step.outcome = "stopped"


def read_steps(connection: sqlite3.Connection) -> list[Walked]:
    """Return the steps in the order in which they began; one that never ended is ``running``.

    Raises:
        sqlite3.Error: the events cannot be read.
    """
    walk = _Walk()
    for kind, at_ns, text in connection.execute(_QUERY):
        try:
            facts = json.loads(text)
        except ValueError:  # an altered row: the chain says so
            continue
        walk.take(kind, at_ns, facts if isinstance(facts, dict) else {})
    return walk.steps


def judge_steps(
    steps: Sequence[Walked],
    scalars: Path,
    info: Mapping[str, Mapping[str, Any]],
    *,
    end_ns: int,
) -> tuple[StepEntry, ...]:
    """Say of each step how well it went, one channel in memory at a time.

    Args:
        steps: see ``read_steps``.
        scalars: the Parquet file.
        info: what is known of each channel.
        end_ns: when the run ended: a step that was never left ended then.
    """
    judged: dict[int, dict[str, Any]] = {}
    for channel, places in _by_channel(steps, info).items():
        measured = _measurements(scalars, channel)
        for place in places:
            step = steps[place]
            part = _within(measured, step.entered_ns, step.left_ns or end_ns)
            if step.kind == "hold":
                judged[place] = {"hold": _hold(step, channel, part, info, end_ns)}
            else:
                judged[place] = {"ramp": _ramp(step, channel, part)}
    return tuple(_entry(step, judged.get(place, {})) for place, step in enumerate(steps))


def _by_channel(
    steps: Sequence[Walked], info: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[int]]:
    """Return the places of the holds and ramps, by the channel that measures them."""
    found: dict[str, list[int]] = {}
    for place, step in enumerate(steps):
        if step.kind in ("hold", "ramp") and step.target and step.first:
            channel = info.get(step.target, {}).get("measured_by") or step.target
            found.setdefault(channel, []).append(place)
    return found


def _entry(step: Walked, quality: Mapping[str, Any]) -> StepEntry:
    return StepEntry(
        index=step.index,
        kind=step.kind,
        target=step.target,
        entered_ns=step.entered_ns,
        left_ns=step.left_ns,
        outcome=step.outcome,
        segment=step.segment,
        **quality,
    )


def _measurements(scalars: Path, channel: str) -> pa.Table:
    """Return the times and values of a channel's measurements."""
    named = pc.field("channel") == channel
    good = pc.field("status").isin(["ok", "settling"]) & pc.field("value").is_valid()
    table = pq.read_table(scalars, columns=["t_mono_ns", "value"], filters=named & good)
    return table.combine_chunks()


def _within(measured: pa.Table, since_ns: int, until_ns: int) -> pa.Table:
    times = measured["t_mono_ns"]
    inside = pc.and_(pc.greater_equal(times, since_ns), pc.less_equal(times, until_ns))
    return measured.filter(inside)


def _hold(
    step: Walked, channel: str, part: pa.Table, info: Mapping[str, Mapping[str, Any]], end_ns: int
) -> HoldQuality:
    value = step.last[1] if step.last else 0.0
    about = info.get(step.target or "", {})
    band = about.get("hold_band") or abs(value) * _BAND_SHARE or None
    if not part.num_rows:
        return HoldQuality(channel=channel, value=value, band=band)
    values = part["value"]
    left_ns = step.left_ns or end_ns
    within_s = None if band is None else _time_within(part, value, band, left_ns, about)
    lasted_s = (left_ns - step.entered_ns) / 1e9
    return HoldQuality(
        channel=channel,
        value=value,
        band=band,
        samples=part.num_rows,
        within_s=within_s,
        within_fraction=within_s / lasted_s if within_s is not None and lasted_s > 0 else None,
        mean=pc.mean(values).as_py(),
        std=pc.stddev(values).as_py(),
        min=pc.min(values).as_py(),
        max=pc.max(values).as_py(),
    )


def _time_within(
    part: pa.Table, value: float, band: float, left_ns: int, about: Mapping[str, Any]
) -> float:
    """Return for how long the measurements said so; each counts until the next, but no gap."""
    times = part["t_mono_ns"].combine_chunks()
    ends = pa.concat_arrays([times[1:], pa.array([left_ns], pa.int64())])
    lengths = pc.subtract(ends, times)
    if isinstance(period_s := about.get("period_s"), int | float):
        lengths = pc.min_element_wise(lengths, round(period_s * _GAP_PERIODS * 1e9))
    close = pc.less_equal(pc.abs(pc.subtract(part["value"].combine_chunks(), value)), band)
    return (pc.sum(lengths.filter(close)).as_py() or 0) / 1e9


def _ramp(step: Walked, channel: str, part: pa.Table) -> RampQuality:
    first, last = step.first, step.last
    asked = None
    if first is not None and last is not None and last[0] > first[0]:
        asked = (last[1] - first[1]) / ((last[0] - first[0]) / 1e9)
    values = part["value"]
    return RampQuality(
        channel=channel,
        asked_rate_per_s=asked,
        achieved_rate_per_s=_slope(part),
        start_value=None if first is None else first[1],
        end_value=None if last is None else last[1],
        first=values[0].as_py() if part.num_rows else None,
        last=values[-1].as_py() if part.num_rows else None,
    )


def _slope(part: pa.Table) -> float | None:
    """Return the least-squares slope per second; None of fewer than two instants."""
    if part.num_rows < 2:
        return None
    seconds = pc.divide(part["t_mono_ns"].cast(pa.float64(), safe=False), 1e9)
    times = pc.subtract(seconds, pc.mean(seconds))
    values = pc.subtract(part["value"], pc.mean(part["value"]))
    spread: float = pc.sum(pc.multiply(times, times)).as_py()
    together: float = pc.sum(pc.multiply(times, values)).as_py()
    return together / spread if spread > 0 else None
