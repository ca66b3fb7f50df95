"""Auto-tune of the simulated controller: full power and none about a share of the set point.

The requests, the codes and the share (register 1918) are those of the register list. How a PM
tunes is not documented: here a relay swings the furnace, and the classic rules make band, integral
and derivative of amplitude and period.
"""

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = ["COMPLETE", "IDLE", "RUNNING", "TIMEOUT", "AutoTune", "Tuned"]

IDLE: Final = 62
RUNNING: Final = 119
COMPLETE: Final = 18
TIMEOUT: Final = 118

_CYCLES = 3
_LONGEST_S = 3600.0
_LEAST_SWING_DEGC = 0.05


class Tuned(NamedTuple):
    """What a tune found: registers 1890, 1894 and 1896."""

    band_degC: float
    integral_s: float
    derivative_s: float


@dataclass(slots=True)
class AutoTune:
    """One at a time; ``status`` is register 1932."""

    status: int = IDLE
    _target_degC: float = field(default=0.0, init=False)
    _elapsed_s: float = field(default=0.0, init=False)
    _heats: bool = field(default=True, init=False)
    _low_degC: float = field(default=math.inf, init=False)
    _high_degC: float = field(default=-math.inf, init=False)
    _rises_at_s: list[float] = field(default_factory=list, init=False)

    @property
    def runs(self) -> bool:
        """Whether it drives the output now."""
        return self.status == RUNNING

    def start(self, setpoint_degC: float, share_pct: float) -> None:
        """Begin, about a share of the set point."""
        self.status = RUNNING
        self._target_degC = setpoint_degC * share_pct / 100.0
        self._elapsed_s, self._heats, self._rises_at_s = 0.0, True, []
        self._low_degC, self._high_degC = math.inf, -math.inf

    def stop(self) -> None:
        """Give up, as when the controller is switched off."""
        if self.runs:
            self.status = IDLE

    def step(self, pv_degC: float, dt_s: float) -> tuple[float, Tuned | None]:
        """Return the power of the next ``dt_s`` seconds, and what was found if it is done."""
        self._elapsed_s += dt_s
        if self._elapsed_s > _LONGEST_S:
            self.status = TIMEOUT
            return 0.0, None
        if self._rises_at_s:  # the first swing is the climb, and tells nothing
            self._low_degC = min(self._low_degC, pv_degC)
            self._high_degC = max(self._high_degC, pv_degC)
        heats = pv_degC < self._target_degC
        rises = heats and not self._heats
        self._heats = heats
        if rises:
            self._rises_at_s.append(self._elapsed_s)
            if len(self._rises_at_s) > _CYCLES:
                return 0.0, self._finish()
        return (100.0 if heats else 0.0), None

    def _finish(self) -> Tuned:
        self.status = COMPLETE
        period_s = (self._rises_at_s[-1] - self._rises_at_s[0]) / _CYCLES
        swing_degC = max((self._high_degC - self._low_degC) / 2.0, _LEAST_SWING_DEGC)
        ultimate = 4.0 * 50.0 / (math.pi * swing_degC)  # percent per degC
        return Tuned(100.0 / (0.6 * ultimate), period_s / 2.0, period_s / 8.0)
