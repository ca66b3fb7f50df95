"""How the engine gets at this family."""

import re
from collections.abc import Mapping, Sequence
from functools import partial

from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.codec import (
    EOL,
    NUMBER,
    FrameReader,
    encode_poll,
    encode_setpoint,
    setpoint_report_pattern,
)
from adapters.alicat.fields import fields_of
from adapters.alicat.options import AlicatOptions, unit_of
from adapters.alicat.preflight import settings_of
from capa.devices.adapter import DeviceAdapter, FieldInfo, FieldWrite
from capa.devices.link import Link
from capa.devices.neighbours import LineTrouble
from capa.devices.poll_cost import ExchangeCost
from capa.devices.preflight import SettingInfo
from capa.devices.probing import LineSettings, Probe
from capa.devices.safe_plan import GroupNumber, MatchingLine, ReadBack, SafeWrite
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice

__all__ = ["AlicatFamily"]

_FRAME_FIXED, _COLUMN = 9, 8
_REPLY_S = 0.0007
_SPEEDS = (19200, 38400, 115200, 57600, 9600)
_SPEAK_MODBUS = frozenset({"modbus", "watlow"})
"""Families whose frames have no end that an ASCII device knows."""
_UNITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
        from adapters.alicat.stream import make_twin

        return make_twin(spec, plant)

    def poll_cost(self, spec: DeviceSpec) -> Sequence[ExchangeCost]:
        """Return what a data frame costs; 0.7 ms beside the wire were measured on a 10v20."""
        options = AlicatOptions.model_validate(spec.options)
        reply = _FRAME_FIXED + _COLUMN * len(options.columns)
        return [ExchangeCost(2 + len(options.lead), reply, _REPLY_S)]

    def address_of(self, spec: DeviceSpec) -> str:
        """Return the unit letter; commands are heard in either case."""
        return unit_of(spec)

    def beside(self, spec: DeviceSpec, others: Sequence[DeviceSpec]) -> Sequence[LineTrouble]:
        """Refuse ``stop_stream`` beside anybody; warn of Modbus frames without a CR between."""
        options = AlicatOptions.model_validate(spec.options)
        troubles = []
        if options.stop_stream is not None:
            troubles.append(
                LineTrouble(
                    f'"{spec.name}" would give its unit letter to whoever streams on the line, '
                    f"and {_named(others)} on it might take it",
                    f'leave it out and stop the stream by hand, or put "{spec.name}" on a line of '
                    "its own",
                    "stop_stream",
                )
            )
        modbus = [one for one in others if one.adapter in _SPEAK_MODBUS]
        if modbus and not options.begin_with_cr:
            troubles.append(
                LineTrouble(
                    f'"{spec.name}" would take the Modbus frames of {_named(modbus)} for the '
                    "beginning of its own next line, and not answer",
                    "say begin_with_cr = true",
                    "begin_with_cr",
                    blocking=False,
                )
            )
        return troubles

    def probes(self) -> Sequence[Probe]:
        """Return a poll of each unit letter, at each speed, the factory's first; no ``AL...``."""
        return [
            Probe(
                line=LineSettings(baud),
                address=unit,
                request=encode_poll(unit),
                asks=f"a data frame of unit {unit}",
                recognise=partial(_recognised, unit),
            )
            for baud in _SPEEDS
            for unit in _UNITS
        ]

    def settings(self, spec: DeviceSpec) -> Mapping[str, SettingInfo]:
        """Return what can be checked of such a device."""
        return settings_of(spec)

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
            request=options.lead
            + encode_setpoint(
                unit,
                write.value,
                command=options.setpoint_command,
                decimals=options.setpoint_decimals,
                prefix=options.write_prefix,
            ),
            accepted=MatchingLine(setpoint_report_pattern(unit), EOL) if long else frame,
            read_back=ReadBack(options.lead + encode_poll(unit), frame, GroupNumber(column)),
        )


def _named(devices: Sequence[DeviceSpec]) -> str:
    return " and ".join(f'"{device.name}"' for device in devices)


def _recognised(unit: str, seen: bytes) -> str | None:
    """Tell a data frame by its form, whatever its columns."""
    line, end, _ = seen.partition(EOL)
    if not end:
        return None
    match = re.fullmatch(
        rb"%b(?: +%b){2,9} +([!-~]{1,16})(?: [A-Z0-9]{3})* *" % (unit.encode("ascii"), NUMBER), line
    )
    return None if match is None else f"Alicat unit {unit}, gas {match[1].decode('ascii')}"
