"""A ramp as a pure trajectory on absolute ticks."""

import math
from dataclasses import dataclass

__all__ = ["Trajectory"]

_TICK_SLACK = 1e-9
"""Fraction of a tick by which a float may miss it and still count as on it."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """From ``start`` to ``end`` in ``duration_s``, one setpoint per tick.

    Tick ``k`` is due ``k / tick_hz`` after the ramp began; the last one is due at ``duration_s``
    and is exactly ``end``.
    """

    start: float
    end: float
    duration_s: float
    tick_hz: float

    @property
    def last_tick(self) -> int:
        """The number of the tick that writes ``end``."""
        return max(0, math.ceil(self.duration_s * self.tick_hz - _TICK_SLACK))

    def due_s(self, tick: int) -> float:
        """Seconds after the beginning at which a tick is due."""
        return self.duration_s if tick >= self.last_tick else tick / self.tick_hz

    def value(self, tick: int) -> float:
        """Return the setpoint of a tick."""
        if tick >= self.last_tick:
            return self.end
        return self.start + (self.end - self.start) * self.due_s(tick) / self.duration_s

    def next_tick(self, tick: int, elapsed_s: float) -> int:
        """Return the tick to write after ``tick``: ticks already past are skipped, not caught up.

        The last one is never skipped.
        """
        due = math.ceil(elapsed_s * self.tick_hz - _TICK_SLACK)
        return min(self.last_tick, max(tick + 1, due))
