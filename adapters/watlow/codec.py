"""Watlow EZ-ZONE PM over Modbus RTU: what is read together, and what the registers mean.

Register numbers are those of Map 1, which are the addresses in the PDU. Sources: Watlow EZ-ZONE
PM register list ("PM - Map 1") and EZ-ZONE Communications manual; NOTES.md says which facts are
unproven. Frames are ``adapters.modbus.codec``'s.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

from adapters.modbus.codec import (
    Query,
    ReadRegisters,
    Registers,
    WriteRegister,
    WriteRegisters,
)
from adapters.modbus.words import WordOrder, float_at, float_words
from capa.errors import FrameError

__all__ = [
    "ACTIVE_MODE",
    "COMMS_BLOCK",
    "COMMS_UNITS",
    "CONTROL_MODE",
    "HEAT_POWER",
    "HIGHEST_SETPOINT",
    "INPUT_ERROR",
    "LOWEST_SETPOINT",
    "MAP_1_PLACES",
    "NV_SAVE",
    "PORT_OFFSET",
    "PROCESS_VALUE",
    "SETPOINT",
    "WORD_ORDER",
    "ControlMode",
    "Conversation",
    "InputError",
    "InputState",
    "Places",
    "Units",
    "WordOrderCode",
    "enum_at",
    "enum_query",
    "from_degC",
    "is_second",
    "scale_to_degC",
    "to_degC",
]

PROCESS_VALUE = 360
INPUT_ERROR = 362
CONTROL_MODE = 1880
ACTIVE_MODE = 1882
HEAT_POWER = 1904
SETPOINT = 2160
WORD_ORDER = 2488
COMMS_UNITS = 2490
NV_SAVE = 2494

LOWEST_SETPOINT = -1999.0
HIGHEST_SETPOINT = 9999.0

COMMS_BLOCK = 2482
PORT_OFFSET = 20


class InputError(IntEnum):
    """Register 362. With anything but ``NONE``, register 360 holds the last good value."""

    NONE = 61
    OPEN = 65
    SHORTED = 127
    MEASUREMENT = 140
    BAD_CALIBRATION = 139
    AMBIENT = 9
    RTD = 141
    FAIL = 32
    NOT_SOURCED = 246


class ControlMode(IntEnum):
    """Register 1880."""

    OFF = 62
    AUTO = 10
    MANUAL = 54


class Units(IntEnum):
    """Registers 1838 (panel) and 2490 (wire): the two need not agree."""

    DEG_F = 30
    DEG_C = 15


class WordOrderCode(IntEnum):
    """Register 2488."""

    HIGH_LOW = 1330
    LOW_HIGH = 1331


def to_degC(value: float, unit: Units) -> float:
    """Convert a temperature on the wire to degrees Celsius."""
    return (value - 32.0) / 1.8 if unit is Units.DEG_F else value


def from_degC(value_degC: float, unit: Units) -> float:
    """Convert degrees Celsius to the wire's unit."""
    return value_degC * 1.8 + 32.0 if unit is Units.DEG_F else value_degC


def scale_to_degC(unit: Units) -> tuple[float, float]:
    """Return gain and offset of ``to_degC``, for what computes it without this module."""
    return (1 / 1.8, -32.0 / 1.8) if unit is Units.DEG_F else (1.0, 0.0)


def enum_at(data: bytes, register: int) -> int:
    """Return the enumeration that begins at ``register``.

    It is in the first of its two registers; where the words are swapped that is not known, and
    since no enumeration has the value 0, the second one then has it.
    """
    at = 2 * register
    first = data[at] << 8 | data[at + 1]
    return first or data[at + 2] << 8 | data[at + 3]


def is_second(data: bytes, register: int) -> bool:
    """Whether the enumeration that begins at ``register`` stands in the second of the two."""
    at = 2 * register
    return not any(data[at : at + 2]) and any(data[at + 2 : at + 4])


def enum_query(unit: int, register: int, code: int, *, second: bool) -> Query:
    """Return the query that writes an enumeration to where it was read.

    Function 6 into the first register is what is documented; a device that keeps enumerations in
    the second one has a number of 32 bits there, and half a number is never written.
    """
    if second:
        return Query(WriteRegisters(unit, register, (0, code)))
    return Query(WriteRegister(unit, register, code))


@dataclass(frozen=True, slots=True)
class InputState:
    """The process value with what it is worth; ``value`` is in the wire's unit."""

    value: float
    error: int

    @property
    def good(self) -> bool:
        """Whether the value is a measurement."""
        return self.error == InputError.NONE


@dataclass(frozen=True, slots=True)
class Places:
    """Where the four things are that every poll and every write need."""

    process_value: int
    heat_power: int
    setpoint: int
    control_mode: int


MAP_1_PLACES = Places(PROCESS_VALUE, HEAT_POWER, SETPOINT, CONTROL_MODE)


class Conversation:
    """Every query that one controller is asked, made once, and the reading of its replies.

    Each query has a register count of its own, so that a late reply to one of them cannot pass
    for the reply to another: count is all that RTU lets one check.
    """

    def __init__(
        self, unit: int, order: WordOrder, *, port: int = 1, places: Places = MAP_1_PLACES
    ) -> None:
        self._unit = unit
        self._order: WordOrder = order
        self._setpoint_at = places.setpoint
        self.read_input = Query(ReadRegisters(unit, places.process_value, 4))
        self.read_power = Query(ReadRegisters(unit, places.heat_power, 6))
        self.read_setpoint = Query(ReadRegisters(unit, places.setpoint, 2))
        self.read_modes = Query(ReadRegisters(unit, places.control_mode, 8))
        comms = COMMS_BLOCK + (PORT_OFFSET if port == 2 else 0)
        self.read_comms = Query(ReadRegisters(unit, comms, 14))
        self.read_identity = Query(ReadRegisters(unit, 0, 5))

    def write_setpoint(self, value: float) -> Query:
        """Return the query that writes the closed-loop setpoint, in the wire's unit."""
        return Query(WriteRegisters(self._unit, self._setpoint_at, float_words(value, self._order)))

    def decode_input(self, reply: Registers) -> InputState:
        """Read the reply to ``read_input``; without an input any number may stand there."""
        error = enum_at(reply.data, 2)
        if error != InputError.NONE:
            return InputState(float_at(reply.data, 0, self._order), error)
        return InputState(self._float(reply, 0), error)

    def decode_power(self, reply: Registers) -> float:
        """Return the heat power in percent from the reply to ``read_power``."""
        return self._float(reply, 0)

    def decode_output(self, reply: Registers) -> float:
        """Return the output power, -100 to 100 %, from the reply to ``read_power``."""
        return self._float(reply, 4)

    def decode_setpoint(self, reply: Registers) -> float:
        """Return the setpoint, in the wire's unit, from the reply to ``read_setpoint``."""
        return self._float(reply, 0)

    def _float(self, reply: Registers, register: int) -> float:
        value = float_at(reply.data, register, self._order)
        if not math.isfinite(value):
            raise FrameError(f"unit {self._unit}: {reply.data.hex(' ')} is not a number")
        return value
