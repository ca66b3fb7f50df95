"""The settings of an EZ-ZONE PM that a profile may hold it to: registers, words, blocks to read.

Source: Watlow EZ-ZONE PM register list ("PM - Map 1"). Pure: no I/O.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from adapters.watlow.codec import (
    COMMS_BLOCK,
    COMMS_UNITS,
    NV_SAVE,
    PORT_OFFSET,
    WORD_ORDER,
    Units,
    from_degC,
    to_degC,
)
from adapters.watlow.options import WatlowOptions
from capa.devices.preflight import SettingInfo, Severity
from capa.devices.spec import SettingValue

__all__ = ["SAVE", "Row", "blocks_of", "rows_of"]

SAVE = "save_to_eeprom"

Kind = Literal["temperature", "difference", "number", "enum"]
Words = Mapping[int, SettingValue]

_MODE_COUNT = 8
_BLOCKS: Sequence[tuple[int, int]] = (
    (362, 11),
    (1480, 9),
    (1492, 18),
    (1838, 1),
    (1880, _MODE_COUNT),
    (1910, 20),
    (2160, 12),
    (2184, 10),
)
"""First register and count of each read. Every count is that of no other read of a controller:
it is all that RTU lets one check of a late reply. So 1838 is asked for by its first half alone."""

_UNITS: Words = {30: "degF", 15: "degC"}
_ORDERS: Words = {1331: "low_high", 1330: "high_low"}
_YES: Words = {106: True, 59: False}
_MODES: Words = {62: "off", 10: "auto", 54: "manual"}
_POWER: Words = {62: "off", 14: "bumpless", 33: "fixed", 100: "user"}
_RAMPS: Words = {62: "off", 88: "startup", 85: "setpoint_change", 13: "both"}
_LATCHING: Words = {49: True, 60: False}
_ALARMS: Words = {62: "off", 76: "process", 24: "deviation"}
_SIDES: Words = {13: "both", 37: "high", 53: "low"}
_LOOP: Words = {61: "none", 1274: "open_loop", 1275: "reversed"}
_SENSORS: Words = {
    62: "off",
    95: "thermocouple",
    56: "millivolt",
    104: "volt",
    112: "milliamp",
    113: "rtd100",
    114: "rtd1000",
}
_THERMOCOUPLES: Words = {
    46: "J",
    48: "K",
    93: "T",
    58: "N",
    26: "E",
    15: "C",
    23: "D",
    30: "F",
    80: "R",
    84: "S",
    11: "B",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: where it is, what its number means."""

    info: SettingInfo
    address: int
    kind: Kind
    words: Words = field(default_factory=lambda: MappingProxyType({}))

    def value(self, number: float, unit: Units) -> SettingValue | None:
        """Return what a number on the wire means; None for a code that nobody knows."""
        match self.kind:
            case "enum":
                return self.words.get(int(number))
            case "temperature":
                return to_degC(number, unit)
            case "difference":
                return number / 1.8 if unit is Units.DEG_F else number
            case "number":
                return number

    def number(self, value: SettingValue, unit: Units) -> float:
        """Return the number on the wire for a value that ``info`` has no misfit with."""
        if self.kind == "enum":
            return next(code for code, word in self.words.items() if word == value)
        degrees = float(value)
        if self.kind == "temperature":
            return from_degC(degrees, unit)
        return degrees * 1.8 if self.kind == "difference" and unit is Units.DEG_F else degrees


def _word(
    name: str,
    address: int,
    words: Words,
    description: str,
    *,
    writable: bool = False,
    assumed: SettingValue | None = None,
) -> Row:
    flag = all(isinstance(word, bool) for word in words.values())
    info = SettingInfo(
        name,
        "flag" if flag else "text",
        choices=() if flag else tuple(str(word) for word in words.values()),
        writable=writable,
        assumed=assumed,
        remedy=f"register {address}",
        description=description,
    )
    return Row(info, address, "enum", words)


def _number(name: str, address: int, kind: Kind, unit: str, description: str) -> Row:
    info = SettingInfo(
        name,
        "number",
        unit=unit,
        tolerance=0.1,
        writable=True,
        remedy=f"register {address}",
        description=description,
    )
    return Row(info, address, kind)


def rows_of(options: WatlowOptions) -> Mapping[str, Row]:
    """Return a controller's settings by name, in the order in which they are enforced.

    Saving is the last: what is enforced before it is kept over a power cut, and written once. On
    another map than Map 1 nothing is known to be anywhere but what the profile places.
    """
    mode = _word("control_mode", options.places.control_mode, _MODES, "auto follows the setpoint")
    if options.map != 1:
        return {mode.info.name: mode}
    comms = PORT_OFFSET if options.port == 2 else 0
    rows = (
        _word(
            "wire_units",
            COMMS_UNITS + comms,
            _UNITS,
            "unit of temperatures on the wire",
            assumed=options.wire_unit,
        ),
        _word(
            "word_order",
            WORD_ORDER + comms,
            _ORDERS,
            "which half of a float comes first",
            assumed=options.word_order,
        ),
        _word("display_units", 1838, _UNITS, "unit on the panel", writable=True),
        mode,
        _word("sensor", 368, _SENSORS, "kind of input 1"),
        _word("thermocouple", 370, _THERMOCOUPLES, "type of a thermocouple on input 1"),
        _number("min_setpoint", 2164, "temperature", "degC", "the controller's own low limit"),
        _number("max_setpoint", 2166, "temperature", "degC", "the controller's own high limit"),
        _word(
            "input_error_power",
            2184,
            _POWER,
            "what it gives when the sensor fails; user: manual_power",
            writable=True,
        ),
        Row(
            SettingInfo("manual_power", "number", unit="%", tolerance=0.1, remedy="register 2162"),
            2162,
            "number",
        ),
        _word("ramp_action", 2186, _RAMPS, "when it ramps setpoints by itself", writable=True),
        _word("alarm1_type", 1508, _ALARMS, "off: alarm 1 is not used", writable=True),
        _number("alarm1_high", 1480, "temperature", "degC", "high set point of alarm 1"),
        _number("alarm1_low", 1482, "temperature", "degC", "low set point of alarm 1"),
        _word("alarm1_sides", 1486, _SIDES, "which of the two count", writable=True),
        _word("alarm1_latching", 1492, _LATCHING, "whether it stays", writable=True),
        _word("loop_detection", 1922, _YES, "open-loop detection", writable=True),
        _number("loop_detection_s", 1924, "number", "s", "how long it waits for a rise"),
        _number("loop_detection_deviation", 1926, "difference", "K", "what counts as a rise"),
        _word("loop_error", 1928, _LOOP, "what open-loop detection found"),
        _save(comms),
    )
    return {row.info.name: row for row in rows}


def _save(comms: int) -> Row:
    """Whether written values go to the EEPROM: the driver switches it off for what it commands."""
    info = SettingInfo(
        SAVE,
        "flag",
        writable=True,
        assumed=False,
        kept=True,
        field="save",
        otherwise=Severity.WARN,
        remedy=f"register {NV_SAVE + comms}",
        description="whether values written by wire are saved in non-volatile memory",
    )
    return Row(info, NV_SAVE + comms, "enum", _YES)


def blocks_of(options: WatlowOptions) -> Sequence[tuple[int, int]]:
    """Return what is read together; that of the port is ``Conversation.read_comms``."""
    if options.map != 1:
        return ((options.places.control_mode, _MODE_COUNT),)
    return (*_BLOCKS, (COMMS_BLOCK + (PORT_OFFSET if options.port == 2 else 0), 14))
