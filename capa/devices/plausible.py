"""A second look at what has jumped: for protocols whose lines carry no check sum.

A flipped bit makes another digit, and the line is still a line. What it cannot do is to happen
twice alike. So a number that is further from the last one than the device's noise is asked for
again, at once: two that agree are a change, and one that fits neither of its neighbours is not.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Look", "SecondLook", "Verdict", "look_at_number"]


class Verdict(StrEnum):
    """What a second look says."""

    CHANGED = "changed"
    """Both looks agree: the device is where they say."""
    MOVING = "moving"
    """All three differ, and lie on one way: it is on its way to somewhere."""
    GLITCH = "implausible"
    """The first was wrong; the second agrees with what was before."""
    RESTLESS = "restless"
    """All three disagree: what is measured moves that fast, or the line is very bad."""

    @property
    def settles(self) -> bool:
        """Whether nothing vouches for the second look but itself: its status is ``settling``."""
        return self in {Verdict.MOVING, Verdict.RESTLESS}

    @property
    def is_trouble(self) -> bool:
        """Whether it is worth counting."""
        return self in {Verdict.GLITCH, Verdict.RESTLESS}


@dataclass(frozen=True, slots=True)
class Look:
    """What one exchange said: numbers, and what can only be the same or not."""

    numbers: Sequence[float]
    labels: Hashable = None


class SecondLook:
    """Compares each look with the one before.

    ``steps`` says for each number how far it may move between two polls unquestioned: more than
    its noise, and as little more as the cost of a second exchange suggests. A flipped bit that
    changes a number by less passes.
    """

    def __init__(self, steps: Sequence[float]) -> None:
        self._steps = tuple(steps)
        self._last: Look | None = None

    def forget(self) -> None:
        """Take nothing as known: another device may be on the port."""
        self._last = None

    def doubts(self, look: Look) -> bool:
        """Whether to ask again; if not, this is now the last look."""
        last = self._last
        if last is not None and self._agree(look, last):
            self._last = look
            return False
        return True

    def judge(self, first: Look, second: Look) -> Verdict:
        """Say what became of a look that was doubted; the second is now the last one."""
        before, self._last = self._last, second
        if self._agree(first, second):
            return Verdict.CHANGED
        if before is None:
            return Verdict.RESTLESS
        if self._agree(second, before):
            return Verdict.GLITCH
        steady = first.labels == second.labels and all(
            self._steady(*three)
            for three in zip(
                self._steps, before.numbers, first.numbers, second.numbers, strict=True
            )
        )
        return Verdict.MOVING if steady else Verdict.RESTLESS

    def _agree(self, one: Look, other: Look) -> bool:
        return one.labels == other.labels and all(
            abs(a - b) <= step
            for step, a, b in zip(self._steps, one.numbers, other.numbers, strict=True)
        )

    @staticmethod
    def _steady(step: float, before: float, first: float, second: float) -> bool:
        """Whether the last two are close, or all three lie on a way that goes on as it began."""
        gone, goes = first - before, second - first
        return abs(goes) <= step or (gone * goes > 0 and abs(goes) <= 2 * abs(gone) + step)


def look_at_number(text: str) -> Look:
    """Return the look at a number as a display shows it, counted in steps of its last place."""
    digits = text.strip().replace(",", ".")
    decimals = len(digits.partition(".")[2])
    return Look((float(digits) * 10.0**decimals,), decimals)
