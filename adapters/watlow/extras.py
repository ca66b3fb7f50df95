"""What a controller tells beside process value, power and setpoint, a group of registers each.

Every group costs an exchange each time it is read, so a profile says which it wants. Each has a
register count that no other query of ``codec.Conversation`` has, so that a late reply is told.
Sources: register list ("PM - Map 1").
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from adapters.modbus.codec import Query, ReadRegisters, Registers, WriteRegisters
from adapters.modbus.words import WordOrder, float_at, float_words
from adapters.watlow.codec import (
    COMMS_BLOCK,
    COMMS_UNITS,
    CONTROL_MODE,
    NV_SAVE,
    PORT_OFFSET,
    ControlMode,
    Units,
    enum_at,
    enum_query,
    is_second,
)
from capa.devices.adapter import FieldInfo

__all__ = ["Extra", "ExtraName", "extras_of"]

ExtraName = Literal["mode", "ramp", "comms", "loop", "alarm1", "alarm2", "alarm3", "alarm4"]

RAMP_ACTION, RAMP_SCALE, RAMP_SETPOINT, RAMP_RATE = 2186, 2188, 2190, 2192
_ALARMS: Mapping[str, tuple[int, int, int]] = {
    "alarm1": (1496, 1496, 3),
    "alarm2": (1546, 1546, 13),
    "alarm3": (1596, 1594, 15),
    "alarm4": (1646, 1644, 16),
}
"""State register, first register that is read, and how many: a late reply to one alarm's read must
not pass for another's, and count is all that tells them apart."""
_LOOP_START, _LOOP_COUNT, LOOP_ERROR = 1910, 20, 1928
_RAMP_START = 2184
_HOURS = 39
_ACTIONS = {62.0, 88.0, 85.0, 13.0}
_SAVE_YES, _SAVE_NO = 106, 59


@dataclass(frozen=True, slots=True)
class Extra:
    """A group of registers that is read together, and what is in it.

    Args:
        query: what is read.
        fields: what it tells, in the fields' own units.
    """

    name: ExtraName
    query: Query
    fields: tuple[FieldInfo, ...]
    unit: int
    order: WordOrder
    wire: Units
    port_offset: int = 0

    def values(self, reply: Registers) -> Iterator[tuple[str, float]]:
        """Yield what the registers say, field by field."""
        data = reply.data
        match self.name:
            case "mode":
                yield "mode", float(enum_at(data, 0))
                yield "mode_active", float(enum_at(data, 2))
            case "ramp":
                yield "ramp_action", float(enum_at(data, RAMP_ACTION - _RAMP_START))
                setpoint = float_at(data, RAMP_SETPOINT - _RAMP_START, self.order)
                yield "ramp_setpoint", self._degC(setpoint)
                rate = float_at(data, RAMP_RATE - _RAMP_START, self.order)
                yield "ramp_rate", self._per_minute(rate, self._scale(data))
            case "comms":
                yield "wire_units", float(enum_at(data, COMMS_UNITS - COMMS_BLOCK))
                yield "save", float(enum_at(data, NV_SAVE - COMMS_BLOCK) == _SAVE_YES)
            case "loop":
                yield "loop_error", float(enum_at(data, LOOP_ERROR - _LOOP_START))
            case _:
                state, first, _ = _ALARMS[self.name]
                yield self.name, float(enum_at(data, state - first))

    def _degC(self, value: float) -> float:
        if not math.isfinite(value):
            return math.nan
        return (value - 32.0) / 1.8 if self.wire is Units.DEG_F else value

    @staticmethod
    def _scale(data: bytes) -> int:
        return enum_at(data, RAMP_SCALE - _RAMP_START)

    def _per_minute(self, rate: float, scale: int) -> float:
        if not math.isfinite(rate):
            return math.nan
        kelvin = rate / 1.8 if self.wire is Units.DEG_F else rate
        return kelvin / 60.0 if scale == _HOURS else kelvin

    def writes(self, field: str, value: float, now: Registers) -> Query | str:
        """Return the query that writes a field, or why it can't be; ``now`` is what was just read.

        The rate is written in the scale (per minute or per hour) that the controller is set to.
        """
        match field:
            case "mode" if value in {float(mode) for mode in ControlMode}:
                return self._writes_enum(CONTROL_MODE, int(value), now.data, 0)
            case "mode":
                return "a control mode is 62 (off), 10 (auto) or 54 (manual)"
            case "ramp_action" if value in _ACTIONS:
                at = RAMP_ACTION - _RAMP_START
                return self._writes_enum(RAMP_ACTION, int(value), now.data, at)
            case "ramp_action":
                return "a ramp action is 62 (off), 88 (startup), 85 (set point) or 13 (both)"
            case "save" if value in {0.0, 1.0}:
                code = _SAVE_YES if value else _SAVE_NO
                at = NV_SAVE - COMMS_BLOCK
                return self._writes_enum(NV_SAVE + self.port_offset, code, now.data, at)
            case "save":
                return "save is 0 (no) or 1 (yes)"
            case _ if 0.0 <= value <= 9999.0:
                return self._writes_rate(value, self._scale(now.data))
            case _:
                return "a ramp rate is 0 to 9999"

    def _writes_enum(self, register: int, code: int, now: bytes, at: int) -> Query:
        return enum_query(self.unit, register, code, second=is_second(now, at))

    def _writes_rate(self, per_minute: float, scale: int) -> Query:
        kelvin = per_minute * 60.0 if scale == _HOURS else per_minute
        rate = kelvin * 1.8 if self.wire is Units.DEG_F else kelvin
        words = float_words(rate, self.order)
        return Query(WriteRegisters(self.unit, RAMP_RATE, words))


def extras_of(
    names: tuple[ExtraName, ...], unit: int, order: WordOrder, wire: Units, *, port: int
) -> list[Extra]:
    """Return the groups that a profile wants, in its order."""
    offset = PORT_OFFSET if port == 2 else 0
    return [
        Extra(
            name,
            Query(ReadRegisters(unit, *_place(name, offset))),
            _fields(name),
            unit,
            order,
            wire,
            offset,
        )
        for name in names
    ]


def _place(name: ExtraName, offset: int) -> tuple[int, int]:
    match name:
        case "mode":
            return CONTROL_MODE, 8
        case "ramp":
            return _RAMP_START, 10
        case "comms":
            return COMMS_BLOCK + offset, 14
        case "loop":
            return _LOOP_START, _LOOP_COUNT
        case "alarm1" | "alarm2" | "alarm3" | "alarm4":
            _, first, count = _ALARMS[name]
            return first, count


def _fields(name: ExtraName) -> tuple[FieldInfo, ...]:
    match name:
        case "mode":
            return (
                FieldInfo(
                    "mode", "1", "set_mode", 0.5, description="1880: 62 off, 10 auto, 54 manual"
                ),
                FieldInfo("mode_active", "1", description="1882: differs while the input failed"),
            )
        case "ramp":
            return (
                FieldInfo(
                    "ramp_action",
                    "1",
                    "set_ramp_action",
                    0.5,
                    description="2186: 62 off, 88 startup, 85 set point, 13 both",
                ),
                FieldInfo("ramp_setpoint", "degC", description="2190: where the ramp is"),
                FieldInfo("ramp_rate", "delta_degC/min", "set_ramp_rate", 0.01, description="2192"),
            )
        case "comms":
            return (
                FieldInfo("wire_units", "1", description="2490: 30 degF, 15 degC"),
                FieldInfo(
                    "save", "1", "set_save", 0.5, description="2494: 1 saves what is written"
                ),
            )
        case "loop":
            says = "1928: 61 none, 1274 open loop, 1275 reversed"
            return (FieldInfo("loop_error", "1", description=says),)
        case "alarm1" | "alarm2" | "alarm3" | "alarm4":
            says = "61 none, 7 high, 8 low, 28 error, 12 blocked, 88 startup"
            return (FieldInfo(name, "1", description=f"state of alarm {name[-1]}: {says}"),)
