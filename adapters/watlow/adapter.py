"""Watlow EZ-ZONE PM: process value, power and setpoint, with the setpoint read back."""

import math
from collections.abc import Sequence

from adapters.modbus.codec import Query, Refusal, Registers, Reply, Speaker
from adapters.watlow.codec import (
    COMMS_UNITS,
    CONTROL_MODE,
    HIGHEST_SETPOINT,
    LOWEST_SETPOINT,
    WORD_ORDER,
    ControlMode,
    Conversation,
    Units,
    WordOrderCode,
    enum_at,
    from_degC,
    to_degC,
)
from adapters.watlow.extras import extras_of
from adapters.watlow.options import WatlowOptions, unit_of
from adapters.watlow.pace import Pace
from adapters.watlow.preflight import WatlowSettings
from capa.channels.sample import Status
from capa.devices.adapter import FieldInfo, FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.link import Answer, Link, Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError

__all__ = ["FIELDS", "WatlowAdapter", "fields_of"]

FIELDS = {
    info.name: info
    for info in (
        FieldInfo(
            "setpoint",
            "degC",
            command="set_setpoint",
            resolution=0.1,
            description="closed-loop setpoint, register 2160",
        ),
        FieldInfo("pv", "degC", description="process value, register 360"),
        FieldInfo("power", "%", description="heat power, register 1904"),
        FieldInfo("output", "%", description="output power, -100 to 100, register 1908"),
        FieldInfo("input_error", "1", description="register 362: 61 none, 65 open, 127 shorted"),
    )
}


def fields_of(options: WatlowOptions) -> dict[str, FieldInfo]:
    """Return the fields of a controller, those of the groups that are read beside included."""
    extras = extras_of(options.also_read, 1, options.word_order, options.unit, port=options.port)
    return FIELDS | {info.name: info for extra in extras for info in extra.fields}


class WatlowAdapter(BaseAdapter):
    """One controller. By itself it writes the setpoint only; ``settings`` write what they must."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        options = WatlowOptions.model_validate(spec.options)
        fields = fields_of(options)
        can = frozenset(i.command.removeprefix("set_") for i in fields.values() if i.command)
        super().__init__(spec, link, fields=fields, capabilities=can)
        self._options = options
        self._unit = options.unit
        address, order, port = unit_of(spec), options.word_order, options.port
        self._talk = Conversation(address, order, port=port, places=options.places)
        self._extras = extras_of(options.also_read, address, order, options.unit, port=port)
        self._extra_turn = 0
        self._speaker = Speaker(options.framing)
        self.settings = WatlowSettings(spec, self._ask)
        self._cycle = max(1, int(spec.poll_hz / options.slow_hz))
        self._power_pace = Pace(self._cycle, 1 / spec.poll_hz)
        self._setpoint_pace = Pace(self._cycle, 1 / spec.poll_hz)
        self._begin_afresh()
        slow_s = self._cycle / spec.poll_hz
        self.periods_s = dict.fromkeys(("power", "output", "setpoint"), slow_s)
        for extra in self._extras:  # one group after the other
            self.periods_s |= {info.name: slow_s * len(self._extras) for info in extra.fields}

    def _begin_afresh(self) -> None:
        """Have the next poll read everything; after it, power and setpoint take turns."""
        self._power_pace.begin()
        self._setpoint_pace.begin(after=self._cycle // 2)
        self._setpoint_due = True

    async def open(self) -> Identity:
        """Check that a PM with the expected map, units and word order answers; read-only.

        The next poll reads everything.

        Raises:
            DeviceError: it is not one, or is set otherwise than the profile says.
        """
        self._begin_afresh()
        modes, _ = await self._read(self._talk.read_modes)
        self._check_mode(enum_at(modes.data, 0))
        if self._options.map == "custom":
            return Identity(self.family, model="EZ-ZONE, registers as the profile says")
        comms = (await self._ask(self._talk.read_comms, Priority.POLL)).value
        if isinstance(comms, Registers):
            self._check_comms(comms.data)
        elif self._options.wire_unit != "degF":
            raise DeviceError(
                f"{self.name}: register {COMMS_UNITS} cannot be read ({comms}), so its wire is in "
                f'degF, but the profile says wire_unit = "{self._options.wire_unit}"'
            )
        for extra in self._extras:
            await self._read(extra.query)  # what is not there is named now, and not in each poll
        return self._identity((await self._ask(self._talk.read_identity, Priority.POLL)).value)

    def _check_mode(self, mode: int) -> None:
        if mode not in ControlMode.__members__.values():
            raise DeviceError(
                f"{self.name}: register {CONTROL_MODE} holds {mode}, which is no control mode "
                f"(62 off, 10 auto, 54 manual); is it an EZ-ZONE PM, set to Map 1?"
            )

    def _check_comms(self, data: bytes) -> None:
        """Compare word order and units; a code that is neither of the two is taken as unknown."""
        base = COMMS_UNITS - 8
        expected_order = WordOrderCode[self._options.word_order.upper()]
        self._compare(WORD_ORDER, enum_at(data, WORD_ORDER - base), expected_order)
        self._compare(COMMS_UNITS, enum_at(data, COMMS_UNITS - base), Units(self._unit))

    def _compare(self, register: int, seen: int, expected: WordOrderCode | Units) -> None:
        known = {member.value: member.name.lower() for member in type(expected)}
        if seen in known and seen != expected:
            raise DeviceError(
                f"{self.name}: register {register} says {known[seen]} ({seen}), the profile "
                f"expects {expected.name.lower()} ({expected.value}); change one of them"
            )

    def _identity(self, reply: Reply) -> Identity:
        if not isinstance(reply, Registers):
            return Identity(self.family, model="EZ-ZONE")
        hardware, firmware = enum_at(reply.data, 0), enum_at(reply.data, 2)
        return Identity(
            self.family, model=f"EZ-ZONE, hardware id {hardware}", firmware=f"id {firmware}"
        )

    async def poll(self) -> Sequence[Reading]:
        """Read process value and input error, and now and then power and setpoint, in turn."""
        readings = await self._poll_input()
        now_s = readings[0].at_s
        if self._power_pace.is_due(now_s):
            readings += await self._poll_power()
            readings += await self._poll_extra()
        if self._setpoint_pace.is_due(now_s) or self._setpoint_due:
            self._setpoint_due = False  # before the exchange: a write meanwhile makes it due again
            readings.append(await self._poll_setpoint())
        return readings

    async def _poll_input(self) -> list[Reading]:
        reply, at_s = await self._read(self._talk.read_input)
        state, native = self._talk.decode_input(reply), reply.data.hex()
        error = Reading("input_error", float(state.error), at_s, native=native)
        if state.good:
            pv = Reading("pv", to_degC(state.value, self._unit), at_s, native=native)
        else:
            pv = Reading("pv", math.nan, at_s, Status.SENSOR_FAIL, native)
        return [pv, error]

    async def _poll_power(self) -> list[Reading]:
        reply, at_s = await self._read(self._talk.read_power)
        native = reply.data.hex()
        return [
            Reading("power", self._talk.decode_power(reply), at_s, native=native),
            Reading("output", self._talk.decode_output(reply), at_s, native=native),
        ]

    async def _poll_extra(self) -> list[Reading]:
        """Read the group whose turn it is."""
        if not self._extras:
            return []
        extra = self._extras[self._extra_turn % len(self._extras)]
        self._extra_turn += 1
        reply, at_s = await self._read(extra.query)
        native = reply.data.hex()
        return [
            Reading(name, value, at_s, _worth(value), native) for name, value in extra.values(reply)
        ]

    async def _poll_setpoint(self, priority: Priority = Priority.POLL) -> Reading:
        reply, at_s = await self._read(self._talk.read_setpoint, priority)
        value = self._talk.decode_setpoint(reply)
        return Reading("setpoint", to_degC(value, self._unit), at_s, native=reply.data.hex())

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Write the setpoint (degC), or a field of the groups read beside, and read it back.

        A setpoint outside the controller's own limits may be refused or clamped; which of the two
        is not documented, and the read-back tells.
        """
        info = self._fields.get(write.field)
        if info is None or info.command is None:
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        if write.field != "setpoint":
            return await self._write_extra(write, priority)
        value = from_degC(write.value, self._unit)
        if not LOWEST_SETPOINT <= value <= HIGHEST_SETPOINT:
            return WriteAck(False, f"{self.name}: {write.value:g} degC is beyond any controller's")
        query = self._talk.write_setpoint(value)
        self._setpoint_due = True
        reply = (await self._ask(query, priority)).value
        if isinstance(reply, Refusal):
            return WriteAck(False, f"{self.name} refused {write.value:g} degC: {reply}")
        return WriteAck(True, readback=(await self._poll_setpoint(priority)).value)

    async def _write_extra(self, write: FieldWrite, priority: Priority) -> WriteAck:
        extra = next(e for e in self._extras if write.field in {i.name for i in e.fields})
        now, _ = await self._read(extra.query, priority)
        query = extra.writes(write.field, write.value, now)
        if isinstance(query, str):
            return WriteAck(False, f"{self.name}: {write.value:g}: {query}")
        reply = (await self._ask(query, priority)).value
        if isinstance(reply, Refusal):
            return WriteAck(False, f"{self.name} refused {write.field}: {reply}")
        after, _ = await self._read(extra.query, priority)
        return WriteAck(True, readback=dict(extra.values(after))[write.field])

    async def _read(
        self, query: Query, priority: Priority = Priority.POLL
    ) -> tuple[Registers, float]:
        """Return what was read, and when; a refusal to be read is a fault of the device."""
        answer = await self._ask(query, priority)
        if isinstance(answer.value, Registers):
            return answer.value, answer.at_s
        raise DeviceError(f"{self.name}: {query.request}: {answer.value}")

    async def _ask(self, query: Query, priority: Priority) -> Answer[Reply]:
        frame, feed = self._speaker.begin(query)
        gap_s = self._options.silence_s
        return await self._exchange(frame, feed, priority=priority, gap_s=gap_s)


def _worth(value: float) -> Status:
    """A float that is no number is no reading."""
    return Status.OK if math.isfinite(value) else Status.SENSOR_FAIL
