"""How the engine gets at any Modbus device."""

from collections.abc import Mapping

from adapters.modbus.codec import Query, ReadRegisters
from adapters.modbus.device import ModbusAdapter, outside, writing
from adapters.modbus.fields import RegisterField, encode
from adapters.modbus.options import ModbusOptions, unit_of
from adapters.modbus.safe_write import read_back_of, safe_write_of
from capa.devices.adapter import DeviceAdapter, FieldInfo, FieldWrite
from capa.devices.link import Link
from capa.devices.safe_plan import ReadBack, SafeWrite
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice

__all__ = ["ModbusFamily"]


class ModbusFamily:
    """A register map in the profile; the entry point ``modbus``."""

    name = "modbus"
    title = "any Modbus RTU device, by a register map"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what the map says that the device can tell or be told."""
        unit_of(spec)
        options = ModbusOptions.model_validate(spec.options)
        return {name: field.info(name) for name, field in options.fields.items()}

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one device."""
        return ModbusAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one device; imported only where it is wanted."""
        from adapters.modbus.twin import ModbusTwin

        return ModbusTwin(spec, plant)

    def safe_write(self, spec: DeviceSpec, write: FieldWrite) -> SafeWrite:
        """Return the bytes that write one field of the map and read it back; no I/O.

        Raises:
            ValueError: the map does not let this be written; the message says what it says.
        """
        options, unit = ModbusOptions.model_validate(spec.options), unit_of(spec)
        field = options.fields.get(write.field)
        if field is None or field.access == "r":
            raise ValueError(f"{spec.name}.{write.field} cannot be written")
        if why := outside(field, write.value):
            raise ValueError(f"{spec.name}.{write.field}: {why}")
        query = writing(unit, field, encode(field, write.value, options.word_order))
        read = _read_back(unit, field, options) if field.reads_back else None
        return safe_write_of(query, read, gap_s=options.gap_s)


def _read_back(unit: int, field: RegisterField, options: ModbusOptions) -> ReadBack:
    if field.type == "bit":
        raise ValueError("a single bit can't be written")
    return read_back_of(
        Query(ReadRegisters(unit, field.address, field.width, field.function)),
        field.type,
        field.word_order or options.word_order,
        gain=field.scale,
        offset=field.offset,
    )
