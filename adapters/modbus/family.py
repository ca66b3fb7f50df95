"""How the engine gets at any Modbus device."""

from collections.abc import Mapping

from adapters.modbus.device import ModbusAdapter
from adapters.modbus.options import ModbusOptions, unit_of
from capa.devices.adapter import DeviceAdapter, FieldInfo
from capa.devices.link import Link
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
