"""How the engine gets at this family."""

from collections.abc import Mapping

from adapters.sartorius.adapter import FIELDS, SartoriusAdapter
from adapters.sartorius.options import SartoriusOptions
from capa.devices.adapter import DeviceAdapter, FieldInfo
from capa.devices.link import Link
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice

__all__ = ["SartoriusFamily"]


class SartoriusFamily:
    """Sartorius balances that speak SBI; the entry point ``sartorius``."""

    name = "sartorius"
    title = "Sartorius balance (SBI)"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what a balance can tell."""
        if spec.address is not None:
            raise ValueError(
                f"address = {spec.address!r}: an SBI balance has none; it is alone on its line"
            )
        SartoriusOptions.model_validate(spec.options)
        return FIELDS

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one balance."""
        return SartoriusAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one balance; imported only where it is wanted."""
        from adapters.sartorius.twin import SartoriusTwin

        return SartoriusTwin(spec, plant)
