"""Rules that know some physics: how fast a value can change, and whether a heater heats.

A controller that reports 0 % while its relay is welded, a thermocouple that has fallen out of the
furnace, an output left in manual: no alarm band on the value itself sees these in time.
"""

from collections import deque
from collections.abc import Iterator

from capa.channels.sample import Sample
from capa.channels.spec import Action, ChannelSpec
from capa.config.safety import RateWatch, ThermalWatch

__all__ = ["NoRiseRule", "RateRule", "UnaskedPowerRule", "UnaskedRiseRule"]

_POINTS = 64
"""How many samples of a window are kept: enough for a slope, whatever the poll rate."""


class _Window:
    """Samples of the last ``window_s``, thinned to a few dozen, and the one before them."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, float]] = deque()

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def add(self, at_s: float, value: float) -> None:
        points = self._points
        if not points or at_s - points[-1][0] >= self._window_s / _POINTS:
            points.append((at_s, value))
        while len(points) > 1 and points[1][0] <= at_s - self._window_s:
            points.popleft()

    def clear(self) -> None:
        self._points.clear()

    def spans(self, length_s: float) -> bool:
        return bool(self._points) and self._points[-1][0] - self._points[0][0] >= length_s

    def lowest(self) -> float:
        return min(value for _, value in self._points)

    def slope(self) -> float:
        """Return the least-squares slope per second."""
        count = len(self._points)
        mean_s = sum(at for at, _ in self._points) / count
        mean = sum(value for _, value in self._points) / count
        spread = sum((at - mean_s) ** 2 for at, _ in self._points)
        return sum((at - mean_s) * (value - mean) for at, value in self._points) / spread


class RateRule:
    """The slope of a channel over a window."""

    debounce_s = 0.0
    by_time = True

    def __init__(self, channel: ChannelSpec, watch: RateWatch) -> None:
        self.name = f"rate {channel.name}"
        if watch.direction != "any":
            self.name += f" {watch.direction}"
        self.action: Action = watch.action
        self.channels: tuple[str, ...] = (channel.name,)
        self._watch = watch
        self._unit = channel.unit
        self._window = _Window(watch.window_s)

    def feed(self, sample: Sample) -> None:
        """Keep a usable value."""
        if sample.usable:
            self._window.add(sample.at_s, sample.value)

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say how fast it changes; not before most of a window has been seen."""
        del now_s, raised
        watch = self._watch
        if len(self._window) < 3 or not self._window.spans(0.8 * watch.window_s):
            return ""
        slope = self._window.slope()
        seen = {"any": abs(slope), "rise": slope, "fall": -slope}[watch.direction]
        if seen <= watch.max_per_s:
            return ""
        return (
            f"{watch.channel} changes by {slope:+.3g} {self._unit}/s over {watch.window_s:g} s; "
            f"the most it may is {watch.max_per_s:g}"
        )


class _Heater:
    """What a thermal rule knows of its heater: setpoint, process value and power, as last read."""

    by_time = True
    debounce_s = 0.0

    def __init__(self, watch: ThermalWatch, unit: str, *, what: str, action: Action) -> None:
        self.name = f"{what} {watch.pv}"
        self.action: Action = action
        named = (watch.pv, watch.setpoint, watch.power)
        self.channels: tuple[str, ...] = tuple(name for name in named if name is not None)
        self._watch = watch
        self._unit = unit
        self._values: dict[str, float] = {}

    @property
    def pv(self) -> float | None:
        return self._values.get(self._watch.pv)

    @property
    def setpoint(self) -> float | None:
        return self._values.get(self._watch.setpoint)

    @property
    def power(self) -> float | None:
        return self._values.get(self._watch.power or "")

    def feed(self, sample: Sample) -> None:
        """Keep what was last read; a broken sensor is another rule's."""
        if sample.usable:
            self._values[sample.channel] = sample.value
            self.follow(sample)

    def follow(self, sample: Sample) -> None:
        """Draw conclusions from a new value."""
        raise NotImplementedError

    def asked_to_heat(self) -> bool:
        """Whether the setpoint is far above, and the controller does what it can."""
        watch, pv, setpoint = self._watch, self.pv, self.setpoint
        if pv is None or setpoint is None or setpoint <= pv + watch.band:
            return False
        return watch.power is None or (self.power is not None and self.power >= watch.full_power)

    def asked_not_to_heat(self) -> bool:
        """Whether the setpoint is far below."""
        pv, setpoint = self.pv, self.setpoint
        return pv is not None and setpoint is not None and setpoint < pv - self._watch.band


class NoRiseRule(_Heater):
    """Asked to heat, and it does not get warmer: a broken heater, a thermocouple that fell out."""

    def __init__(self, watch: ThermalWatch, unit: str, *, action: Action) -> None:
        super().__init__(watch, unit, what="no rise of", action=action)
        self._began: tuple[float, float] | None = None

    def follow(self, sample: Sample) -> None:
        """Start anew whenever it has risen enough, or is not asked to."""
        pv = self.pv
        if not self.asked_to_heat() or pv is None:
            self._began = None
        elif self._began is None or pv >= self._began[1] + self._watch.min_rise:
            self._began = (sample.at_s, pv)

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say how little it rose."""
        del raised
        watch, began, pv = self._watch, self._began, self.pv
        if began is None or pv is None or now_s - began[0] < watch.rise_time_s:
            return ""
        power = "" if self.power is None else f" at {self.power:g} % power"
        return (
            f"{watch.pv} rose by {pv - began[1]:.3g} {self._unit} in {now_s - began[0]:.0f} s "
            f"although {watch.setpoint} = {self.setpoint:g}{power}; expected are "
            f"{watch.min_rise:g} in {watch.rise_time_s:g} s: check heater, fuse and thermocouple"
        )


class UnaskedPowerRule(_Heater):
    """The controller gives power although its setpoint lies far below the process value."""

    def __init__(self, watch: ThermalWatch, unit: str, *, action: Action) -> None:
        super().__init__(watch, unit, what="unasked power to", action=action)
        self.debounce_s = watch.idle_power_time_s

    def follow(self, sample: Sample) -> None:
        """Nothing more to conclude."""

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say how much power, and what was asked for."""
        del now_s, raised
        watch, power = self._watch, self.power
        if power is None or power <= watch.idle_power or not self.asked_not_to_heat():
            return ""
        return (
            f"{watch.power} = {power:g} % although {watch.setpoint} = {self.setpoint:g} lies below "
            f"{watch.pv} = {self.pv:g} {self._unit}; at most {watch.idle_power:g} % is expected"
        )


class UnaskedRiseRule(_Heater):
    """It gets warmer although not asked to: a welded relay, whatever the controller reports.

    Once raised it holds until cooling has been seen: a furnace that has reached its balance at
    full power does not rise any more either.
    """

    def __init__(self, watch: ThermalWatch, unit: str, *, action: Action) -> None:
        super().__init__(watch, unit, what="unasked rise of", action=action)
        self._window = _Window(watch.idle_window_s)
        self._quiet_s: float | None = None
        self._highest: float | None = None

    def follow(self, sample: Sample) -> None:
        """Watch the process value once heat that was under way has had time to arrive."""
        if not self.asked_not_to_heat():
            self._quiet_s, self._highest = None, None
            self._window.clear()
            return
        if self._quiet_s is None:
            self._quiet_s = sample.at_s
        settled = sample.at_s - self._quiet_s >= self._watch.settle_s
        if sample.channel == self._watch.pv and settled:
            self._window.add(sample.at_s, sample.value)
            if self._highest is not None:
                self._highest = max(self._highest, sample.value)

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say how far it rose."""
        del now_s
        watch, pv = self._watch, self.pv
        if pv is None or not len(self._window):
            return ""
        if raised and self._highest is not None and pv > self._highest - watch.max_idle_rise:
            return f"{watch.pv} = {pv:g} {self._unit}, heated unasked, is not seen to cool yet"
        rise = pv - self._window.lowest()
        if rise < watch.max_idle_rise:
            return ""
        self._highest = pv
        return (
            f"{watch.pv} rose by {rise:.3g} {self._unit} within {watch.idle_window_s:g} s although "
            f"{watch.setpoint} = {self.setpoint:g} lies below it; at most {watch.max_idle_rise:g} "
            "is expected: cut the heater's supply and check its relay"
        )
