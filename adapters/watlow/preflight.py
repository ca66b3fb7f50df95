"""Reads and writes what an EZ-ZONE PM is set to: the driver's way to ``settings.py``."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from adapters.modbus.codec import (
    Query,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    WriteRegisters,
)
from adapters.modbus.words import WordOrder, float_at, float_words
from adapters.watlow.codec import Units, enum_at, enum_query, is_second
from adapters.watlow.hazards import Floats, Found, hazards_of
from adapters.watlow.options import WatlowOptions, unit_of
from adapters.watlow.settings import Row, blocks_of, rows_of
from capa.devices.link import Answer, Priority
from capa.devices.preflight import OutputUse, SettingFound, SettingInfo, SettingReport, say
from capa.devices.spec import DeviceSpec, SettingValue
from capa.errors import DeviceError

__all__ = ["WatlowSettings", "settings_of"]

_ORDERS: Mapping[WordOrder, tuple[WordOrder, WordOrder]] = {
    "low_high": ("low_high", "high_low"),
    "high_low": ("high_low", "low_high"),
}
"""The order in force, and the other one."""

_TRIES = 3
"""How often a setting is read by itself, until two replies in a row agree."""

Ask = Callable[[Query, Priority], Awaitable[Answer[Reply]]]


def settings_of(spec: DeviceSpec) -> dict[str, SettingInfo]:
    """Return what can be checked of a controller; needs no link."""
    rows = rows_of(WatlowOptions.model_validate(spec.options))
    return {name: row.info for name, row in rows.items()}


class WatlowSettings:
    """The settings of one controller.

    Args:
        spec: the device.
        ask: the driver's way to its link.
    """

    def __init__(self, spec: DeviceSpec, ask: Ask) -> None:
        options = WatlowOptions.model_validate(spec.options)
        self._name = spec.name
        self._address = unit_of(spec)
        self._unit: Units = options.unit
        self._order: WordOrder = options.word_order
        self._rows = rows_of(options)
        self._blocks = blocks_of(options)
        self._ask = ask
        self._floats: dict[str, Floats] = {}
        self._second: dict[str, bool] = {}
        self.known: Mapping[str, SettingInfo] = {n: row.info for n, row in self._rows.items()}

    async def read(self, names: Collection[str], *, priority: Priority) -> dict[str, SettingFound]:
        """Read the blocks that hold these settings; where one is refused, setting by setting."""
        found: dict[str, SettingFound] = {}
        for start, count in self._blocks:
            rows = [
                row
                for name, row in self._rows.items()
                if name in names and start <= row.address < start + count
            ]
            if rows:
                found |= await self._read_block(start, count, rows, priority)
        return found

    async def _read_block(
        self, start: int, count: int, rows: Sequence[Row], priority: Priority
    ) -> dict[str, SettingFound]:
        reply = await self._registers(start, count, priority)
        found = {}
        for row in rows:
            at = row.address - start
            if isinstance(reply, Registers) and not _is_cut_off(row, reply, at):
                found[row.info.name] = self._found(row, reply, at)
            else:
                found[row.info.name] = await self._read_alone(row, priority)
        return found

    async def _read_alone(self, row: Row, priority: Priority) -> SettingFound:
        """Read one setting until two replies in a row agree.

        Its count is that of others, too: the late reply to another question would pass for it.
        """
        before = b""
        for _ in range(_TRIES):
            reply = await self._registers(row.address, 2, priority)
            if not isinstance(reply, Registers):
                return SettingFound(None, f"register {row.address}: {reply}")
            if reply.data == before:
                return self._found(row, reply, 0)
            before = reply.data
        return SettingFound(None, f"register {row.address}: {_TRIES} replies, no two alike")

    async def _registers(self, start: int, count: int, priority: Priority) -> Reply:
        query = Query(ReadRegisters(self._address, start, count))
        return (await self._ask(query, priority)).value

    def _found(self, row: Row, reply: Registers, at: int) -> SettingFound:
        if row.kind == "enum":
            code = _code(reply, at)
            if code != 0:  # else it stands in neither of the two
                self._second[row.info.name] = _is_second(reply, at)
            value = row.value(code, self._unit)
            return SettingFound(value, "" if value is not None else f"code {code}, unknown")
        number, swapped = (float_at(reply.data, at, order) for order in _ORDERS[self._order])
        self._floats[row.info.name] = (number, swapped)
        return SettingFound(row.value(number, self._unit))

    async def write(self, name: str, value: SettingValue, *, priority: Priority) -> SettingFound:
        """Write one setting and read it back.

        Raises:
            DeviceError: it may not be written, the controller refused, or it is an enumeration
                that can't be read: which of its two registers it stands in is not known.
        """
        row = self._rows.get(name)
        if row is None or not row.info.writable:
            raise DeviceError(f"{self._name}: {name} is not written")
        if row.kind == "enum" and name not in self._second:
            await self._find_place(row, priority)
        reply = (await self._ask(self._writing(row, value), priority)).value
        if isinstance(reply, Refusal):
            raise DeviceError(f"{self._name} refused {name} = {say(value, row.info.unit)}: {reply}")
        return (await self.read({name}, priority=priority))[name]

    async def _find_place(self, row: Row, priority: Priority) -> None:
        """Read an enumeration that has not been read: it is written to where it stands."""
        name = row.info.name
        found = (await self.read({name}, priority=priority))[name]
        if name not in self._second:
            raise DeviceError(f"{self._name}: {name} is not written unread: {found.detail}")

    def _writing(self, row: Row, value: SettingValue) -> Query:
        number = row.number(value, self._unit)
        if row.kind == "enum":
            second = self._second[row.info.name]
            return enum_query(self._address, row.address, int(number), second=second)
        return Query(WriteRegisters(self._address, row.address, float_words(number, self._order)))

    def hazards(self, found: Found, uses: Sequence[OutputUse]) -> Sequence[SettingReport]:
        """Judge limits against limits, what happens without a sensor, units, wear."""
        return hazards_of(self._name, self._unit, self._order, found, uses, self._floats)


def _code(reply: Registers, at: int) -> int:
    """Return an enumeration; the block may end with its first register."""
    return enum_at(reply.data, at) if _has_both(reply, at) else reply.words()[at]


def _is_second(reply: Registers, at: int) -> bool:
    return _has_both(reply, at) and is_second(reply.data, at)


def _is_cut_off(row: Row, reply: Registers, at: int) -> bool:
    """Whether the block ends with the first half of an enumeration that stands in the second."""
    return row.kind == "enum" and not _has_both(reply, at) and reply.words()[at] == 0


def _has_both(reply: Registers, at: int) -> bool:
    return 2 * at + 4 <= len(reply.data)
