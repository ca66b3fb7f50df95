"""Alicat mass-flow controllers and meters: one data frame a poll, the setpoint read back."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from adapters.alicat.codec import (
    EOL,
    Column,
    DataFrame,
    FrameReader,
    Rejected,
    SetpointReport,
    decode_setpoint_report,
    encode_poll,
    encode_setpoint,
)
from adapters.alicat.options import AlicatOptions, unit_of
from capa.channels.sample import Status
from capa.devices.adapter import FieldInfo, FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.lines import LineReply
from capa.devices.link import Answer, Link, Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError

__all__ = ["AlicatAdapter", "fields_of"]

ReplyT = TypeVar("ReplyT")

_OVER: Mapping[str, tuple[Column, ...]] = {
    "MOV": ("flow", "volumetric"),
    "VOV": ("flow", "volumetric"),
    "POV": ("pressure",),
    "OPL": ("pressure",),
    "TOV": ("temperature",),
}
_CONVERTER_FAULT = "ADC"


def fields_of(options: AlicatOptions) -> dict[str, FieldInfo]:
    """Return the fields of a device with these columns."""
    flow, step = options.flow_unit, 10.0**-options.setpoint_decimals
    known = (
        FieldInfo("setpoint", flow, "set_setpoint", step, description="setpoint column"),
        FieldInfo("flow", flow, description="mass flow"),
        FieldInfo("pressure", options.pressure_unit, description="absolute pressure"),
        FieldInfo("temperature", "degC", description="gas temperature"),
    )
    return {info.name: info for info in known if info.name in options.columns}


class AlicatAdapter(BaseAdapter):
    """One unit on a line that may have others."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        options = AlicatOptions.model_validate(spec.options)
        can = frozenset({"setpoint"}) if "setpoint" in options.columns else frozenset[str]()
        super().__init__(spec, link, fields=fields_of(options), capabilities=can)
        self._options = options
        self._unit = unit_of(spec)
        self._poll_request = encode_poll(self._unit)
        self._reader = FrameReader(self._unit, options.columns)
        self._order = tuple(
            (index, name) for index, name in enumerate(options.columns) if name in self._fields
        )

    async def open(self) -> Identity:
        """Check that the unit answers with the columns that the profile names; read-only.

        Raises:
            DeviceError: it is set to another gas than the profile says, or refuses the poll.
        """
        frame = (await self._frame(self._poll_request, Priority.POLL)).value
        wanted = self._options.gas
        if wanted is not None and frame.gas != wanted:
            raise DeviceError(
                f'{self.name}: the device is set to gas {frame.gas}, the profile says "{wanted}"; '
                "its flow readings depend on it, so change one of them"
            )
        return Identity(self.family, model=f"unit {self._unit}, gas {frame.gas}")

    async def poll(self) -> Sequence[Reading]:
        """Read one data frame."""
        answer = await self._frame(self._poll_request, Priority.POLL)
        frame, at_s = answer.value, answer.at_s
        values = frame.values
        if frame.codes:
            return self._judged(frame, at_s)
        return [Reading(name, values[index], at_s) for index, name in self._order]

    def _judged(self, frame: DataFrame, at_s: float) -> list[Reading]:
        """Return the readings of a frame that carries status codes."""
        broken = _CONVERTER_FAULT in frame.codes
        over = {name for code in frame.codes for name in _OVER.get(code, ())}
        readings = []
        for index, name in self._order:
            status = Status.OVERLOAD if name in over else Status.OK
            if broken and name != "setpoint":
                status = Status.SENSOR_FAIL
            value = frame.values[index] if status is Status.OK else math.nan
            readings.append(Reading(name, value, at_s, status))
        return readings

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Write the setpoint and read back its column of the data frame.

        ``S`` is answered with a data frame; after ``LS`` one is asked for. A device whose
        setpoint source is analog answers as usual and keeps its old setpoint: only the
        read-back tells.
        """
        options = self._options
        if write.field != "setpoint" or "setpoint" not in self._fields:
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        if not 0.0 <= write.value <= options.full_scale:
            return WriteAck(
                False,
                f"{self.name}: {write.value:g} {options.flow_unit} is not within 0 and "
                f"full_scale = {options.full_scale:g}",
            )
        return await self._write_setpoint(write.value, priority)

    async def _write_setpoint(self, value: float, priority: Priority) -> WriteAck:
        options = self._options
        request = encode_setpoint(
            self._unit,
            value,
            command=options.setpoint_command,
            decimals=options.setpoint_decimals,
        )
        decode = self._decode_report if options.setpoint_command == "LS" else self._reader.decode
        reply = (await self._ask(request, decode, priority)).value
        if isinstance(reply, Rejected):
            return WriteAck(False, f"{self.name} rejected {request!r}: {reply.text}")
        if not isinstance(reply, DataFrame):
            reply = (await self._frame(self._poll_request, priority)).value
        return WriteAck(True, readback=reply.values[options.columns.index("setpoint")])

    def _decode_report(self, line: bytes) -> SetpointReport | DataFrame | Rejected:
        """Read the reply to ``LS``, which shows what was asked; it proves nothing by itself."""
        return decode_setpoint_report(self._unit, line)

    async def _frame(self, request: bytes, priority: Priority) -> Answer[DataFrame]:
        return await self._ask(request, self._decode_frame, priority)

    def _decode_frame(self, line: bytes) -> DataFrame:
        frame = self._reader.decode(line)
        if isinstance(frame, Rejected):
            raise DeviceError(f"{self.name} answered a poll with {frame.text!r}")
        return frame

    async def _ask(
        self, request: bytes, decode: Callable[[bytes], ReplyT], priority: Priority
    ) -> Answer[ReplyT]:
        return await self._link.exchange(request, LineReply(EOL, decode).feed, priority=priority)
