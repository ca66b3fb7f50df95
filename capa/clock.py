"""One monotonic timebase per run: nanoseconds since arm, anchored once to UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import trio

__all__ = ["RunClock", "utc_now"]

_NS_PER_S = 1_000_000_000


def utc_now() -> datetime:
    """Return the wall time, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RunClock:
    """Time since a run was armed, read from trio's clock so that tests can make it virtual.

    Args:
        anchor_s: ``trio.current_time()`` at the moment of arming.
        anchor_utc: the wall time at the same moment. A later jump of the wall clock changes
            nothing: every ``t_utc`` of a run is the anchor plus monotonic time.
    """

    anchor_s: float
    anchor_utc: datetime

    @classmethod
    def start(cls) -> "RunClock":
        """Start the clock now; needs a running trio loop."""
        return cls(anchor_s=trio.current_time(), anchor_utc=utc_now())

    def t_mono_ns(self) -> int:
        """Nanoseconds since arm."""
        return self.ns_at(trio.current_time())

    def t_mono_s(self) -> float:
        """Seconds since arm."""
        return trio.current_time() - self.anchor_s

    def ns_at(self, at_s: float) -> int:
        """Nanoseconds since arm of an instant of trio's clock; negative before arm."""
        return round((at_s - self.anchor_s) * _NS_PER_S)

    def t_utc(self) -> datetime:
        """Return UTC now, by the run's own timebase."""
        return self.utc_at(self.t_mono_ns())

    def utc_at(self, t_mono_ns: int) -> datetime:
        """Return the UTC instant of a time of this run."""
        return self.anchor_utc + timedelta(microseconds=t_mono_ns / 1000)
