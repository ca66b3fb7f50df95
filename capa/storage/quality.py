"""How well a channel was recorded: gaps, and time without a measurement to be relied on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from capa.storage.entries import ChannelQuality

__all__ = ["LAST_USABLE_CODE", "Seen"]

LAST_USABLE_CODE = 1
"""Codes up to this one (ok, settling) are measurements."""
_GAP_PERIODS = 2.5


@dataclass
class Seen:
    """What went by of one channel, in the order of time. Times in ns since arm."""

    period_ns: int | None = None
    stale_ns: int | None = None
    samples: int = 0
    unusable: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    gaps: int = 0
    longest_ns: int = 0
    stale_for_ns: int = 0
    _last_good_ns: int | None = None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Begin, with what is known of the channel (``period_s``, ``stale_after_s``)."""
        return cls(_ns(info.get("period_s")), _ns(info.get("stale_after_s")))

    def add(self, times: pa.Array, values: pa.Array, codes: pa.Array) -> None:
        """Take at least one sample."""
        self.samples += len(times)
        self.first_ns = times[0].as_py() if self.first_ns is None else self.first_ns
        self.last_ns = times[-1].as_py()
        good = pc.invert(pc.is_nan(values))
        if pc.max(codes).as_py() > LAST_USABLE_CODE:
            usable = pc.less_equal(codes, LAST_USABLE_CODE)
            self.unusable += len(times) - pc.sum(usable).as_py()
            good = pc.and_(usable, good)
        if not pc.all(good).as_py():
            times = times.filter(good)
        if len(times):
            self._interval(self._last_good_ns or 0, times[0].as_py())
            self._intervals(pc.subtract(times[1:], times[:-1]))
            self._last_good_ns = times[-1].as_py()

    def _interval(self, since_ns: int, until_ns: int) -> None:
        self._intervals(pa.array([max(0, until_ns - since_ns)], pa.int64()))

    def _intervals(self, lengths: pa.Array) -> None:
        if not len(lengths):
            return
        longest = pc.max(lengths).as_py()
        self.longest_ns = max(self.longest_ns, longest)
        if self.period_ns is not None and longest > self.period_ns * _GAP_PERIODS:
            self.gaps += pc.sum(pc.greater(lengths, self.period_ns * _GAP_PERIODS)).as_py()
        if self.stale_ns is not None and longest > self.stale_ns:
            over = pc.subtract(lengths, self.stale_ns)
            self.stale_for_ns += pc.sum(over.filter(pc.greater(over, 0))).as_py()

    def quality(self, end_ns: int) -> ChannelQuality:
        """Return the whole, for a run that ended then; once."""
        self._interval(self._last_good_ns or 0, end_ns)
        known = self.period_ns is not None
        return ChannelQuality(
            samples=self.samples,
            unusable=self.unusable,
            expected=round(end_ns / self.period_ns) if self.period_ns else None,
            gaps=self.gaps if known else None,
            longest_gap_s=self._longest_gap_s() if known else None,
            stale_s=None if self.stale_ns is None else self.stale_for_ns / 1e9,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
        )

    def _longest_gap_s(self) -> float:
        """Return 0 where there was no gap: an interval of the period's length is none."""
        return self.longest_ns / 1e9 if self.gaps else 0.0


def _ns(value: object) -> int | None:
    return round(value * 1e9) if isinstance(value, int | float) and value > 0 else None
