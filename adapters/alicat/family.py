"""How the engine gets at this family."""

from collections.abc import Mapping

from adapters.alicat.adapter import AlicatAdapter, fields_of
from adapters.alicat.codec import (
    EOL,
    FrameReader,
    encode_poll,
    encode_setpoint,
    setpoint_report_pattern,
)
from adapters.alicat.options import AlicatOptions, unit_of
from capa.devices.adapter import DeviceAdapter, FieldInfo, FieldWrite
from capa.devices.link import Link
from capa.devices.safe_plan import GroupNumber, MatchingLine, ReadBack, SafeWrite
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

    def safe_write(self, spec: DeviceSpec, write: FieldWrite) -> SafeWrite:
        """Return the bytes that set the flow and ask for a data frame; no I/O.

        Raises:
            ValueError: not the setpoint, or beyond full scale.
        """
        options, unit = AlicatOptions.model_validate(spec.options), unit_of(spec)
        if write.field != "setpoint" or "setpoint" not in options.columns:
            raise ValueError(f"{spec.name}.{write.field} cannot be written")
        if not 0.0 <= write.value <= options.full_scale:
            raise ValueError(
                f"{spec.name}: {write.value:g} {options.flow_unit} is not within 0 and "
                f"full_scale = {options.full_scale:g}"
            )
        frame = MatchingLine(FrameReader(unit, options.columns).pattern, EOL)
        long = options.setpoint_command == "LS"
        column = options.columns.index("setpoint") + 1
        return SafeWrite(
            request=encode_setpoint(
                unit,
                write.value,
                command=options.setpoint_command,
                decimals=options.setpoint_decimals,
            ),
            accepted=MatchingLine(setpoint_report_pattern(unit), EOL) if long else frame,
            read_back=ReadBack(encode_poll(unit), frame, GroupNumber(column)),
        )
