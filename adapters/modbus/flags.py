"""What one field of a map says that another's value is worth.

Pure: no I/O. The safe side counts: a value that a device may be about to call none, in a register
that was not to be read, is none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from capa.channels.sample import Status
from capa.devices.adapter import Reading
from capa.models import Frozen, Whole

__all__ = ["Flagged", "Rules", "judged", "speakers"]


class Flagged(Frozen):
    """A row of ``status_from``: what another field of the map says a value is worth."""

    field: str
    """A field of whole numbers, such as a status register."""
    mask: Whole | None = Field(default=None, ge=1, le=2**32 - 1)
    """Bits of it; any one that is set says so."""
    equals: Whole | None = None
    """Or the one number that says so."""
    status: Status

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if (self.mask is None) == (self.equals is None):
            raise ValueError("give mask (any of these bits) or equals (this number), one of them")
        if self.status in {Status.OK, Status.COMM_ERROR}:
            raise ValueError(f"a device can't say {self.status} of a value that it gives")
        return self

    def holds(self, value: float) -> bool:
        """Whether the other field says so; a number that could not be read says nothing."""
        if not math.isfinite(value):
            return False
        if self.mask is not None:
            return int(value) & self.mask != 0
        return value == self.equals

    def raised(self, value: float) -> float:
        """Return what the other field reads when it says so; for the simulator."""
        if self.mask is not None:
            return float(int(value) | self.mask)
        return float(self.equals or 0)


Rules = Mapping[str, Sequence[Flagged]]
"""The rows of ``status_from`` of each field of a map."""


def speakers(rules: Rules, names: Iterable[str]) -> list[str]:
    """Return the fields whose word these need, and those whose word those need, and so on.

    A field that is among its own would have to be judged before itself.
    """
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        for flag in rules[waiting.pop()]:
            if flag.field in rules and flag.field not in found:
                found[flag.field] = None
                waiting.append(flag.field)
    return list(found)


def judged(readings: Mapping[str, Reading], rules: Rules) -> list[Reading]:
    """Return the readings of one poll, each as the others let it stand.

    They were read in the same poll, not always in the same request. A field that speaks for another
    is judged before it; no field may be among its own ``speakers``.
    """
    done: dict[str, Reading] = {}

    def of(name: str) -> Reading:
        if name not in done:
            done[name] = _stands(readings[name], [(row, of(row.field)) for row in rules[name]])
        return done[name]

    return [of(name) for name in readings]


def _stands(reading: Reading, words: Sequence[tuple[Flagged, Reading]]) -> Reading:
    """Judge a reading by the rows of its field and by what the fields that they name read.

    What the device says of a value goes before what is told by the number itself; what makes it no
    measurement, before what only calls it unsettled, and before what is not known.
    """
    said = [row.status for row, word in words if word.status.usable and row.holds(word.value)]
    for status in said:
        if not status.usable:
            return _none(reading, status)
    if not reading.status.usable:
        return reading
    for _, word in words:
        if not word.status.usable:
            is_stale = word.status is Status.STALE
            return _none(reading, Status.STALE if is_stale else Status.SENSOR_FAIL)
    return replace(reading, status=said[0]) if said else reading


def _none(reading: Reading, status: Status) -> Reading:
    return replace(reading, value=math.nan, status=status)
