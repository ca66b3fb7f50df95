"""Channels computed from others: mass lost, slopes, differences; as their sources arrive."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from capa.channels.sample import Sample, Status
from capa.channels.spec import ChannelSpec, Difference, LossFraction, RatePerS
from capa.units import difference_scale, scale_between

if TYPE_CHECKING:  # the layer above names the shape; nothing of it is loaded here
    from capa.config.hardware import HardwareProfile

__all__ = ["Derivation", "DerivedChannels", "derivation"]


class Derivation(Protocol):
    """One derived channel: takes samples of its sources, gives its own."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The channels that it is computed from."""
        ...

    def feed(self, sample: Sample) -> Sample | None:
        """Take a sample of a source; return one of its own if there is enough for one."""
        ...

    def start_run(self) -> None:
        """Forget what belongs to the last run."""
        ...


def derivation(channel: ChannelSpec, units: Mapping[str, str]) -> Derivation:
    """Make the computation of a derived channel; ``units`` are those of all channels.

    Raises:
        UnitError: the channel's unit is not one that this computation can have.
        KeyError: a source has no unit, because it does not exist.
        ValueError: the channel is not derived.
    """
    match channel.derived:
        case LossFraction(of=of):
            return _LossFraction(channel.name, of, scale=_scale("1", channel.unit))
        case RatePerS(of=of, window_s=window_s):
            scale = _scale(f"{units[of]}/s", channel.unit)
            return _Slope(channel.name, of, window_s=window_s, scale=scale)
        case Difference(of=of, minus=minus):
            return _difference(channel, of, minus, units)
        case None:
            raise ValueError(f"channel '{channel.name}' is not derived")


def _scale(unit: str, to: str) -> float:
    """Return the factor to the channel's unit, for the few cases that need no unit library."""
    if (unit, to) == ("1", "%"):
        return 100.0
    return difference_scale(unit, to)


def _difference(
    channel: ChannelSpec, of: str, minus: str, units: Mapping[str, str]
) -> "_DifferenceOf":
    to_first = scale_between(units[minus], units[of])
    scale = difference_scale(units[of], channel.unit)
    return _DifferenceOf(
        channel.name, of, minus, lambda a, b: scale * (a - (to_first.gain * b + to_first.offset))
    )


class DerivedChannels:
    """All derived channels of a profile; also those derived from derived ones."""

    def __init__(self, derivations: Mapping[str, Derivation]) -> None:
        self._ordered = _in_order(derivations)
        self._by_source: dict[str, list[Derivation]] = {}
        for item in self._ordered:
            for source in item.sources:
                self._by_source.setdefault(source, []).append(item)

    @classmethod
    def from_profile(cls, profile: "HardwareProfile") -> "DerivedChannels":
        """Build the computations of a checked profile.

        Raises:
            UnitError, KeyError: the profile was not checked.
        """
        units = {channel.name: channel.unit for channel in profile.channels}
        derived = [channel for channel in profile.channels if channel.derived is not None]
        return cls({channel.name: derivation(channel, units) for channel in derived})

    def feed(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the derived samples that these updates cause, in the order they arise."""
        made: list[Sample] = []
        front: Iterable[Sample] = samples
        while front := [new for sample in front for new in self._caused_by(sample)]:
            made += front
        return made

    def start_run(self) -> None:
        """Begin a run: a loss counts from the first usable sample that follows."""
        for item in self._ordered:
            item.start_run()

    def _caused_by(self, sample: Sample) -> Iterable[Sample]:
        for item in self._by_source.get(sample.channel, ()):
            new = item.feed(sample)
            if new is not None:
                yield new


def _in_order(derivations: Mapping[str, Derivation]) -> list[Derivation]:
    """Refuse loops, which would feed themselves for ever."""
    done: dict[str, Derivation] = {}
    waiting = dict(derivations)
    while waiting:
        ready = [n for n, d in waiting.items() if not any(s in waiting for s in d.sources)]
        if not ready:
            raise ValueError(f"derived from themselves: {', '.join(sorted(waiting))}")
        for name in ready:
            done[name] = waiting.pop(name)
    return list(done.values())


def _passed_on(name: str, sample: Sample) -> Sample:
    """A source that is no measurement makes the derived value none, for the same reason."""
    status = sample.status if not sample.status.usable else Status.SENSOR_FAIL
    return Sample(name, math.nan, sample.at_s, status)


class _LossFraction:
    """``(m0 - m) / m0``, with ``m0`` the first usable sample since the run began."""

    def __init__(self, name: str, of: str, *, scale: float) -> None:
        self._name = name
        self._scale = scale
        self._m0: float | None = None
        self.sources = (of,)

    def start_run(self) -> None:
        self._m0 = None

    def feed(self, sample: Sample) -> Sample | None:
        if not sample.usable:
            return _passed_on(self._name, sample)
        if self._m0 is None:
            self._m0 = sample.value
        if self._m0 == 0:  # an empty pan loses nothing that could be told
            return Sample(self._name, math.nan, sample.at_s, Status.UNDERRANGE)
        loss = (self._m0 - sample.value) / self._m0
        return Sample(self._name, self._scale * loss, sample.at_s, sample.status)


class _Slope:
    """Least-squares slope over a sliding window; ``SETTLING`` until the window is full."""

    def __init__(self, name: str, of: str, *, window_s: float, scale: float) -> None:
        self._name = name
        self._window_s = window_s
        self._scale = scale
        self._points: deque[tuple[float, float]] = deque()
        self._full = False
        self.sources = (of,)

    def start_run(self) -> None:
        """Keep the window: a slope belongs to the signal, not to the run."""

    def feed(self, sample: Sample) -> Sample | None:
        if not sample.usable:
            return _passed_on(self._name, sample)
        points = self._points
        points.append((sample.at_s, sample.value))
        while points[0][0] <= sample.at_s - self._window_s:
            points.popleft()
            self._full = True
        slope = _slope(points)
        if slope is None:
            return None
        status = sample.status if self._full else Status.SETTLING
        return Sample(self._name, self._scale * slope, sample.at_s, status)


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of the line of least squares; None for points at one instant."""
    count = len(points)
    mean_t = sum(t for t, _ in points) / count
    mean_v = sum(v for _, v in points) / count
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    if spread == 0:
        return None
    return sum((t - mean_t) * (v - mean_v) for t, v in points) / spread


class _DifferenceOf:
    """``of - minus``, whenever either arrives; as old as the older of the two."""

    def __init__(
        self, name: str, of: str, minus: str, subtract: Callable[[float, float], float]
    ) -> None:
        self._name = name
        self._subtract = subtract
        self._latest: dict[str, Sample] = {}
        self.sources = (of, minus)

    def start_run(self) -> None:
        """Keep both values: they belong to the signals, not to the run."""

    def feed(self, sample: Sample) -> Sample | None:
        self._latest[sample.channel] = sample
        if any(source not in self._latest for source in self.sources):
            return None
        first, second = (self._latest[source] for source in self.sources)
        at_s = min(first.at_s, second.at_s)
        for part in (first, second):
            if not part.usable:
                return replace(_passed_on(self._name, part), at_s=at_s)
        settling = Status.SETTLING in (first.status, second.status)
        status = Status.SETTLING if settling else Status.OK
        return Sample(self._name, self._subtract(first.value, second.value), at_s, status)
