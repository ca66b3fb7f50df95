"""The simulated device behind a register map, fed from the plant."""

import math
import random
from collections.abc import Callable, Mapping, Sequence, Set
from zlib import crc32

from adapters.modbus.bank import exception_code
from adapters.modbus.codec import (
    READ_COILS,
    READ_HOLDING,
    WRITE_COIL,
    BadRequest,
    Bits,
    Ear,
    ExcCodes,
    ReadBits,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    WriteCoil,
    WriteRegister,
    WriteRegisters,
    Written,
)
from adapters.modbus.fields import RegisterField, decode, encode
from adapters.modbus.options import ModbusOptions, ModbusTwinOptions, TwinField, unit_of
from adapters.modbus.words import uint32_words
from capa.channels.sample import Status
from capa.devices.delay import ReplyDelay
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply

__all__ = ["ModbusTwin"]

_INT_BREAK = 0x7FFF
_Cell = tuple[int, int]
"""Function code that reads it, and address: holding and input registers are two spaces."""


class ModbusTwin:
    """One device: what the plant says, in registers; what is written, remembered or driven.

    A number too large for its type reads as the type's own limit, as an indicator's does.
    """

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        self._map = ModbusOptions.model_validate(spec.options)
        options = ModbusTwinOptions.model_validate(spec.twin)
        self._fields = self._map.fields
        strangers = sorted(set(options.fields) - set(self._fields))
        if strangers:
            raise ValueError(
                f"{spec.name}: [devices.twin.fields.{strangers[0]}] is not in the register map"
            )
        seed = spec.name if options.seed is None else options.seed
        self._name = spec.name
        self._unit = unit_of(spec, self._map.framing)
        self._plant = plant
        self._delay = ReplyDelay(options.reply_delay_s, seed=seed)
        self._random = random.Random(  # noqa: S311 - a repeatable noise, not a secret
            seed if isinstance(seed, int) else crc32(seed.encode())
        )
        self._ear = Ear(self._map.framing)
        self._plays = {name: options.fields.get(name, TwinField()) for name in self._fields}
        self._held = {name: play.value for name, play in self._plays.items()}
        self._cells = self._layout(self._fields)
        self._refuses: int | None = None
        self._frozen: Mapping[str, float] | None = None
        self._broken = False
        self._flagged: set[Status] = set()

    @staticmethod
    def _layout(fields: Mapping[str, RegisterField]) -> dict[_Cell, list[tuple[str, int]]]:
        """Return for each register the fields in it, and which of their registers it is."""
        cells: dict[_Cell, list[tuple[str, int]]] = {}
        for name, field in fields.items():
            for index in range(field.width):
                cells.setdefault((field.function, field.address + index), []).append((name, index))
        return cells

    # --- the contract of a twin -----------------------------------------------------------------

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        return self._name

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Answer the requests that these bytes complete."""
        mine = (one for one in self._ear.feed(chunk) if one.request.unit == self._unit)
        return [
            TwinReply(one.answer(self._answer(one.request)), self._delay.next_s()) for one in mine
        ]

    def line_idle(self) -> None:
        """Forget a half-received request."""
        self._ear.reset()

    def outputs(self) -> dict[str, float]:
        """Return what can be commanded, by field."""
        return {
            name: self._truth(name)
            for name, field in self._fields.items()
            if field.command is not None
        }

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Enter or leave ``exception`` (value: code), ``frozen``, ``sensor_break``, or a status.

        A broken sensor reads as NaN in a float and as 32767 in an integer: a field's scale makes
        a number of that, so a profile wants an alarm on it. ``underrange``, ``overload``,
        ``settling`` and ``stale`` have the map's flags (``status_from``) say so, and put a number
        beyond ``valid_min`` or ``valid_max``; a map without either has no such fault.
        """
        match kind:
            case "exception":
                code = exception_code(value)
                self._refuses = code if active else None
            case "frozen":
                seen = {name: self._truth(name) for name in self._fields}
                self._frozen = seen if active else None
            case "sensor_break":
                self._broken = active
                self._flag(Status.SENSOR_FAIL, active=active)
            case "underrange" | "overload" | "settling" | "stale":
                return self._flag(Status(kind), active=active)
            case _:
                return False
        return True

    def _flag(self, status: Status, *, active: bool) -> bool:
        """Have the device say of its values what they are worth, as far as its map has words."""
        fields = self._fields.values()
        if not any(_beyond(f, {status}) or status in _said_of(f) for f in fields):
            return False
        (self._flagged.add if active else self._flagged.discard)(status)
        return True

    # --- requests -------------------------------------------------------------------------------

    def _answer(self, request: Request | BadRequest) -> Reply:
        if self._refuses is not None:
            return Refusal(request.function, self._refuses)
        match request:
            case BadRequest(_, function, code):
                return Refusal(function, code)
            case ReadRegisters(_, address, count, function):
                return self._read(function, address, count)
            case ReadBits(_, address, count, function):
                return self._read_bits(function, address, count)
            case WriteCoil(_, address, on):
                return self._write_coil(address, on=on)
            case WriteRegister(_, address, value):
                return self._write(request.function, address, (value,))
            case WriteRegisters(_, address, values):
                return self._write(request.function, address, values)

    def _read(self, function: int, address: int, count: int) -> Reply:
        shown: dict[str, tuple[int, ...]] = {}
        words = []
        for register in range(address, address + count):
            found = self._cells.get((function, register))
            if found is None:
                return Refusal(function, ExcCodes.ILLEGAL_ADDRESS)
            word = 0
            for name, index in found:
                if name not in shown:
                    shown[name] = self._words(name)
                word |= shown[name][index]
            words.append(word)
        return Registers(b"".join(word.to_bytes(2, "big") for word in words))

    def _read_bits(self, function: int, address: int, count: int) -> Reply:
        packed = bytearray((count + 7) // 8)
        for index in range(count):
            found = self._cells.get((function, address + index))
            if found is None:
                return Refusal(function, ExcCodes.ILLEGAL_ADDRESS)
            packed[index // 8] |= (self._words(found[0][0])[0] & 1) << index % 8
        return Bits(bytes(packed))

    def _write_coil(self, address: int, *, on: bool) -> Reply:
        for name, _ in self._cells.get((READ_COILS, address), ()):
            if self._fields[name].access != "r":
                self._put(name, float(on))
                return Written()
        return Refusal(WRITE_COIL, ExcCodes.ILLEGAL_ADDRESS)

    def _words(self, name: str) -> tuple[int, ...]:
        field, play = self._fields[name], self._plays[name]
        if self._broken and play.quantity is not None and field.type != "bit":
            return self._broken_words(field)
        beyond = _beyond(field, self._flagged)
        value = self._truth(name) if self._frozen is None else self._frozen[name]
        value = self._raised(name, value) if beyond is None else beyond
        if play.noise and self._frozen is None:
            value += self._random.gauss(0.0, play.noise)
        try:
            return encode(field, value, self._map.word_order)
        except ValueError:
            return (_INT_BREAK,) if field.width == 1 else (_INT_BREAK, 0xFFFF)

    def _broken_words(self, field: RegisterField) -> tuple[int, ...]:
        if field.type == "float32":
            return encode(field, math.nan, self._map.word_order)
        if field.sensor_fail:
            mark = int(field.sensor_fail[0])
            if field.width == 1:
                return (mark % 2**16,)
            return uint32_words(mark % 2**32, field.word_order or self._map.word_order)
        return (_INT_BREAK,) * field.width

    def _raised(self, name: str, value: float) -> float:
        """Return what a field reads by which others are judged."""
        for field in self._fields.values():
            for flag in field.status_from:
                if flag.field == name and flag.status in self._flagged:
                    value = flag.raised(value)
        return value

    def _truth(self, name: str) -> float:
        quantity = self._plays[name].quantity
        return self._held[name] if quantity is None else self._plant.get(quantity)

    def _write(self, function: int, address: int, words: tuple[int, ...]) -> Reply:
        """Write all fields or none: what is not there is found before anything changes."""
        puts: list[Callable[[], None]] = []
        at = 0
        while at < len(words):
            name = self._writable(address + at)
            if name is None:
                return Refusal(function, ExcCodes.ILLEGAL_ADDRESS)
            width = self._fields[name].width
            part = words[at : at + width]
            if len(part) < width:
                return Refusal(function, ExcCodes.ILLEGAL_VALUE)
            value = self._value_of(name, part)
            if value is None:
                return Refusal(function, ExcCodes.ILLEGAL_VALUE)
            puts.append(lambda name=name, value=value: self._put(name, value))  # type: ignore[misc]
            at += width
        for put in puts:
            put()
        return Written()

    def _writable(self, address: int) -> str | None:
        """Return the field that may be written and begins at this register."""
        for name, index in self._cells.get((READ_HOLDING, address), ()):
            if index == 0 and self._fields[name].access != "r":
                return name
        return None

    def _value_of(self, name: str, words: tuple[int, ...]) -> float | None:
        field = self._fields[name]
        data = b"".join(word.to_bytes(2, "big") for word in words)
        value = decode(field, data, 0, self._map.word_order)
        low = -math.inf if field.min is None else field.min - field.rounding
        high = math.inf if field.max is None else field.max + field.rounding
        return value if math.isfinite(value) and low <= value <= high else None

    def _put(self, name: str, value: float) -> None:
        quantity = self._plays[name].quantity
        if quantity is None:
            self._held[name] = value
        else:
            self._plant.set(quantity, value)


def _said_of(field: RegisterField) -> set[Status]:
    return {flag.status for flag in field.status_from}


def _beyond(field: RegisterField, statuses: Set[Status]) -> float | None:
    """Return a number past what can be measured, if the map says where that ends."""
    bound, sign = None, 0
    if Status.OVERLOAD in statuses and field.valid_max is not None:
        bound, sign = field.valid_max, 1
    elif Status.UNDERRANGE in statuses and field.valid_min is not None:
        bound, sign = field.valid_min, -1
    if bound is None:
        return None
    step = abs(field.scale) if field.type != "float32" else max(abs(bound), 1.0) * 1e-3
    return bound + sign * step
