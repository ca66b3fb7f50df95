"""Fields of a device that a register map describes: numbers in one or two registers, and bits.

Pure: no I/O. An engineering value is ``scale * raw + offset``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from adapters.modbus.codec import READ_HOLDING, READ_INPUT
from adapters.modbus.words import WordOrder, float_at, float_words, uint32_at, uint32_words
from capa.devices.adapter import FieldInfo
from capa.models import Flag, Frozen, Number, Whole

__all__ = ["Block", "FieldType", "RegisterField", "blocks_of", "decode", "encode"]

FieldType = Literal["int16", "uint16", "int32", "float32", "bit"]

_FUNCTIONS = {"holding": READ_HOLDING, "input": READ_INPUT}
_RANGES: Mapping[str, tuple[int, int]] = {
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
}
_FLOAT32_MAX = 3.4028234e38
_FLOAT32_DIGITS = 1e-6


class RegisterField(Frozen):
    """One row of the map: ``[devices.options.fields.<name>]``."""

    address: Whole = Field(ge=0, le=65535)
    """The number in the PDU, counted from 0: 40001 in many manuals is holding register 0."""
    space: Literal["holding", "input"] = Field(default="holding", alias="register")
    """``register`` in the file, a name that every class has a method of already."""
    type: FieldType = "uint16"
    word_order: WordOrder | None = None
    """Of two-register types; None takes the device's."""
    bit: Whole = Field(default=0, ge=0, le=15)
    """Which bit of the register, for ``type = "bit"``; 0 is the lowest."""
    scale: Number = 1.0
    offset: Number = 0.0
    unit: str
    access: Literal["r", "rw"] = "r"
    command: str | None = None
    """What writes it, for the channel that commands it, such as ``"set_setpoint"``."""
    min: Number | None = None
    max: Number | None = None
    """What may be written, in ``unit``; the type's own range holds in any case."""
    resolution: Number | None = Field(default=None, gt=0)
    """How far a read-back may lie off; None takes the smallest step that the type can show."""
    reads_back: Flag = True
    description: str = ""

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale is 0; a value would be lost")
        if (self.access == "rw") != (self.command is not None):
            raise ValueError('access = "rw" and command go together: give both or neither')
        if self.access == "rw" and (self.space == "input" or self.type == "bit"):
            raise ValueError("input registers and single bits can't be written")
        if self.address + self.width > 65536:
            raise ValueError("its second register would lie past 65535")
        return self

    @property
    def width(self) -> int:
        """How many registers it takes."""
        return 2 if self.type in {"int32", "float32"} else 1

    @property
    def function(self) -> int:
        """The function code that reads it."""
        return _FUNCTIONS[self.space]

    def info(self, name: str) -> FieldInfo:
        """Describe it to the engine."""
        return FieldInfo(
            name,
            self.unit,
            command=self.command,
            resolution=self._resolution(),
            reads_back=self.reads_back,
            description=self.description or f"{self.space} register {self.address}",
        )

    def _resolution(self) -> float:
        if self.resolution is not None:
            return self.resolution
        if self.type != "float32":
            return abs(self.scale)
        widest = max(abs(self.min or 0.0), abs(self.max or 0.0), 1.0)
        return widest * _FLOAT32_DIGITS


def decode(field: RegisterField, data: bytes, register: int, order: WordOrder) -> float:
    """Return a field's engineering value from a block of register bytes; may be NaN."""
    raw = _raw(field, data, register, field.word_order or order)
    return raw if field.type == "bit" else field.scale * raw + field.offset


def _raw(field: RegisterField, data: bytes, register: int, order: WordOrder) -> float:
    word = data[2 * register : 2 * register + 2]
    match field.type:
        case "float32":
            return float_at(data, register, order)
        case "int32":
            value = uint32_at(data, register, order)
            return value - 2**32 if value >= 2**31 else value
        case "int16":
            return int.from_bytes(word, "big", signed=True)
        case "uint16":
            return int.from_bytes(word, "big")
        case "bit":
            return float(int.from_bytes(word, "big") >> field.bit & 1)


def encode(field: RegisterField, value: float, order: WordOrder) -> tuple[int, ...]:
    """Return the registers of an engineering value, rounded to what the type can show.

    Raises:
        ValueError: the value has no room in the type; the message says what has.
    """
    raw = (value - field.offset) / field.scale
    order = field.word_order or order
    if field.type == "bit":
        return (int(value != 0) << field.bit,)
    if field.type == "float32":
        if math.isinf(raw) or abs(raw) > _FLOAT32_MAX:
            raise ValueError(f"{value:g} {field.unit} is beyond float32")
        return float_words(raw, order)
    if not math.isfinite(raw):
        raise ValueError(f"{value:g} is not a finite number")
    low, high = _RANGES[field.type]
    whole = round(raw)
    if not low <= whole <= high:
        raise ValueError(f"{value:g} {field.unit} is {whole} in {field.type}: {low} to {high} fit")
    if field.type == "int32":
        return uint32_words(whole % 2**32, order)
    return (whole % 2**16,)


class Block(Frozen):
    """Registers read in one request, and the names of the fields in them."""

    function: int
    address: int
    count: int
    fields: tuple[str, ...]


def blocks_of(
    fields: Mapping[str, RegisterField], *, bridge: int, max_read: int
) -> Sequence[Block]:
    """Batch neighbouring registers into as few requests as the device allows.

    Args:
        fields: the map.
        bridge: how many registers that no field claims may be read along; 0 where reading a
            register that is not there is refused, as many devices do.
        max_read: the most registers of one request.
    """
    blocks: list[Block] = []
    ordered = sorted(fields.items(), key=lambda item: (item[1].function, item[1].address))
    for name, field in ordered:
        last = blocks[-1] if blocks else None
        end = field.address + field.width
        if (
            last is not None
            and last.function == field.function
            and field.address - (last.address + last.count) <= bridge
            and end - last.address <= max_read
        ):
            count = max(last.count, end - last.address)
            blocks[-1] = last.model_copy(update={"count": count, "fields": (*last.fields, name)})
        else:
            blocks.append(
                Block(
                    function=field.function,
                    address=field.address,
                    count=field.width,
                    fields=(name,),
                )
            )
    return blocks
