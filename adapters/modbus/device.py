"""Any Modbus device, read and written as the register map in its profile says."""

import math
from collections.abc import Sequence

from adapters.modbus.codec import (
    Query,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    WriteRegister,
    WriteRegisters,
)
from adapters.modbus.fields import Block, RegisterField, blocks_of, decode, encode
from adapters.modbus.options import ModbusOptions, unit_of
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Identity, Reading, WriteAck
from capa.devices.base import BaseAdapter
from capa.devices.link import Answer, Link, Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError

__all__ = ["ModbusAdapter", "outside", "writing"]


class ModbusAdapter(BaseAdapter):
    """One device. Every poll reads the whole map, neighbours together."""

    def __init__(self, spec: DeviceSpec, link: Link) -> None:
        options = ModbusOptions.model_validate(spec.options)
        super().__init__(
            spec,
            link,
            fields={name: field.info(name) for name, field in options.fields.items()},
            capabilities=frozenset(
                field.command.removeprefix("set_")
                for field in options.fields.values()
                if field.command is not None
            ),
        )
        self._options = options
        self._unit = unit_of(spec)
        blocks = blocks_of(
            options.fields, bridge=options.bridge_registers, max_read=options.max_read
        )
        self._blocks = [(block, self._query(block)) for block in blocks]

    def _query(self, block: Block) -> Query:
        return Query(ReadRegisters(self._unit, block.address, block.count, block.function))

    async def open(self) -> Identity:
        """Read the map once: registers that are not there show up here. Read-only.

        Raises:
            DeviceError: it refuses a block; the message names the fields in it.
        """
        await self.poll()
        return Identity(self.family, model=f"Modbus unit {self._unit}")

    async def poll(self) -> Sequence[Reading]:
        """Read every field, one request for each block of neighbouring registers."""
        readings: list[Reading] = []
        for block, query in self._blocks:
            data, at_s = await self._read(block, query, Priority.POLL)
            readings += [self._reading(name, block, data, at_s) for name in block.fields]
        return readings

    def _reading(self, name: str, block: Block, data: bytes, at_s: float) -> Reading:
        value = self._decoded(self._options.fields[name], block.address, data)
        if math.isfinite(value):
            return Reading(name, value, at_s)
        return Reading(name, math.nan, at_s, Status.SENSOR_FAIL)

    def _decoded(self, field: RegisterField, start: int, data: bytes) -> float:
        return decode(field, data, field.address - start, self._options.word_order)

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Write one field, both registers of a wide one in one frame, and read it back."""
        field = self._options.fields.get(write.field)
        if field is None or field.access == "r":
            return WriteAck(False, f"{self.name}.{write.field} cannot be written")
        if why := outside(field, write.value):
            return WriteAck(False, f"{self.name}.{write.field}: {why}")
        try:
            words = encode(field, write.value, self._options.word_order)
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
        block = Block(
            function=field.function, address=field.address, count=field.width, fields=(name,)
        )
        data, _ = await self._read(block, self._query(block), priority)
        return self._decoded(field, field.address, data)

    async def _read(self, block: Block, query: Query, priority: Priority) -> tuple[bytes, float]:
        answer = await self._ask(query, priority)
        if isinstance(answer.value, Registers):
            return answer.value.data, answer.at_s
        raise DeviceError(
            f"{self.name}: reading {', '.join(block.fields)} ({query.request}): {answer.value}; "
            f"compare the map in the profile with the device's manual"
        )

    async def _ask(self, query: Query, priority: Priority) -> Answer[Reply]:
        return await self._link.exchange(
            query.frame, query.collector().feed, priority=priority, gap_s=self._options.gap_s
        )


def writing(unit: int, field: RegisterField, words: tuple[int, ...]) -> Query:
    """Return the query that writes a field's registers, all of them in one frame."""
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
