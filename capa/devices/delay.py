"""How long a simulated device thinks before it answers."""

import random
import zlib

from capa.errors import CapaError

__all__ = ["ReplyDelay"]


class ReplyDelay:
    """Delays drawn evenly from a range, the same ones at every run.

    Args:
        span_s: one delay for all, or the shortest and the longest.
        seed: what the sequence depends on; a device's name will do.
    """

    def __init__(self, span_s: float | tuple[float, float], *, seed: str | int) -> None:
        self._low_s, self._high_s = span_s if isinstance(span_s, tuple) else (span_s, span_s)
        if not 0 <= self._low_s <= self._high_s:
            raise CapaError(f"reply_delay_s = {span_s}: must be 0 or more, the shorter one first")
        start = seed if isinstance(seed, int) else zlib.crc32(seed.encode())
        self._random = random.Random(start)  # noqa: S311 - a repeatable sequence, not a secret

    def next_s(self) -> float:
        """Return the next delay."""
        if self._low_s == self._high_s:
            return self._low_s
        return self._random.uniform(self._low_s, self._high_s)
