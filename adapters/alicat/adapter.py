"""Alicat mass-flow controllers and meters: one data frame a poll, the setpoint read back."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, TypeVar

import trio

from adapters.alicat.codec import (
    EOL,
    Acknowledged,
    DataFrame,
    FrameReader,
    Rejected,
    SetpointReport,
    decode_setpoint_report,
    encode_command,
    encode_poll,
    encode_setpoint,
    encode_stop,
)
from adapters.alicat.fields import fields_of, readings_of
from adapters.alicat.maker import Maker, MakerReply, encode_maker_request
from adapters.alicat.options import AlicatOptions, unit_of
from adapters.alicat.preflight import AlicatSettings
from adapters.alicat.table import TableReply, encode_table_request
from capa.devices.adapter import FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.lines import LineReply
from capa.devices.link import Answer, Link, Priority
from capa.devices.momentary import Keys
from capa.devices.plausible import Look, SecondLook
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError, FrameError, LinkTimeoutError

__all__ = ["AlicatAdapter"]

ReplyT = TypeVar("ReplyT")

_HOLD_CODE = "HLD"
_HOLDS = {0.0: "C", 1.0: "HP", 2.0: "HC"}
_CLOSED = 2.0
_MOST_GASES = 255
_BABBLE = "babble"
_NEW_LETTER_S = 0.2
"""How long to leave a device alone that was given a unit letter."""


class AlicatAdapter(BaseAdapter):
    """One unit on a line that may have others."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        options = AlicatOptions.model_validate(spec.options)
        fields = fields_of(options)
        can = frozenset(
            info.command.removeprefix("set_") for info in fields.values() if info.command
        )
        super().__init__(spec, link, fields=fields, capabilities=can)
        self._options = options
        self._unit = unit_of(spec)
        self._poll_request = encode_poll(self._unit)
        self._reader = FrameReader(self._unit, options.columns)
        self._keys = Keys(fields)
        self._look = SecondLook(options.steps) if options.second_look else None
        self._held_closed = False
        self.settings = AlicatSettings(spec, self._reader, self._ask)
        self._told = b""
        self._drained_bytes = link.stats.drained_bytes

    async def open(self) -> Identity:
        """Check that the unit answers with the columns that the profile names; read-only.

        Raises:
            DeviceError: it is set to another gas than the profile says, declares other columns, or
                refuses the poll.
        """
        self._told = b""
        if self._look is not None:
            self._look.forget()
        if self._options.stop_stream is not None:
            await self._end_stream(self._options.stop_stream)
        if self._options.check_columns:
            await self._check_columns()
        frame = (await self._frame(Priority.POLL)).value
        wanted = None if "gas" in self._spec.enforce else self._options.gas
        if wanted is not None and frame.gas != wanted:
            raise DeviceError(
                f'{self.name}: the device is set to gas {frame.gas}, the profile says "{wanted}"; '
                "its flow readings depend on it, so change one of them"
            )
        shown = f"unit {self._unit}, gas {frame.gas}"
        if not self._options.identify:
            return Identity(self.family, model=shown)
        maker = await self._maker()
        model = f"{maker.model}, {shown}" if maker.model else shown
        return Identity(self.family, model, maker.serial, maker.software)

    async def _maker(self) -> Maker:
        """Ask who made it; a firmware with fewer rows has said what it knows by the deadline."""
        reply = MakerReply(self._unit, self._reader)
        request = encode_maker_request(self._unit)
        with suppress(LinkTimeoutError):
            await self._link.exchange(
                self._options.lead + request, reply.feed, priority=Priority.POLL
            )
        return reply.found

    async def _end_stream(self, how: Literal["@@ ", "@@="]) -> None:
        """End a stream that somebody left on, and leave the device the time to take its letter."""
        if not await self._hears_a_stream():
            return
        with suppress(FrameError, LinkTimeoutError):  # what it answers is not known
            await self._link.exchange(
                self._options.lead + encode_stop(self._unit, how),
                LineReply(EOL, self._reader.decode).feed,
                priority=Priority.SAFE,
            )
        await trio.sleep(_NEW_LETTER_S)

    async def _hears_a_stream(self) -> bool:
        """Whether something is said that answers no poll.

        A device that answers does not stream; on a line on which nothing is said the stop could
        only give the letter to somebody else. A slow stream is silent for longer than a reply
        takes, so what came since the last opening counts, too: nobody else is on the line.
        """
        before, self._drained_bytes = self._drained_bytes, self._link.stats.drained_bytes
        try:
            await self._frame(Priority.POLL)
        except FrameError:
            return True
        except LinkTimeoutError as error:
            if error.fault == _BABBLE or self._link.stats.drained_bytes > before:
                return True
            raise
        return False

    async def _check_columns(self) -> None:
        request = self._options.lead + encode_table_request(self._unit)
        feed = TableReply(self._unit).feed
        table = (await self._exchange(request, feed, priority=Priority.POLL)).value
        if table.columns != self._options.columns:
            said = ", ".join(column or "something unknown" for column in table.columns)
            raise DeviceError(f"{self.name}: the device declares {said}; put that into columns")

    # --- reading --------------------------------------------------------------------------------

    async def poll(self) -> Sequence[Reading]:
        """Read one data frame, and another one at once if something has jumped."""
        answer = await self._frame(Priority.POLL)
        restless = False
        if self._look is not None and self._look.doubts(_look(answer.value)):
            again = await self._frame(Priority.POLL)
            verdict = self._look.judge(_look(answer.value), _look(again.value))
            if verdict.is_trouble:
                self._count(verdict)
            answer, restless = again, verdict.settles
        frame, at_s = answer.value, answer.at_s
        readings = readings_of(self._options, frame, at_s, restless=restless)
        if "hold" in self._fields:
            readings.append(Reading("hold", self._hold(frame), at_s, native=frame.line))
        return readings + self._keys.readings(at_s)

    def _hold(self, frame: DataFrame) -> float:
        """Return 0, or which hold it is: the frame says only that there is one."""
        if _HOLD_CODE not in frame.codes:
            return 0.0
        return _CLOSED if self._held_closed else 1.0

    # --- writing --------------------------------------------------------------------------------

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Write the setpoint, the gas or the valve's hold, or press a key; read back what can be.

        A device whose setpoint source is analog answers as usual and keeps its old setpoint: only
        the read-back tells.
        """
        info = self._fields.get(write.field)
        if info is None or info.command is None:
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        if write.field in self._keys:
            return await self._press(write, priority)
        if write.field == "gas":
            return await self._select_gas(write.value, priority)
        if write.field == "hold":
            return await self._hold_valve(write.value, priority)
        return await self._set_flow(write.value, priority)

    async def _set_flow(self, value: float, priority: Priority) -> WriteAck:
        options = self._options
        if not 0.0 <= value <= options.full_scale:
            return WriteAck(
                False,
                f"{self.name}: {value:g} {options.flow_unit} is not within 0 and "
                f"full_scale = {options.full_scale:g}",
            )
        request = encode_setpoint(
            self._unit,
            value,
            command=options.setpoint_command,
            decimals=options.setpoint_decimals,
            prefix=options.write_prefix,
        )
        if priority is not Priority.SAFE and request == self._told and self.settings.saves:
            column = options.columns.index("setpoint")
            shown = (await self._frame(priority)).value.values[column]
            if abs(shown - value) <= 0.5 * 10.0**-options.setpoint_decimals:
                return WriteAck(True, "as it was, and not saved again", readback=shown)
        self._told = request
        decode = self._decode_report if options.setpoint_command == "LS" else self._reader.decode
        reply = (await self._ask(request, decode, priority)).value
        if isinstance(reply, Rejected):
            return WriteAck(False, f"{self.name} rejected {request!r}: {reply.text}")
        if not isinstance(reply, DataFrame):
            reply = (await self._frame(priority)).value
        return WriteAck(True, readback=reply.values[options.columns.index("setpoint")])

    def _decode_report(self, line: bytes) -> SetpointReport | DataFrame | Rejected:
        """Read the reply to ``LS``, which shows what was asked; it proves nothing by itself."""
        return decode_setpoint_report(self._unit, line)

    async def _select_gas(self, value: float, priority: Priority) -> WriteAck:
        """Select a gas by its number; read back by the label in the frame."""
        if not 0 <= value <= _MOST_GASES or value != round(value):
            return WriteAck(False, f"{self.name}: {value:g} is no gas number")
        if self._options.gas is not None:
            return WriteAck(
                False, f'{self.name}: the profile insists on gas = "{self._options.gas}"'
            )
        refused, _ = await self._command(f"{self._options.gas_command} {value:.0f}", priority)
        if refused:
            return WriteAck(False, refused)
        return await self._proven("gas", priority)

    async def _hold_valve(self, value: float, priority: Priority) -> WriteAck:
        """Hold the valve where it is (1) or closed (2), or let it control again (0)."""
        command = _HOLDS.get(value)
        if command is None:
            return WriteAck(False, f"{self.name}: hold is 0 (none), 1 (as it is) or 2 (closed)")
        refused, _ = await self._command(command, priority)
        if refused:
            return WriteAck(False, refused)
        self._held_closed = value == _CLOSED
        frame = (await self._frame(priority)).value
        return WriteAck(True, readback=self._hold(frame))

    async def _proven(self, field: str, priority: Priority) -> WriteAck:
        answer = await self._frame(priority)
        readings = readings_of(self._options, answer.value, answer.at_s)
        return WriteAck(True, readback=next(r.value for r in readings if r.field == field))

    async def _press(self, write: FieldWrite, priority: Priority) -> WriteAck:
        """Press ``tare`` or ``reset_total``; a controller is tared only with its setpoint at 0."""
        if refusal := self._keys.refusal(write):
            return WriteAck(False, f"{self.name}: {refusal}")
        if write.field == "tare" and (flowing := await self._is_flowing(priority)):
            return WriteAck(False, flowing)
        command = {
            "tare": self._options.tare_command,
            "reset_total": self._options.reset_total_command,
        }[write.field]
        refused, said = await self._command(command or "", priority)
        if refused:
            return WriteAck(False, refused)
        self._keys.press(write.field)
        if self._look is not None:
            self._look.forget()
        return WriteAck(True, said)

    async def _is_flowing(self, priority: Priority) -> str:
        if "setpoint" not in self._options.columns:
            return ""
        frame = (await self._frame(priority)).value
        setpoint = frame.values[self._options.columns.index("setpoint")]
        if setpoint == 0.0:
            return ""
        return (
            f"{self.name}: its setpoint is {setpoint:g} {self._options.flow_unit}; a tare with gas "
            "flowing makes every later reading wrong: set it to 0 and wait for the flow to end"
        )

    # --- exchanges ------------------------------------------------------------------------------

    async def _command(self, text: str, priority: Priority) -> tuple[str, str]:
        """Send a command; return why it was refused (or nothing), and what was said."""
        request = encode_command(self._unit, text, prefix=self._options.write_prefix)
        reply = (await self._ask(request, self._reader.decode_ack, priority)).value
        if isinstance(reply, Rejected):
            return f"{self.name} rejected {request!r}: {reply.text}", ""
        return "", reply.text if isinstance(reply, Acknowledged) else ""

    async def _frame(self, priority: Priority) -> Answer[DataFrame]:
        return await self._ask(self._poll_request, self._decode_frame, priority)

    def _decode_frame(self, line: bytes) -> DataFrame:
        frame = self._reader.decode(line)
        if isinstance(frame, Rejected):
            self._count("rejected")
            raise DeviceError(f"{self.name} answered a poll with {frame.text!r}")
        return frame

    async def _ask(
        self, request: bytes, decode: Callable[[bytes], ReplyT], priority: Priority
    ) -> Answer[ReplyT]:
        request = self._options.lead + request
        return await self._exchange(request, LineReply(EOL, decode).feed, priority=priority)


def _look(frame: DataFrame) -> Look:
    return Look(frame.values, (frame.gas, frame.codes))
