"""How the engine gets at this family."""

from collections.abc import Mapping, Sequence
from functools import partial

from adapters.modbus.codec import Query, ReadRegisters, Registers
from adapters.modbus.describe import describe_frame
from adapters.modbus.safe_write import read_back_of, safe_write_of
from adapters.watlow.adapter import WatlowAdapter, fields_of
from adapters.watlow.codec import (
    HIGHEST_SETPOINT,
    LOWEST_SETPOINT,
    PROCESS_VALUE,
    Conversation,
    InputError,
    enum_at,
    from_degC,
    scale_to_degC,
)
from adapters.watlow.extras import extras_of
from adapters.watlow.options import WatlowOptions, unit_of
from adapters.watlow.preflight import settings_of
from capa.devices.adapter import DeviceAdapter, FieldInfo, FieldWrite
from capa.devices.link import Link
from capa.devices.poll_cost import ExchangeCost
from capa.devices.preflight import SettingInfo
from capa.devices.probing import LineSettings, Probe
from capa.devices.safe_plan import SafeWrite
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice
from capa.errors import FrameError

__all__ = ["WatlowFamily"]

_SPEEDS = (9600, 19200, 38400)
_LAST_PROBED = 16
_OVERHEAD = {"rtu": 3, "tcp": 7}


class WatlowFamily:
    """Watlow EZ-ZONE PM; the entry point ``watlow``."""

    name = "watlow"
    title = "Watlow EZ-ZONE PM (Modbus RTU and TCP)"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what such a controller can tell or be told."""
        unit_of(spec)
        return fields_of(WatlowOptions.model_validate(spec.options))

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one controller."""
        return WatlowAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one controller; imported only where it is wanted."""
        from adapters.watlow.twin import WatlowTwin

        return WatlowTwin(spec, plant)

    def settings(self, spec: DeviceSpec) -> Mapping[str, SettingInfo]:
        """Return what can be checked of such a controller."""
        if WatlowOptions.model_validate(spec.options).map == "custom":
            return {}
        return settings_of(spec)

    def poll_cost(self, spec: DeviceSpec) -> Sequence[ExchangeCost]:
        """Return the process value at every poll, and what is read now and then.

        How long a PM thinks over RTU is not known; nothing is reckoned for it.
        """
        options = WatlowOptions.model_validate(spec.options)
        talk = Conversation(unit_of(spec), options.word_order, places=options.places)
        share = 1.0 / max(1, int(spec.poll_hz / options.slow_hz))
        costs = [(talk.read_input, 1.0), (talk.read_power, share), (talk.read_setpoint, share)]
        extras = extras_of(
            options.also_read, unit_of(spec), options.word_order, options.unit, port=options.port
        )
        if extras:  # one at a time; the longest of them, to be on the safe side
            longest = max((extra.query for extra in extras), key=lambda query: query.size)
            costs.append((longest, share))
        return [_cost(query, options, per_poll) for query, per_poll in costs]

    def describe(self, spec: DeviceSpec, data: bytes, *, sent: bool) -> str:
        """Say what a frame means, for ``capa devices talk``."""
        framing = WatlowOptions.model_validate(spec.options).framing
        return describe_frame(data, framing, sent=sent)

    def probes(self) -> Sequence[Probe]:
        """Return a read of process value and input error, at each speed, of the first addresses."""
        return [
            Probe(
                line=LineSettings(baud),
                address=unit,
                request=Query(ReadRegisters(unit, PROCESS_VALUE, 4)).frame,
                asks=f"registers 360 to 363 of unit {unit}",
                recognise=partial(_recognised, unit),
            )
            for baud in _SPEEDS
            for unit in range(1, _LAST_PROBED + 1)
        ]

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
        talk = Conversation(unit_of(spec), options.word_order, places=options.places)
        gain, offset = scale_to_degC(options.unit)
        read = read_back_of(
            talk.read_setpoint,
            "float32",
            options.word_order,
            gain=gain,
            offset=offset,
            framing=options.framing,
        )
        query = talk.write_setpoint(value)
        return safe_write_of(query, read, gap_s=options.silence_s, framing=options.framing)


def _cost(query: Query, options: WatlowOptions, per_poll: float) -> ExchangeCost:
    overhead = _OVERHEAD[options.framing]
    return ExchangeCost(
        request=len(query.pdu) + overhead,
        reply=query.size + overhead,
        gap_s=options.silence_s,
        per_poll=per_poll,
    )


def _recognised(unit: int, seen: bytes) -> str | None:
    try:
        reply = Query(ReadRegisters(unit, PROCESS_VALUE, 4)).collector().feed(seen)
    except FrameError:
        return None
    if not isinstance(reply, Registers):
        return None
    known = enum_at(reply.data, 2) in {error.value for error in InputError}
    return "EZ-ZONE PM" if known else None
