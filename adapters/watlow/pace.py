"""When it is the turn of what is not read at every poll."""

import math

__all__ = ["Pace"]

_EARLY = 0.5


class Pace:
    """Every so many polls, or at the first one that comes when these should have been over.

    It is polls that are counted as long as they are on time, by half a poll, so that a transcript
    played back without its pauses asks the same. The clock is for polls that are slow, left out or
    failed.

    Args:
        every: so many polls from one turn to the next.
        poll_s: how long a poll takes, with the pause after it, if all goes well.
    """

    def __init__(self, every: int, poll_s: float) -> None:
        self._every = every
        self._poll_s = poll_s
        self.begin()

    def begin(self, after: int = 0) -> None:
        """Start anew: its first turn comes after so many polls."""
        self._left = after
        self._due_s = math.nan

    def is_due(self, now_s: float) -> bool:
        """Whether it is its turn in this poll; to be asked once a poll."""
        due = self._left == 0 or now_s >= self._due_s
        if due:
            self._left = self._every
        if due or math.isnan(self._due_s):
            self._due_s = now_s + (self._left - _EARLY) * self._poll_s
        self._left -= 1
        return due
