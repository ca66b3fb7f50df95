"""The fields of a register map as settings: what a map or a profile expects them to read."""

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from adapters.modbus.fields import RegisterField
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.preflight import OutputUse, SettingFound, SettingInfo, SettingReport
from capa.devices.spec import SettingValue
from capa.errors import DeviceError

__all__ = ["MapSettings", "settings_of"]


class Write(Protocol):
    """The driver's write of a field."""

    def __call__(self, write: FieldWrite, *, priority: Priority) -> Awaitable[WriteAck]:
        """Write a field and read it back."""
        ...


def settings_of(fields: Mapping[str, RegisterField]) -> dict[str, SettingInfo]:
    """Return every field that is no output; those with ``access = "setting"`` may be enforced."""
    return {
        name: _info(name, field)
        for name, field in fields.items()
        if field.access != "rw" or field.expect is not None
    }


def _info(name: str, field: RegisterField) -> SettingInfo:
    return SettingInfo(
        name,
        "number",
        unit="" if field.unit == "1" else field.unit,
        tolerance=field.rounding if field.resolution is None else 0.5 * field.resolution,
        writable=field.access == "setting",
        assumed=field.expect,
        reported=field.access == "setting",
        description=field.description,
    )


class MapSettings:
    """The settings of one device.

    Args:
        device: its name.
        fields: its map.
        poll: reads the whole map; the priority is a poll's.
        write: writes one field.
    """

    def __init__(
        self,
        device: str,
        fields: Mapping[str, RegisterField],
        poll: Callable[[], Awaitable[Sequence[Reading]]],
        write: Write,
    ) -> None:
        self._device = device
        self._poll = poll
        self._write = write
        self.known: Mapping[str, SettingInfo] = settings_of(fields)

    async def read(self, names: Collection[str], *, priority: Priority) -> dict[str, SettingFound]:
        """Read the map, as a poll does."""
        del priority  # nobody waits for it
        return {
            reading.field: _found(reading)
            for reading in await self._poll()
            if reading.field in names
        }

    async def write(self, name: str, value: SettingValue, *, priority: Priority) -> SettingFound:
        """Write a field that is a setting, and read it back.

        Raises:
            DeviceError: it is none, or the device refused.
        """
        info = self.known.get(name)
        if info is None or not info.writable:
            raise DeviceError(f"{self._device}: {name} is not written")
        ack = await self._write(FieldWrite(name, float(value)), priority=priority)
        if not ack.accepted:
            raise DeviceError(ack.detail)
        if ack.readback is None or not math.isfinite(ack.readback):
            return SettingFound(None, "it can't be read back")
        return SettingFound(ack.readback)

    def hazards(
        self, found: Mapping[str, SettingFound], uses: Sequence[OutputUse]
    ) -> Sequence[SettingReport]:
        """Know of none: a map says where numbers are, not what they do."""
        del found, uses
        return ()


def _found(reading: Reading) -> SettingFound:
    if math.isfinite(reading.value):
        return SettingFound(reading.value)
    return SettingFound(None, f"reads {reading.status}")
