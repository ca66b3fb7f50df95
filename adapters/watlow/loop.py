"""The heat loop of the simulated controller."""

from dataclasses import dataclass, field

__all__ = ["HeatLoop", "OpenLoopWatch"]


@dataclass(slots=True)
class HeatLoop:
    """Proportional band, reset and rate, as an EZ-ZONE PM names them; heat only, 0 to 100 %.

    The reset works inside the proportional band and while the output is not saturated, and is
    forgotten outside the band: a long climb does not wind it up.
    """

    band_degC: float = 13.9
    integral_s: float = 180.0
    derivative_s: float = 0.0
    _reset_pct: float = field(default=0.0, init=False)
    _last_pv_degC: float | None = field(default=None, init=False)

    def forget(self) -> None:
        """Start afresh, as after a change of mode."""
        self._reset_pct = 0.0
        self._last_pv_degC = None

    def power_pct(self, setpoint_degC: float, pv_degC: float, dt_s: float) -> float:
        """Return the heat power after ``dt_s`` more seconds."""
        gain = 100.0 / self.band_degC
        error_degC = setpoint_degC - pv_degC
        wanted = gain * error_degC + self._reset_pct + self._rate_pct(gain, pv_degC, dt_s)
        if abs(error_degC) > self.band_degC:
            self._reset_pct = 0.0
        elif self.integral_s > 0 and self._may_integrate(wanted, error_degC):
            self._reset_pct += gain * error_degC * dt_s / self.integral_s
            self._reset_pct = min(100.0, max(0.0, self._reset_pct))
        return min(100.0, max(0.0, wanted))

    @staticmethod
    def _may_integrate(wanted_pct: float, error_degC: float) -> bool:
        """Whether the output is unsaturated, or the error pulls it out of saturation."""
        return (wanted_pct < 100.0 or error_degC < 0) and (wanted_pct > 0.0 or error_degC > 0)

    def _rate_pct(self, gain: float, pv_degC: float, dt_s: float) -> float:
        last, self._last_pv_degC = self._last_pv_degC, pv_degC
        if last is None or dt_s <= 0:
            return 0.0
        return -gain * self.derivative_s * (pv_degC - last) / dt_s


@dataclass(slots=True)
class OpenLoopWatch:
    """Open-loop detection: full power for a time, and the process value has to move.

    By how much and for how long are registers 1926 and 1924. That heating stops until the error
    is cleared is a modelling choice.
    """

    code: int = 61
    _since_s: float = field(default=0.0, init=False)
    _from_degC: float | None = field(default=None, init=False)

    def clear(self) -> None:
        """Forget what was found, and begin anew."""
        self.code, self._since_s, self._from_degC = 61, 0.0, None

    def look(
        self, power_pct: float, pv_degC: float, dt_s: float, *, time_s: float, by_degC: float
    ) -> None:
        """Watch ``dt_s`` more seconds."""
        if power_pct < 100.0 or self._from_degC is None:
            self._since_s, self._from_degC = 0.0, pv_degC
            return
        self._since_s += dt_s
        moved_degC = pv_degC - self._from_degC
        if moved_degC >= by_degC:
            self._since_s, self._from_degC = 0.0, pv_degC
        elif self._since_s >= time_s:
            self.code = 1275 if moved_degC <= -by_degC else 1274
