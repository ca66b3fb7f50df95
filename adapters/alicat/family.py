"""How the engine gets at this family."""

from collections.abc import Mapping

from adapters.alicat.adapter import AlicatAdapter, fields_of
from adapters.alicat.options import AlicatOptions, unit_of
from capa.devices.adapter import DeviceAdapter, FieldInfo
from capa.devices.link import Link
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice

__all__ = ["AlicatFamily"]


class AlicatFamily:
    """Alicat flow controllers and meters, ASCII dialect; the entry point ``alicat``."""

    name = "alicat"
    title = "Alicat mass-flow controller (ASCII)"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what such a device can tell or be told."""
        unit_of(spec)
        return fields_of(AlicatOptions.model_validate(spec.options))

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one device."""
        return AlicatAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one device; imported only where it is wanted."""
        from adapters.alicat.twin import AlicatTwin

        return AlicatTwin(spec, plant)
