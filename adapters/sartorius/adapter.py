"""Sartorius balances over SBI: one printed line a poll."""

import math
from collections.abc import Sequence
from typing import assert_never

from adapters.sartorius.codec import (
    CR_LF,
    PRINT,
    Line,
    Overload,
    StatusLine,
    Underload,
    Weight,
    decode_line,
)
from adapters.sartorius.options import GRAMS_PER, SartoriusOptions
from capa.channels.sample import Status
from capa.devices.adapter import FieldInfo, FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.lines import LineReply
from capa.devices.link import Answer, Link, Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError

__all__ = ["FIELDS", "SartoriusAdapter"]

FIELDS = {
    info.name: info
    for info in (
        FieldInfo("mass", "g", description="what the display shows, in gram"),
        FieldInfo("stable", "1", description="1 when the balance vouches for the mass, else 0"),
    )
}


class SartoriusAdapter(BaseAdapter):
    """One balance. It only reads."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        super().__init__(spec, link, fields=FIELDS)
        options = SartoriusOptions.model_validate(spec.options)
        self._asserted = options.unit
        self._unit: str | None = options.unit
        self._request = PRINT + CR_LF if options.end_with_cr_lf else PRINT

    async def open(self) -> Identity:
        """Check that a balance answers and weighs; read-only.

        The unit that was last seen is forgotten: another balance may be on the port.

        Raises:
            DeviceError: it is in stand-by, calibrating, in error, or set to another unit.
        """
        self._unit = self._asserted
        line = (await self._print()).value
        if isinstance(line, StatusLine):
            raise DeviceError(
                f'{self.name}: the balance shows "{line.text}" instead of a weight; '
                "is it switched on and idle?"
            )
        if isinstance(line, Weight):
            self._note_unit(line)
        return Identity(self.family, model="SBI balance")

    async def poll(self) -> Sequence[Reading]:
        """Have one line printed."""
        answer = await self._print()
        line, at_s = answer.value, answer.at_s
        match line:
            case Weight():
                return self._weight(line, at_s)
            case Overload():
                return self._no_weight(at_s, Status.OVERLOAD, 0.0)
            case Underload():
                return self._no_weight(at_s, Status.UNDERRANGE, 0.0)
            case StatusLine():
                return self._no_weight(at_s, Status.SENSOR_FAIL, math.nan)
            case _:
                assert_never(line)

    def _weight(self, weight: Weight, at_s: float) -> list[Reading]:
        """Return mass and stability; without any unit seen or asserted the mass has no value."""
        self._note_unit(weight)
        grams = math.nan if self._unit is None else weight.value * GRAMS_PER[self._unit]
        status = Status.OK if weight.stable else Status.SETTLING
        return [
            Reading("mass", grams, at_s, status),
            Reading("stable", float(weight.stable), at_s),
        ]

    def _note_unit(self, weight: Weight) -> None:
        unit = weight.unit
        if unit is None or unit == self._unit:
            return
        if unit not in GRAMS_PER:
            raise DeviceError(f"{self.name}: the balance shows {unit!r}; set it to g, mg or kg")
        if self._asserted is not None:
            raise DeviceError(
                f'{self.name}: the balance shows {unit}, the profile says unit = "{self._asserted}"'
            )
        self._unit = unit

    @staticmethod
    def _no_weight(at_s: float, status: Status, stable: float) -> list[Reading]:
        flag = Status.SENSOR_FAIL if math.isnan(stable) else Status.OK
        return [Reading("mass", math.nan, at_s, status), Reading("stable", stable, at_s, flag)]

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Refuse: a balance has nothing to be set."""
        return WriteAck(False, f"{self.name}.{write.field} cannot be written")

    async def _print(self) -> Answer[Line]:
        return await self._link.exchange(
            self._request, LineReply(CR_LF, decode_line).feed, priority=Priority.POLL
        )
