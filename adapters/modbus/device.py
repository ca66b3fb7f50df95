"""Any Modbus device, read and written as its register map says."""

import math
from collections.abc import Sequence

from adapters.modbus.blocks import Block, block_of, blocks_of, reading
from adapters.modbus.codec import (
    Bits,
    Query,
    Refusal,
    Registers,
    Reply,
    Speaker,
    WriteCoil,
    WriteRegister,
    WriteRegisters,
)
from adapters.modbus.fields import RegisterField, decode, encode, status_of
from adapters.modbus.flags import judged
from adapters.modbus.options import ModbusOptions, unit_of
from adapters.modbus.preflight import MapSettings
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.link import Answer, Link, Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError

__all__ = ["ModbusAdapter", "outside", "writing"]

_NOT_NOW = frozenset({5, 6})
"""Exceptions of a device that is at something long (acknowledge) or busy: it says to come again."""


class ModbusAdapter(BaseAdapter):
    """One device. Every poll reads the whole map, neighbours together."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        options = ModbusOptions.model_validate(spec.options)
        super().__init__(
            spec,
            link,
            fields={name: field.info(name) for name, field in options.used.items()},
            capabilities=frozenset(
                field.command.removeprefix("set_")
                for field in options.used.values()
                if field.command is not None
            ),
        )
        self._map = options.used
        self._rules = {name: field.status_from for name, field in self._map.items()}
        self._order = options.word_order
        self._gap_s = options.silence_s
        self._unit = unit_of(spec, options.framing)
        self._speaker = Speaker(options.framing)
        self.settings = MapSettings(spec.name, self._map, self.poll, self.write)
        blocks = blocks_of(self._map, bridge=options.bridge_registers, max_read=options.max_read)
        self._blocks = [(block, reading(self._unit, block)) for block in blocks]

    async def open(self) -> Identity:
        """Read the map once: registers that are not there show up here. Read-only.

        Raises:
            DeviceError: it refuses a block; the message names the fields in it.
        """
        for block, query in self._blocks:
            await self._read(block, query, Priority.POLL)
        return Identity(self.family, model=f"Modbus unit {self._unit}")

    async def poll(self) -> Sequence[Reading]:
        """Read every field, one request for each block of neighbouring registers."""
        readings: dict[str, Reading] = {}
        for block, query in self._blocks:
            answer = await self._ask(query, Priority.POLL)
            if _says_not_now(answer.value):
                self._count("busy")
                readings |= _unread(block, answer)
                continue
            data, at_s = self._data(block, query, answer)
            native = f"{query.request.function:02x}:{block.address}={data.hex()}"
            for name in block.fields:
                readings[name] = self._reading(name, block, data, at_s, native)
        return judged(readings, self._rules)

    def _reading(self, name: str, block: Block, data: bytes, at_s: float, native: str) -> Reading:
        field = self._map[name]
        value = self._decoded(field, block.address, data)
        status = status_of(field, value)
        if status is not Status.OK:
            value = math.nan
        return Reading(name, value, at_s, status, native)

    def _decoded(self, field: RegisterField, start: int, data: bytes) -> float:
        return decode(field, data, field.address - start, self._order)

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Write one field, both registers of a wide one in one frame, and read it back."""
        field = self._map.get(write.field)
        if field is None or field.access == "r":
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        if why := outside(field, write.value):
            return WriteAck(False, f"{self.name}.{write.field}: {why}")
        try:
            words = encode(field, write.value, self._order)
        except ValueError as error:
            return WriteAck(False, f"{self.name}.{write.field}: {error}")
        reply = (await self._ask(writing(self._unit, field, words), priority)).value
        if isinstance(reply, Refusal):
            refused = f"{self.name} refused {write.field} = {write.value:g}: {reply}"
            return WriteAck(False, refused)
        if not field.reads_back:
            return WriteAck(True)
        return WriteAck(True, readback=await self._read_back(write.field, field, priority))

    async def _read_back(self, name: str, field: RegisterField, priority: Priority) -> float:
        block = block_of(name, field)
        data, _ = await self._read(block, reading(self._unit, block), priority)
        return self._decoded(field, field.address, data)

    async def _read(self, block: Block, query: Query, priority: Priority) -> tuple[bytes, float]:
        return self._data(block, query, await self._ask(query, priority))

    def _data(self, block: Block, query: Query, answer: Answer[Reply]) -> tuple[bytes, float]:
        if isinstance(answer.value, Registers | Bits):
            return answer.value.data, answer.at_s
        is_busy = _says_not_now(answer.value)
        check = "try again" if is_busy else "compare the map in the profile with its manual"
        raise DeviceError(
            f"{self.name}: reading {', '.join(block.fields)} ({query.request}): {answer.value}; "
            + check
        )

    async def _ask(self, query: Query, priority: Priority) -> Answer[Reply]:
        frame, feed = self._speaker.begin(query)
        return await self._exchange(frame, feed, priority=priority, gap_s=self._gap_s)


def _says_not_now(reply: Reply) -> bool:
    return isinstance(reply, Refusal) and reply.code in _NOT_NOW


def _unread(block: Block, answer: Answer[Reply]) -> dict[str, Reading]:
    """Return what a busy device says of a block: there are values, and not now."""
    native = str(answer.value)
    return {
        name: Reading(name, math.nan, answer.at_s, Status.STALE, native) for name in block.fields
    }


def writing(unit: int, field: RegisterField, words: tuple[int, ...]) -> Query:
    """Return the query that writes a field's registers, all of them in one frame."""
    if field.space == "coil":
        return Query(WriteCoil(unit, field.address, words[0] != 0))
    if len(words) == 1:
        return Query(WriteRegister(unit, field.address, words[0]))
    return Query(WriteRegisters(unit, field.address, words))


def outside(field: RegisterField, value: float) -> str:
    """Say which limit of the map a value breaks; empty if none."""
    if not math.isfinite(value):
        return f"{value} is not a finite number"
    if field.min is not None and value < field.min:
        return f"{value:g} {field.unit} is below min = {field.min:g} of the register map"
    if field.max is not None and value > field.max:
        return f"{value:g} {field.unit} is above max = {field.max:g} of the register map"
    return ""
