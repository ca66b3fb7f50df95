"""The simulated Alicat controller: data frames, both setpoint commands, and its odd replies."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from adapters.alicat.codec import (
    EOL,
    Column,
    Command,
    DataFrame,
    SetpointReport,
    decode_command,
    encode_frame,
    encode_setpoint_report,
)
from adapters.alicat.gases import GASES
from adapters.alicat.options import PSIA_PER, AlicatOptions, AlicatTwinOptions, unit_of
from adapters.alicat.tables import column_rows, gas_rows, maker_rows
from capa.devices.delay import ReplyDelay
from capa.devices.lines import LineCollector
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply
from capa.errors import FrameError

__all__ = ["AlicatTwin"]

_FORMATS: Mapping[str, Mapping[str, str]] = {
    "5v12": {"pressure": "+07.2f", "temperature": "+07.2f", "setpoint": "06.1f", "": "+07.1f"},
    "7v09": {"setpoint": "06.2f", "": "+07.2f"},
    "8v17": {"": "+07.2f"},
    "10v20": {"": "+07.2f"},
}
_GAS_WIDTH = {"5v12": 7, "7v09": 7}
_LOCKS_ON_L = {"5v12", "7v09"}
_REFERENCE_K, _REFERENCE_PSIA = 298.15, 14.696
_HOLDS = {"HC": "closed", "HP": "present", "H": "present"}
_GAS_COMMAND = re.compile(r"(?:GS?\s*|W46=)(\d{1,3})")
_LEGACY_TABLE = {"5v12"}
_MODERN = {"10v20"}
_SOURCES: Mapping[str, Literal["serial", "unsaved", "analog"]] = {
    "S": "serial",
    "U": "unsaved",
    "A": "analog",
}
_SOURCE_COMMAND = re.compile(r"LSS ?([SUA])?")
_GAS_BITS = 0x1FF
_CLOSED, _PRESENT = "closed", "present"


class AlicatTwin:
    """One simulated unit; flows are those of the device's own unit (``flow_unit``)."""

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        self._profile = AlicatOptions.model_validate(spec.options)
        self._options = AlicatTwinOptions.model_validate(spec.twin)
        self._name = spec.name
        self._unit = unit_of(spec)
        self._plant = plant
        self._delay = ReplyDelay(
            self._options.reply_delay_s,
            seed=spec.name if self._options.seed is None else self._options.seed,
        )
        self._lines = LineCollector(EOL)
        self._flow_unit = self._options.flow_unit or self._profile.flow_unit
        self._full_scale = self._options.full_scale or self._profile.full_scale
        self._source = self._options.setpoint_source
        self._nv_writes = 0
        self._sccm_per_unit = 1000.0 if self._flow_unit == "slpm" else 1.0
        formats = _FORMATS[self._options.firmware]
        self._formats = tuple(formats.get(c, formats[""]) for c in self._profile.columns)
        self._setpoint = 0.0
        self._gas = self._options.gas
        self._tared = False
        self._total = 0.0
        self._hold: str | None = None
        self._locked = False
        self._frozen: DataFrame | None = None
        self._refuses = False
        self._broken = False
        if self._source == "analog":
            self._setpoint = self._options.analog_setpoint
        self._drive()
        plant.on_tick(self._tick)

    # --- the contract of a twin -------------------------------------------------------------

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        return self._name

    @property
    def nv_writes(self) -> int:
        """How often a setpoint was saved."""
        return self._nv_writes

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Answer the commands that these bytes complete."""
        replies = []
        for line in self._lines.feed(chunk):
            try:
                command = decode_command(line)
            except FrameError:
                continue
            if command.unit == self._unit and (data := self._reply(command)):
                replies.append(TwinReply(data, self._delay.next_s()))
        return replies

    def line_idle(self) -> None:
        """Keep what was half received: the real thing waits for a CR for as long as it takes."""

    def outputs(self) -> dict[str, float]:
        """Return the setpoint, in the device's flow unit."""
        return {"setpoint": self._setpoint}

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Enter or leave a fault; ``sensor_break`` is the code ADC in the frame."""
        match kind:
            case "exception":
                self._refuses = active
            case "frozen":
                self._frozen = None
                self._frozen = self._frame() if active else None
            case "sensor_break":
                self._broken = active
            case _:
                return False
        return True

    # --- commands ---------------------------------------------------------------------------

    def _reply(self, command: Command) -> bytes:
        if self._refuses:
            return b"?" + EOL
        if not command.text:
            return self._data_frame()
        if (setpoint := command.setpoint) is not None:
            return self._take_setpoint(*setpoint)
        text = command.text.removeprefix("$$")
        if text.startswith("L") and self._locks_on_l:
            return self._lock()
        if text == "LS":
            return encode_setpoint_report(
                self._unit, SetpointReport(self._setpoint, self._setpoint)
            )
        if self._options.firmware in _MODERN and (said := self._tell(text)) is not None:
            return f"{self._unit} {said}".encode("ascii") + EOL
        if text == "R122":  # what it controls; 37 is mass flow, as numat/alicat has it
            return f"{self._unit}   122 = 37".encode("ascii") + EOL
        if (table := self._table(text)) is not None:
            return b"".join(row.encode("ascii") + EOL for row in table)
        return self._act(text)

    def _tell(self, text: str) -> str | None:
        """Answer what only newer firmware knows: who commands it, and how far it goes."""
        if match := _SOURCE_COMMAND.fullmatch(text):
            self._source = _SOURCES.get(match[1], self._source)
            return next(key for key, word in _SOURCES.items() if word == self._source)
        if text == "FPF 5":
            code = 7 if self._flow_unit == "slpm" else 12
            return f"{self._full_scale:+07.2f} {code} {self._flow_unit.upper()}"
        return "+0 1 ---" if text.startswith("FPF ") else None

    def _table(self, text: str) -> list[str] | None:
        match text:
            case "??D*":
                legacy = self._options.firmware in _LEGACY_TABLE
                return column_rows(self._unit, self._profile.columns, legacy=legacy)
            case "??M*":
                return maker_rows(self._unit, self._options.firmware)
            case "??G*":
                return gas_rows(self._unit)
            case "VE":
                return [f"{self._unit}   {self._options.firmware}.0-R24 Jan  9 2025,15:04:07"]
            case "R46":
                return [f"{self._unit}   046 = {self._gas_number() & _GAS_BITS}"]
            case _:
                return None

    def _act(self, text: str) -> bytes:
        """Do what is answered with a data frame; most firmwares answer everything so."""
        if match := _GAS_COMMAND.fullmatch(text):
            return self._select_gas(text, int(match[1]))
        if text in {"V", "T", "T 1", "T1"}:
            return self._tare_or_reset(text)
        if text in {"C", "U", "L", *_HOLDS}:
            return self._valve_or_display(text)
        return self._unsupported()

    def _gas_number(self) -> int:
        return next((number for number, label in GASES.items() if label == self._gas), 255)

    def _select_gas(self, text: str, number: int) -> bytes:
        if number not in GASES:
            return b"?" + EOL
        self._gas = GASES[number]
        if text.startswith("GS"):
            return f"{self._unit} {number} {self._gas} {self._gas}".encode("ascii") + EOL
        return self._data_frame()

    def _tare_or_reset(self, text: str) -> bytes:
        if text == "V" or (text == "T" and self._options.at_means == "tare"):
            self._tared = True
        else:
            self._total = 0.0
        return self._data_frame()

    @property
    def _locks_on_l(self) -> bool:
        """Whether anything that begins with L means: lock the display."""
        return self._options.firmware in _LOCKS_ON_L

    def _lock(self) -> bytes:
        self._locked = True
        return self._data_frame()

    def _valve_or_display(self, text: str) -> bytes:
        if text in {"U", "L"}:
            self._locked = text == "L"
        else:
            self._hold = _HOLDS.get(text)
            self._drive()
        return self._data_frame()

    def _take_setpoint(self, command: str, value: float) -> bytes:
        if command == "LS" and self._locks_on_l:
            return self._lock()
        full_scale, before = self._full_scale, self._setpoint
        if self._options.out_of_range == "reject" and not 0.0 <= value <= full_scale:
            return b"?" + EOL
        if self._source != "analog":
            self._nv_writes += self._source == "serial"
            self._setpoint = min(full_scale, max(0.0, value))
            self._drive()
        if command == "LS":
            return encode_setpoint_report(self._unit, SetpointReport(before, self._setpoint))
        return self._data_frame()

    def _unsupported(self) -> bytes:
        match self._options.unsupported:
            case "silence":
                return b""
            case "frame":
                return self._data_frame()
            case "placeholder":
                return f"{self._unit}   1 ---".encode("ascii") + EOL
            case "text":
                return f"{self._unit}   Feature Not Enabled".encode("ascii") + EOL
            case "?":
                return b"?" + EOL

    # --- the plant --------------------------------------------------------------------------

    def _drive(self) -> None:
        """Tell the gas line what the valve aims at."""
        if self._hold == _PRESENT:
            return
        aim = 0.0 if self._hold == _CLOSED else self._setpoint
        self._plant.set(f"{self._options.plant}.setpoint_sccm", aim * self._sccm_per_unit)

    def _data_frame(self) -> bytes:
        width = _GAS_WIDTH.get(self._options.firmware, 6)
        return encode_frame(self._unit, self._frame(), self._formats, gas_width=width)

    def _frame(self) -> DataFrame:
        frozen = self._frozen
        if frozen is not None:
            return DataFrame(self._with_setpoint(frozen.values), frozen.gas, self._codes(0.0))
        values = {name: self._value(name) for name in self._profile.columns}
        codes = self._codes(values["flow"])
        return DataFrame(tuple(values.values()), self._gas, codes)

    def _with_setpoint(self, values: tuple[float, ...]) -> tuple[float, ...]:
        pairs = zip(self._profile.columns, values, strict=True)
        return tuple(self._setpoint if name == "setpoint" else value for name, value in pairs)

    def _value(self, column: Column) -> float:
        match column:
            case "pressure":
                return self._get("pressure_psia") / PSIA_PER[self._profile.pressure_unit]
            case "temperature":
                return self._get("temperature_degC")
            case "flow":
                return self._flow()
            case "volumetric":
                return self._volumetric()
            case "setpoint":
                return self._setpoint
            case "total":
                return self._total
            case "valve":
                return 100.0 * self._setpoint / self._full_scale

    def _flow(self) -> float:
        """Flow as measured: off by the zero offset until it is tared."""
        offset = 0.0 if self._tared else self._options.zero_offset_pct / 100.0
        shown = self._get("flow_sccm") / self._sccm_per_unit
        return shown + offset * self._full_scale

    def _tick(self, dt_s: float) -> None:
        if "total" in self._profile.columns:
            self._total += self._flow() * dt_s / 60.0

    def _volumetric(self) -> float:
        """Flow at the gas line's own temperature and pressure."""
        kelvin = self._get("temperature_degC") + 273.15
        dilation = kelvin / _REFERENCE_K * _REFERENCE_PSIA / self._get("pressure_psia")
        return self._flow() * dilation

    def _codes(self, flow: float) -> frozenset[str]:
        codes = {
            "ADC": self._broken,
            "HLD": self._hold is not None,
            "LCK": self._locked,
            "MOV": flow > 1.02 * self._full_scale,
        }
        return frozenset(code for code, shown in codes.items() if shown)

    def _get(self, quantity: str) -> float:
        return self._plant.get(f"{self._options.plant}.{quantity}")
