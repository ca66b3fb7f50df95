"""What the entry point names: how the engine gets at driver, twin and fields."""

from collections.abc import Mapping

from capa.devices.adapter import DeviceAdapter, FieldInfo
from capa.devices.link import Link
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice
from dosing_pump.adapter import FIELDS, DosingPump
from dosing_pump.options import PumpOptions, number_of

__all__ = ["DosingPumpFamily"]


class DosingPumpFamily:
    """Dosing pumps; ``adapter = "dosing_pump"`` in a profile."""

    name = "dosing_pump"
    title = "Dosing pump (an example)"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what a pump can tell or be told; a mistake in the profile shows here."""
        number_of(spec)
        PumpOptions.model_validate(spec.options)
        return FIELDS

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one pump."""
        return DosingPump(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one pump; imported only where it is wanted."""
        from dosing_pump.twin import DosingPumpTwin

        return DosingPumpTwin(spec, plant)
