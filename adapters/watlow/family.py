"""How the engine gets at this family."""

from collections.abc import Mapping

from adapters.watlow.adapter import FIELDS, WatlowAdapter
from adapters.watlow.options import WatlowOptions, unit_of
from capa.devices.adapter import DeviceAdapter, FieldInfo
from capa.devices.link import Link
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice

__all__ = ["WatlowFamily"]


class WatlowFamily:
    """Watlow EZ-ZONE PM; the entry point ``watlow``."""

    name = "watlow"
    title = "Watlow EZ-ZONE PM (Modbus RTU)"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what such a controller can tell or be told."""
        unit_of(spec)
        WatlowOptions.model_validate(spec.options)
        return FIELDS

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one controller."""
        return WatlowAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one controller; imported only where it is wanted."""
        from adapters.watlow.twin import WatlowTwin

        return WatlowTwin(spec, plant)
