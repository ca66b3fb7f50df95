"""How the engine gets at this family."""

from collections.abc import Mapping

from adapters.modbus.safe_write import read_back_of, safe_write_of
from adapters.watlow.adapter import FIELDS, WatlowAdapter
from adapters.watlow.codec import (
    HIGHEST_SETPOINT,
    LOWEST_SETPOINT,
    Conversation,
    from_degC,
    scale_to_degC,
)
from adapters.watlow.options import WatlowOptions, unit_of
from adapters.watlow.preflight import settings_of
from capa.devices.adapter import DeviceAdapter, FieldInfo, FieldWrite
from capa.devices.link import Link
from capa.devices.preflight import SettingInfo
from capa.devices.safe_plan import SafeWrite
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

    def settings(self, spec: DeviceSpec) -> Mapping[str, SettingInfo]:
        """Return what can be checked of such a controller."""
        return settings_of(spec)

    def safe_write(self, spec: DeviceSpec, write: FieldWrite) -> SafeWrite:
        """Return the bytes that set the setpoint and read register 2160 back; no I/O.

        Raises:
            ValueError: not the setpoint, or beyond what any controller takes.
        """
        options = WatlowOptions.model_validate(spec.options)
        value = from_degC(write.value, options.unit)
        if write.field != "setpoint":
            raise ValueError(f"{spec.name}.{write.field} cannot be written")
        if not LOWEST_SETPOINT <= value <= HIGHEST_SETPOINT:
            raise ValueError(f"{spec.name}: {write.value:g} degC is beyond any controller's")
        talk = Conversation(unit_of(spec), options.word_order, port=options.port)
        gain, offset = scale_to_degC(options.unit)
        read = read_back_of(
            talk.read_setpoint, "float32", options.word_order, gain=gain, offset=offset
        )
        return safe_write_of(talk.write_setpoint(value), read, gap_s=options.gap_s)
