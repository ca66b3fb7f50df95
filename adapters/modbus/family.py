"""How the engine gets at any Modbus device."""

from collections.abc import Mapping, Sequence
from functools import partial

from adapters.modbus.blocks import block_of, blocks_of, reading
from adapters.modbus.codec import Query, ReadRegisters
from adapters.modbus.describe import describe_frame
from adapters.modbus.device import ModbusAdapter, outside, writing
from adapters.modbus.fields import RegisterField, encode
from adapters.modbus.options import ModbusOptions, unit_of
from adapters.modbus.preflight import settings_of
from adapters.modbus.safe_write import NumberType, read_back_of, safe_write_of
from capa.devices.adapter import DeviceAdapter, FieldInfo, FieldWrite
from capa.devices.link import Link
from capa.devices.poll_cost import ExchangeCost
from capa.devices.preflight import SettingInfo
from capa.devices.probing import LineSettings, Probe
from capa.devices.safe_plan import ReadBack, SafeWrite
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice
from capa.errors import FrameError

__all__ = ["ModbusFamily", "cost_of"]

_LINES = (
    LineSettings(9600),
    LineSettings(19200),
    LineSettings(19200, parity="E"),
    LineSettings(9600, parity="E"),
    LineSettings(38400),
)
_LAST_PROBED = 16
_RTU_OVERHEAD = 3
_TCP_OVERHEAD = 7
_SIGN_BIT = 0x8000


class ModbusFamily:
    """A register map in the profile; the entry point ``modbus``."""

    name = "modbus"
    title = "any Modbus RTU or TCP device, by a register map"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what the map says that the device can tell or be told."""
        options = ModbusOptions.model_validate(spec.options)
        unit_of(spec, options.framing)
        return {name: field.info(name) for name, field in options.used.items()}

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one device."""
        return ModbusAdapter(spec, link)

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one device; imported only where it is wanted."""
        from adapters.modbus.twin import ModbusTwin

        return ModbusTwin(spec, plant)

    def poll_cost(self, spec: DeviceSpec) -> Sequence[ExchangeCost]:
        """Return one exchange for each block of neighbouring registers."""
        options = ModbusOptions.model_validate(spec.options)
        unit = unit_of(spec, options.framing)
        blocks = blocks_of(options.used, bridge=options.bridge_registers, max_read=options.max_read)
        return [cost_of(reading(unit, block), options) for block in blocks]

    def settings(self, spec: DeviceSpec) -> Mapping[str, SettingInfo]:
        """Return what the map says of the device that is no output."""
        return settings_of(ModbusOptions.model_validate(spec.options).used)

    def describe(self, spec: DeviceSpec, data: bytes, *, sent: bool) -> str:
        """Say what a frame means, for ``capa devices talk``."""
        framing = ModbusOptions.model_validate(spec.options).framing
        return describe_frame(data, framing, sent=sent)

    def probes(self) -> Sequence[Probe]:
        """Return a read of holding register 0, at the usual settings, of the first addresses.

        Whatever is answered, a refusal included, says that a Modbus device is there; which one,
        nothing in the protocol tells.
        """
        return [
            Probe(
                line=line,
                address=unit,
                request=Query(ReadRegisters(unit, 0, 1)).frame,
                asks=f"holding register 0 of unit {unit}",
                recognise=partial(_recognised, unit),
            )
            for line in _LINES
            for unit in range(1, _LAST_PROBED + 1)
        ]

    def safe_write(self, spec: DeviceSpec, write: FieldWrite) -> SafeWrite:
        """Return the bytes that write one field of the map and read it back; no I/O.

        Raises:
            ValueError: the map does not let this be written; the message says what it says.
        """
        options = ModbusOptions.model_validate(spec.options)
        unit = unit_of(spec, options.framing)
        field = options.used.get(write.field)
        if field is None or field.access != "rw":
            raise ValueError(f"{spec.name}.{write.field} cannot be written")
        if why := outside(field, write.value):
            raise ValueError(f"{spec.name}.{write.field}: {why}")
        words = encode(field, write.value, options.word_order)
        query = writing(unit, field, words)
        read = _read_back(unit, field, words, options) if field.reads_back else None
        return safe_write_of(query, read, gap_s=options.silence_s, framing=options.framing)


def cost_of(query: Query, options: ModbusOptions) -> ExchangeCost:
    """Say what an exchange takes; how long a device thinks is not known here."""
    overhead = _RTU_OVERHEAD if options.framing == "rtu" else _TCP_OVERHEAD
    return ExchangeCost(
        request=len(query.pdu) + overhead, reply=query.size + overhead, gap_s=options.silence_s
    )


def _read_back(
    unit: int, field: RegisterField, words: Sequence[int], options: ModbusOptions
) -> ReadBack | None:
    number = _number_type(field, words)
    if number is None:
        return None  # no number that the guardian can read: commanded, not proven
    return read_back_of(
        reading(unit, block_of("", field)),
        number,
        field.word_order or options.word_order,
        gain=field.scale,
        offset=field.offset,
        framing=options.framing,
    )


def _number_type(field: RegisterField, words: Sequence[int]) -> NumberType | None:
    """Say as what the guardian reads these words; None if it knows no such number.

    Where a uint16 becomes negative it does not know; it knows an int16, which is the same number
    while the sign bit says what ``negative_from`` does.
    """
    if field.type == "bit" or field.type == "uint32":
        return None
    if field.type != "uint16" or field.negative_from is None:
        return field.type
    is_negative = words[0] >= field.negative_from
    if is_negative == (words[0] >= _SIGN_BIT):
        return "int16"
    return None if is_negative else "uint16"


def _recognised(unit: int, seen: bytes) -> str | None:
    """Tell any whole reply of that unit to a read by its form and its CRC."""
    try:
        reply = Query(ReadRegisters(unit, 0, 1)).collector().feed(seen)
    except FrameError:
        return None
    return None if reply is None else "a Modbus device"
