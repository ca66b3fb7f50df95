"""Fields of a device that a register map describes: numbers in one or two registers, and bits.

Pure: no I/O. An engineering value is ``scale * raw + offset``.
"""

import math
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from adapters.modbus.codec import READ_COILS, READ_DISCRETE, READ_HOLDING, READ_INPUT
from adapters.modbus.flags import Flagged
from adapters.modbus.words import (
    WordOrder,
    as_float32,
    float_at,
    float_words,
    uint32_at,
    uint32_words,
)
from capa.channels.sample import Status
from capa.devices.adapter import FieldInfo
from capa.models import Flag, Frozen, Number, Whole

__all__ = [
    "BIT_SPACES",
    "FieldType",
    "RegisterField",
    "Space",
    "decode",
    "encode",
    "status_of",
]

FieldType = Literal["int16", "uint16", "int32", "uint32", "float32", "bit"]
Space = Literal["holding", "input", "coil", "discrete"]

BIT_SPACES = frozenset({"coil", "discrete"})

_FUNCTIONS: Mapping[Space, int] = {
    "holding": READ_HOLDING,
    "input": READ_INPUT,
    "coil": READ_COILS,
    "discrete": READ_DISCRETE,
}
_WRITABLE = {"holding", "coil"}
_WIDE = {"int32", "uint32", "float32"}
_RANGES: Mapping[str, tuple[int, int]] = {
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
}
_FLOAT32_MAX = 3.4028234e38
_FLOAT32_END = 3.40282356e38
"""From here on a number is rounded to infinity."""
_FLOAT32_DIGITS = 1e-6
_ROUNDED = 0.501
"""Of a step: how far off a whole number is read back that was rounded. A whole step is another
number: of a valve in a register, open instead of closed."""
_BORDER = 1e-6
"""Of a step: how far past a border of the map a whole number may be scaled that lies on it."""
_FLOAT32_BORDER = 1.2e-7
"""Of a border: how far past it the float32 may lie that an instrument shows at it, twice over."""


class RegisterField(Frozen):
    """One row of the map: ``[fields.<name>]``."""

    address: Whole = Field(ge=0, le=65535)
    """The number in the PDU, counted from 0: 40001 in many manuals is holding register 0."""
    space: Space = Field(default="holding", alias="register")
    """``register`` in the file, a name that every class has a method of already."""
    type: FieldType = "uint16"
    word_order: WordOrder | None = None
    """Of two-register types; None takes the device's."""
    bit: Whole = Field(default=0, ge=0, le=15)
    """Which bit of a register, for ``type = "bit"``; 0 is the lowest."""
    negative_from: Whole | None = Field(default=None, ge=1, le=65535)
    """Raw numbers of a uint16 from this on are negative: 65536 less. (int16 has 32768.)"""
    scale: Number = 1.0
    offset: Number = 0.0
    unit: str
    access: Literal["r", "rw", "setting"] = "r"
    """``setting`` is written by ``[devices.enforce]`` only, and never by a channel."""
    expect: Number | None = None
    """What it has to read before a run is armed, in ``unit``; ``[devices.expect]`` beats it."""
    command: str | None = None
    """What writes it, for the channel that commands it, such as ``"set_setpoint"``."""
    min: Number | None = None
    max: Number | None = None
    """What may be written, in ``unit``; the type's own range holds in any case."""
    sensor_fail: tuple[Number, ...] = ()
    """Raw values by which the device says that there is nothing to measure, such as 32767.

    Of a whole number with its sign or without: 0x8000 and -32768 are one register of an int16.
    """
    valid_min: Number | None = None
    valid_max: Number | None = None
    """What can be measured, in ``unit``: beyond it a reading is underrange or overload."""
    status_from: tuple[Flagged, ...] = ()
    """Other fields that say what this one's value is worth; see ``flags``."""
    resolution: Number | None = Field(default=None, gt=0)
    """How far a read-back may lie off; None takes what rounding to the type's step makes."""
    reads_back: Flag = True
    description: str = ""
    source: str = ""
    """Where the address comes from; for those who read the map."""
    verified: Flag = True
    """False for an address that nobody has seen at work."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale is 0; a value would be lost")
        if (self.access == "rw") != (self.command is not None):
            raise ValueError('access = "rw" and command go together: give both or neither')
        if (self.space in BIT_SPACES) and self.type != "bit":
            raise ValueError(f'register = "{self.space}" holds bits: type = "bit"')
        if self.access != "r" and not self._can_be_written:
            raise ValueError(
                "input registers, discrete inputs and single bits of registers can't be written"
            )
        if self.address + self.width > 65536:
            raise ValueError("its second register would lie past 65535")
        return self

    @model_validator(mode="after")
    def _says_what_is_read(self) -> Self:
        """Refuse keys that would go unheeded, and so leave a number that is another one."""
        if self.type == "bit" and (self.scale, self.offset) != (1.0, 0.0):
            raise ValueError('type = "bit" is 0 or 1: it has no scale and no offset')
        if self.bit and (self.type != "bit" or self.space in BIT_SPACES):
            raise ValueError('bit goes with type = "bit", of a holding or an input register')
        if self.negative_from is not None and self.type != "uint16":
            raise ValueError('negative_from goes with type = "uint16"')
        for mark in self.sensor_fail:
            if not self._can_read(mark):
                raise ValueError(f"sensor_fail: {mark:.12g} is never read from {self.type}")
        return self

    def _can_read(self, mark: float) -> bool:
        if self.type == "float32":
            return abs(mark) < _FLOAT32_END
        if self.type == "bit":
            return mark in {0, 1}
        span = 2 ** (16 * self.width)
        return mark.is_integer() and -span // 2 <= mark < span

    def is_no_value(self, raw: float) -> bool:
        """Whether a raw value is one of ``sensor_fail``."""
        if self.type == "float32":
            return any(raw == as_float32(mark) for mark in self.sensor_fail)
        span = 2 ** (16 * self.width)
        return any((raw - mark) % span == 0 for mark in self.sensor_fail)

    @property
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest whole number that it can hold."""
        if self.type == "bit":
            return 0, 1
        if self.type == "uint16" and self.negative_from is not None:
            return self.negative_from - 2**16, self.negative_from - 1
        return _RANGES[self.type]

    @property
    def is_whole(self) -> bool:
        """Whether it holds a whole number as it stands in its registers."""
        return self.type != "float32" and self.scale == 1 and self.offset == 0

    @property
    def _can_be_written(self) -> bool:
        return self.space in _WRITABLE and (self.type != "bit" or self.space == "coil")

    @property
    def width(self) -> int:
        """How many registers (or coils) it takes."""
        return 2 if self.type in _WIDE else 1

    @property
    def function(self) -> int:
        """The function code that reads it."""
        return _FUNCTIONS[self.space]

    def info(self, name: str) -> FieldInfo:
        """Describe it to the engine."""
        place = f"{self.space} {'bit' if self.space in BIT_SPACES else 'register'} {self.address}"
        unproven = "" if self.verified else " (address unverified)"
        return FieldInfo(
            name,
            self.unit,
            command=self.command,
            resolution=self.slack,
            reads_back=self.reads_back,
            description=(self.description or place) + unproven,
        )

    @property
    def slack(self) -> float:
        """How far a read-back may lie off what was written."""
        return self.rounding if self.resolution is None else self.resolution

    @property
    def rounding(self) -> float:
        """How far off a number may be that was rounded to what the type can show."""
        if self.type != "float32":
            return _ROUNDED * abs(self.scale)
        ends = (self.min or 0.0, self.max or 0.0)
        widest = max(*(abs(end - self.offset) for end in ends), 1.0)  # as in the register
        return widest * _FLOAT32_DIGITS


def decode(field: RegisterField, data: bytes, index: int, order: WordOrder) -> float:
    """Return a field's engineering value from a block of bytes; may be NaN.

    ``index`` counts registers, or bits where the field is a coil or a discrete input.
    """
    if field.space in BIT_SPACES:
        raw = float(data[index // 8] >> index % 8 & 1)
    else:
        raw = _raw(field, data, index, field.word_order or order)
    return math.nan if field.is_no_value(raw) else field.scale * raw + field.offset


def _raw(field: RegisterField, data: bytes, register: int, order: WordOrder) -> float:
    word = data[2 * register : 2 * register + 2]
    match field.type:
        case "float32":
            return float_at(data, register, order)
        case "uint32":
            return uint32_at(data, register, order)
        case "int32":
            value = uint32_at(data, register, order)
            return value - 2**32 if value >= 2**31 else value
        case "int16":
            return int.from_bytes(word, "big", signed=True)
        case "uint16":
            number = int.from_bytes(word, "big")
            wraps = field.negative_from is not None and number >= field.negative_from
            return number - 2**16 if wraps else number
        case "bit":
            return float(int.from_bytes(word, "big") >> field.bit & 1)


def status_of(field: RegisterField, value: float) -> Status:
    """Say what a decoded value is worth."""
    if not math.isfinite(value):
        return Status.SENSOR_FAIL
    if field.valid_min is not None and value < field.valid_min - _border(field, field.valid_min):
        return Status.UNDERRANGE
    if field.valid_max is not None and value > field.valid_max + _border(field, field.valid_max):
        return Status.OVERLOAD
    return Status.OK


def _border(field: RegisterField, bound: float) -> float:
    """Return how far past a bound a value may be decoded that lies on it."""
    if field.type != "float32":
        return _BORDER * abs(field.scale)
    return _FLOAT32_BORDER * abs(bound - field.offset)  # as in the register, where it was rounded


def encode(field: RegisterField, value: float, order: WordOrder) -> tuple[int, ...]:
    """Return the registers of an engineering value, rounded to what the type can show.

    Raises:
        ValueError: the value has no room in the type; the message says what has.
    """
    raw = (value - field.offset) / field.scale
    order = field.word_order or order
    if field.type == "bit":
        if field.access == "rw" and value not in {0.0, 1.0}:
            raise ValueError(f"{value:g} is neither 0 nor 1")
        return (int(value != 0) << field.bit,)
    if field.type == "float32":
        if math.isinf(raw) or abs(raw) > _FLOAT32_MAX:
            raise ValueError(f"{value:g} {field.unit} is beyond float32")
        return float_words(raw, order)
    if not math.isfinite(raw):
        raise ValueError(f"{value:g} is not a finite number")
    low, high = field.raw_range
    whole = round(raw)
    if not low <= whole <= high:
        raise ValueError(f"{value:g} {field.unit} is {whole} in {field.type}: {low} to {high} fit")
    if field.width == 2:
        return uint32_words(whole % 2**32, order)
    return (whole % 2**16,)
