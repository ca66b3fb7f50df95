"""The simulated Alicat controller: data frames, both setpoint commands, and its odd replies."""

import random
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
from adapters.alicat.firmware import FIRMWARES
from adapters.alicat.gases import GASES
from adapters.alicat.options import PSIA_PER, AlicatOptions, AlicatTwinOptions, unit_of
from adapters.alicat.tables import column_rows, gas_rows, maker_rows
from capa.devices.delay import ReplyDelay
from capa.devices.lines import LineCollector
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply
from capa.errors import FrameError

__all__ = ["AlicatTwin"]

_REFERENCE_K, _REFERENCE_PSIA = 298.15, 14.696
_HOLDS = {"HC": "closed", "HP": "present", "H": "present"}
_GAS_COMMAND = re.compile(r"(?:GS?\s*|W46=)(\d{1,3})")
_SOURCES: Mapping[str, Literal["serial", "unsaved", "analog"]] = {
    "S": "serial",
    "U": "unsaved",
    "A": "analog",
}
_SOURCE_COMMAND = re.compile(r"LSS ?([SUA])?")
_GAS_BITS = 0x1FF
_OVER = 1.02
_AUTO_TARE_S = 2.0
_READS = re.compile(r"VE|LS|LSS|\?\?.*|FPF.*")
_REGISTER = re.compile(r"R\d+")
_CLOSED, _PRESENT = "closed", "present"


class AlicatTwin:
    """One simulated unit; flows are those of the device's own unit (``flow_unit``)."""

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        self._profile = AlicatOptions.model_validate(spec.options)
        self._options = AlicatTwinOptions.model_validate(spec.twin)
        self._name = spec.name
        self._unit = unit_of(spec)
        self._plant = plant
        seed = spec.name if self._options.seed is None else self._options.seed
        self._delay = ReplyDelay(self._options.reply_delay_s, seed=seed)
        self._random = random.Random(seed)  # noqa: S311 - a repeatable noise, not a secret
        self._lines = LineCollector(EOL)
        self._flow_unit = self._options.flow_unit or self._profile.flow_unit
        self._full_scale = self._options.full_scale or self._profile.full_scale
        self._source = self._options.setpoint_source
        self._nv_writes = 0
        self._sccm_per_unit = 1000.0 if self._flow_unit == "slpm" else 1.0
        self._ways = ways = FIRMWARES[self._options.firmware]
        self._formats = tuple(map(ways.format_of, self._profile.columns))
        self._setpoint = 0.0
        self._gas = self._options.gas
        self._tared = False
        self._at_rest_s = 0.0
        self._total = 0.0
        self._hold: str | None = None
        self._locked = False
        self._frozen: DataFrame | None = None
        self._refuses = False
        self._broken = False
        self._forced: set[str] = set()
        self._missed_flow = False
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
        """Enter or leave a fault; ``sensor_break`` is the code ADC in the frame.

        A status code in lower case (``mov``, ``tov``, ``exh``, ...) puts it into the frame, if the
        firmware knows it.
        """
        match kind:
            case "exception":
                self._refuses = active
            case "frozen":
                self._frozen = None
                self._frozen = self._frame() if active else None
            case "sensor_break":
                self._broken = active
            case code if code.upper() in self._ways.codes:
                (self._forced.add if active else self._forced.discard)(code.upper())
            case _:
                return False
        return True

    # --- commands ---------------------------------------------------------------------------

    def _reply(self, command: Command) -> bytes:
        if self._refuses:
            return b"?" + EOL
        if not command.text:
            return self._data_frame()
        text = command.text.removeprefix("$$")
        if self._ways.wants_prefix and not self._has_right_prefix(command.text, text):
            return b""
        if self._ways.has_ls and text.startswith("LS") and "setpoint" not in self._profile.columns:
            return f"{self._unit}   1 ---".encode("ascii") + EOL  # a meter, as captured
        if (setpoint := command.setpoint) is not None:
            return self._take_setpoint(*setpoint)
        if text.startswith("L") and self._ways.locks_on_l:
            return self._lock()
        if text == "LS":
            return self._report(self._setpoint, self._setpoint)
        if self._ways.is_modern and (said := self._tell(text)) is not None:
            return f"{self._unit} {said}".encode("ascii") + EOL
        if text == "R122":  # what it controls; 37 is mass flow, as numat/alicat has it
            return f"{self._unit}   122 = 37".encode("ascii") + EOL
        if (table := self._table(text)) is not None:
            return b"".join(row.encode("ascii") + EOL for row in table)
        return self._act(text)

    @staticmethod
    def _has_right_prefix(said: str, text: str) -> bool:
        """Whether ``$$`` is there with writes and not with reads; registers are read either way."""
        if _REGISTER.fullmatch(text):
            return True
        return (_READS.fullmatch(text) is None) == said.startswith("$$")

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
                columns = self._profile.columns
                return column_rows(self._unit, columns, self._ways, flow_unit=self._flow_unit)
            case "??M*":
                return maker_rows(self._unit, self._options.firmware, self._ways)
            case "??G*":
                return gas_rows(self._unit)
            case "VE" if self._ways.tells_version:
                return [f"{self._unit}   {self._options.firmware}.0-R24 Jan  9 2025,15:04:07"]
            case "R46":
                return [f"{self._unit}   046 = {self._gas_number() & _GAS_BITS}"]
            case _:
                return None

    def _act(self, text: str) -> bytes:
        """Do what is answered with a data frame; most firmwares answer everything so."""
        match = _GAS_COMMAND.fullmatch(text)
        if match and (self._ways.is_modern or not text.startswith("GS")):
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
            self._total, self._missed_flow = 0.0, False
        return self._data_frame()

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
        if command == "LS" and not self._ways.has_ls:
            return self._lock() if self._ways.locks_on_l else self._without_ls()
        full_scale, before = self._full_scale, self._setpoint
        if self._options.out_of_range == "reject" and not 0.0 <= value <= full_scale:
            return b"?" + EOL
        if self._source != "analog":
            self._nv_writes += self._source == "serial"
            self._setpoint = min(full_scale, max(0.0, value))
            self._drive()
        if command == "LS":
            return self._report(before, self._setpoint)
        return self._data_frame()

    def _report(self, current: float, requested: float) -> bytes:
        if not self._ways.has_ls:
            return self._without_ls()
        report = SetpointReport(current, requested)
        return encode_setpoint_report(self._unit, report, flow_unit=self._flow_unit)

    def _without_ls(self) -> bytes:
        """Answer ``LS`` as firmware that does not know it: with a data frame, or not at all."""
        return b"" if self._ways.wants_prefix else self._data_frame()

    def _unsupported(self) -> bytes:
        if self._ways.wants_prefix:
            return b""
        match self._options.unsupported:
            case "silence":
                return b""
            case "frame":
                return self._data_frame()
            case "placeholder":
                return f"{self._unit}   1 ---".encode("ascii") + EOL
            case "text":
                return f"{self._unit}   Feature Not Enabled".encode("ascii") + EOL
            case "empty":
                return EOL + b"?" + EOL
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
        width = self._ways.gas_width
        return encode_frame(self._unit, self._frame(), self._formats, gas_width=width)

    def _frame(self) -> DataFrame:
        frozen = self._frozen
        if frozen is not None:
            return DataFrame(self._with_setpoint(frozen.values), frozen.gas, self._codes())
        values = tuple(self._value(name) for name in self._profile.columns)
        return DataFrame(values, self._gas, self._codes())

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
                return self._flow() + self._noise()
            case "volumetric":
                return self._volumetric() + self._noise()
            case "setpoint":
                return self._setpoint
            case "total":
                return self._total
            case "valve":
                return 100.0 * self._setpoint / self._full_scale

    def _noise(self) -> float:
        if not self._options.noise_pct:
            return 0.0
        return self._random.gauss(0.0, self._options.noise_pct / 100.0 * self._full_scale)

    def _flow(self) -> float:
        """Flow as measured: off by the zero offset until it is tared."""
        offset = 0.0 if self._tared else self._options.zero_offset_pct / 100.0
        shown = self._get("flow_sccm") / self._sccm_per_unit
        return shown + offset * self._full_scale

    def _tick(self, dt_s: float) -> None:
        rests = "setpoint" in self._profile.columns and self._setpoint == 0.0
        self._at_rest_s = self._at_rest_s + dt_s if rests else 0.0
        if self._options.auto_tare and self._at_rest_s >= _AUTO_TARE_S:
            self._tared = True
        if "total" in self._profile.columns:
            self._total += self._flow() * dt_s / 60.0
            self._missed_flow = self._missed_flow or self._is_over(self._flow())

    def _volumetric(self) -> float:
        """Flow at the gas line's own temperature and pressure."""
        kelvin = self._get("temperature_degC") + 273.15
        dilation = kelvin / _REFERENCE_K * _REFERENCE_PSIA / self._get("pressure_psia")
        return self._flow() * dilation

    def _codes(self) -> frozenset[str]:
        options = self._options
        shown = {
            "HLD": self._hold is not None,
            "LCK": self._locked,
            "MOV": self._is_over(self._flow()),
            "VOV": self._is_over(self._volumetric()),
            "POV": self._get("pressure_psia") > options.max_pressure_psia,
            "TOV": self._get("temperature_degC") > options.max_temperature_degC,
            "TMF": self._missed_flow,
            "OVR": self._total > options.max_total,
        }
        codes = self._forced | {code for code, is_shown in shown.items() if is_shown}
        known = codes & set(self._ways.codes)
        return frozenset(known | {"ADC"} if self._broken else known)

    def _is_over(self, flow: float) -> bool:
        return flow > _OVER * self._full_scale

    def _get(self, quantity: str) -> float:
        return self._plant.get(f"{self._options.plant}.{quantity}")
