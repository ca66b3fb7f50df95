"""The driver: two questions a poll, and a rate that is read back."""

from collections.abc import Mapping, Sequence
from functools import partial

from capa.devices.adapter import FieldInfo, FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.lines import LineReply
from capa.devices.link import Answer, Link, Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError
from dosing_pump.codec import EOL, Ask, Refused, Value, decode_reply, encode
from dosing_pump.options import PumpOptions, number_of

__all__ = ["FIELDS", "DosingPump"]

FIELDS: Mapping[str, FieldInfo] = {
    "rate": FieldInfo("rate", "mL/min", "set_rate", resolution=0.01, description="dosing rate"),
    "pressure": FieldInfo("pressure", "bar", description="pressure at the outlet"),
}
_WIRE_NAMES = {"rate": "RATE", "pressure": "PRES"}


class DosingPump(BaseAdapter):
    """One pump; several may share a line."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        super().__init__(spec, link, fields=FIELDS, capabilities=frozenset({"rate"}))
        self._options = PumpOptions.model_validate(spec.options)
        self._number = number_of(spec)

    async def open(self) -> Identity:
        """See that it answers; read-only."""
        await self._read("rate", Priority.POLL)
        return Identity(self.family, model=f"dosing pump #{self._number}")

    async def poll(self) -> Sequence[Reading]:
        """Ask for every field."""
        readings = []
        for name in FIELDS:
            answer = await self._read(name, Priority.POLL)
            value = answer.value
            native = f"{value.name} {value.number:g}"
            readings.append(Reading(name, value.number, answer.at_s, native=native))
        return readings

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Set the rate, and ask for it."""
        most = self._options.max_mL_per_min
        if write.field != "rate":
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        if not 0.0 <= write.value <= most:
            return WriteAck(False, f"{self.name}: {write.value:g} is not within 0 and {most:g}")
        answer = await self._talk(Value(self._number, "RATE", write.value), priority)
        if isinstance(answer.value, Refused):
            return WriteAck(False, f"{self.name} refused it: error {answer.value.code}")
        return WriteAck(True, readback=(await self._read("rate", priority)).value.number)

    async def _read(self, field: str, priority: Priority) -> Answer[Value]:
        answer = await self._talk(Ask(self._number, _WIRE_NAMES[field]), priority)
        value = answer.value
        if isinstance(value, Refused):
            raise DeviceError(f"{self.name} refused to tell its {field}: error {value.code}")
        return Answer(value, answer.sent_at_s, answer.received_at_s)

    async def _talk(self, request: Ask | Value, priority: Priority) -> Answer[Value | Refused]:
        decode = partial(decode_reply, self._number, request.name)
        return await self._exchange(encode(request), LineReply(EOL, decode).feed, priority=priority)
