"""The ladder by which a run is brought to its end, each rung with its time.

A stop; the step leaves; the gate closes; the safe state is driven and proven; past its grace the
procedure is cancelled; a second stop ends a cooldown; and where the loop itself was blocked, the
watchdog kills and the guardian acts, which the next start reads into the record.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Rung", "in_order", "ladder_lines"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One thing that was done, or came about, and when."""

    at_utc: datetime
    words: str


def in_order(rungs: Iterable[Rung]) -> tuple[Rung, ...]:
    """Return rungs in the order of time; those of one instant stay as they are."""
    return tuple(sorted(rungs, key=lambda rung: rung.at_utc))


def ladder_lines(rungs: Iterable[Rung]) -> list[str]:
    """Return one line per rung for a person, in the order of time."""
    return [
        f"{rung.at_utc:%H:%M:%S}.{rung.at_utc.microsecond // 1000:03d}  {rung.words}"
        for rung in in_order(rungs)
    ]
