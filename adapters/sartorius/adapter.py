"""Sartorius balances over SBI: one printed line a poll; tare and zero on demand."""

import math
from collections.abc import Sequence
from typing import assert_never

import trio

from adapters.sartorius.codec import (
    CR_LF,
    PRINT,
    Line,
    Overload,
    StatusLine,
    Underload,
    Weight,
    encode_command,
)
from adapters.sartorius.newest import NewestLine, TextLine
from adapters.sartorius.options import GRAMS_PER, SartoriusOptions
from adapters.sartorius.preflight import SartoriusSettings
from capa.channels.sample import Status
from capa.devices.adapter import FieldInfo, FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.link import Answer, Link, Priority
from capa.devices.momentary import Keys, key_field
from capa.devices.plausible import Look, SecondLook, look_at_number
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError, FrameError, LinkTimeoutError

__all__ = ["SartoriusAdapter", "fields_of"]

_LOOK_EVERY_S = 0.2
_AT_ZERO_DIGITS = 10.0


def fields_of(options: SartoriusOptions) -> dict[str, FieldInfo]:
    """Return what a balance can tell and be told."""
    known = [
        FieldInfo("mass", "g", description="what the display shows, in gram"),
        FieldInfo("stable", "1", description="1 when the balance vouches for the mass, else 0"),
        key_field("tare", "tares"),
    ]
    if options.zero_command is not None:
        known.append(key_field("zero", "sets zero"))
    return {info.name: info for info in known}


class SartoriusAdapter(BaseAdapter):
    """One balance, alone on its line."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        options = SartoriusOptions.model_validate(spec.options)
        fields = fields_of(options)
        can = frozenset(info.command for info in fields.values() if info.command)
        super().__init__(spec, link, fields=fields, capabilities=can)
        self._options = options
        self._unit: str | None = options.unit
        self._end = CR_LF if options.end_with_cr_lf else b""
        self._request = PRINT + self._end
        self._keys = Keys(fields)
        self._look = SecondLook((options.second_look_digits,)) if options.second_look else None
        self.settings = SartoriusSettings(spec, self._print, self.counters)

    async def open(self) -> Identity:
        """Check that a balance answers and weighs; read-only.

        The unit that was last seen is forgotten: another balance may be on the port. One that
        prints by itself, and so fast that the line never rests, is spoken to all the same: being
        asked for a line is what stops it.

        Raises:
            DeviceError: it is in stand-by, calibrating, in error, or set to another unit.
        """
        self._unit = self._options.unit
        if self._look is not None:
            self._look.forget()
        try:
            line, _ = (await self._print()).value
        except LinkTimeoutError as error:
            if error.fault != "babble":
                raise
            line, _ = (await self._print(into_babble=True)).value
        if isinstance(line, StatusLine):
            raise DeviceError(
                f'{self.name}: the balance shows "{line.text}" instead of a weight; '
                "is it switched on and idle?"
            )
        if isinstance(line, Weight):
            self._note_unit(line)
        if not self._options.identify:
            return Identity(self.family, model="SBI balance")
        model, serial, software = [await self._told(ask) for ask in ("x1_", "x2_", "x3_")]
        return Identity(self.family, model or "SBI balance", serial, software)

    async def _told(self, command: str) -> str:
        """Ask who it is; a balance that does not know the question is silent.

        What it says instead of a text, or without an end, tells nothing and is counted.
        """
        request = encode_command(command) + self._end
        try:
            return (await self._exchange(request, TextLine().feed, priority=Priority.POLL)).value
        except (LinkTimeoutError, FrameError):
            return ""

    async def poll(self) -> Sequence[Reading]:
        """Have one line printed, and another one at once if the weight has jumped."""
        answer = await self._print()
        (line, native), restless = answer.value, False
        if self._look is not None and isinstance(line, Weight):
            look = look_at_number(line.digits)
            if self._look.doubts(look):
                answer = await self._print()
                again, native = answer.value
                restless = self._judged(look, again)
                line = again
        return [
            *self._readings(line, answer.at_s, native, restless=restless),
            *self._keys.readings(answer.at_s),
        ]

    def _judged(self, first: Look, again: Line) -> bool:
        """Say whether two looks and the one before all disagree."""
        if self._look is None or not isinstance(again, Weight):
            return False
        verdict = self._look.judge(first, look_at_number(again.digits))
        if verdict.is_trouble:
            self._count(verdict)
        return verdict.settles

    def _readings(self, line: Line, at_s: float, native: str, *, restless: bool) -> list[Reading]:
        match line:
            case Weight():
                return self._weight(line, at_s, native, restless=restless)
            case Overload():
                return _no_weight(at_s, Status.OVERLOAD, 0.0, native)
            case Underload():
                return _no_weight(at_s, Status.UNDERRANGE, 0.0, native)
            case StatusLine():
                return _no_weight(at_s, Status.SENSOR_FAIL, math.nan, native)
            case _:
                assert_never(line)

    def _weight(self, weight: Weight, at_s: float, native: str, *, restless: bool) -> list[Reading]:
        """Return mass and stability; without any unit seen or asserted the mass has no value."""
        self._note_unit(weight)
        grams = math.nan if self._unit is None else weight.value * GRAMS_PER[self._unit]
        status = Status.OK if weight.stable and not restless else Status.SETTLING
        return [
            Reading("mass", grams, at_s, status, native),
            Reading("stable", float(weight.stable), at_s, native=native),
        ]

    def _note_unit(self, weight: Weight) -> None:
        unit, asserted = weight.unit, self._options.unit
        if unit is None or unit == self._unit:
            return
        if unit not in GRAMS_PER:
            raise DeviceError(f"{self.name}: the balance shows {unit!r}; set it to g, mg or kg")
        if asserted is not None:
            raise DeviceError(
                f'{self.name}: the balance shows {unit}, the profile says unit = "{asserted}"'
            )
        self._unit = unit

    # --- keys -----------------------------------------------------------------------------------

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Press ``tare`` or ``zero``: no balance acknowledges it, so the display has to show it."""
        if write.field not in self._keys:
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        if refusal := self._keys.refusal(write):
            return WriteAck(False, f"{self.name}: {refusal}")
        options = self._options
        command = options.tare_command if write.field == "tare" else options.zero_command or ""
        before = encode_command(command) + self._end
        shown = await self._seen_at_zero(before, priority)
        if self._look is not None:
            self._look.forget()
        if shown is not None:
            return WriteAck(False, f"{self.name}: {write.field} was sent; it still shows {shown}")
        self._keys.press(write.field)
        return WriteAck(True)

    async def _seen_at_zero(self, before: bytes, priority: Priority) -> str | None:
        """Send a command, and look until the display shows nothing; return what it shows else."""
        shown = "no weight"
        give_up_s = trio.current_time() + self._options.key_wait_s
        while trio.current_time() < give_up_s:
            line, shown = (await self._print(priority, before=before)).value
            if isinstance(line, Weight) and _is_zero(line):
                return None
            before = b""
            await trio.sleep(_LOOK_EVERY_S)
        return f"{shown.strip()!r} after {self._options.key_wait_s:g} s"

    # --- exchanges ------------------------------------------------------------------------------

    async def _print(
        self,
        priority: Priority = Priority.POLL,
        *,
        before: bytes = b"",
        into_babble: bool = False,
    ) -> Answer[tuple[Line, str]]:
        newest = NewestLine(midstream=into_babble)
        answer = await self._exchange(
            before + self._request,
            newest.feed,
            priority=Priority.SAFE if into_babble else priority,
        )
        if newest.unasked:
            self._count("unasked")
        return answer


def _is_zero(weight: Weight) -> bool:
    return abs(look_at_number(weight.digits).numbers[0]) <= _AT_ZERO_DIGITS


def _no_weight(at_s: float, status: Status, stable: float, native: str) -> list[Reading]:
    flag = Status.SENSOR_FAIL if math.isnan(stable) else Status.OK
    return [
        Reading("mass", math.nan, at_s, status, native),
        Reading("stable", stable, at_s, flag, native),
    ]
