"""The simulated balance: obeys MT-SICS, waits for a stable weight where the real one does."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.mettler.codec import (
    CR_LF,
    SicsStatus,
    decode_command,
    encode_answer,
    encode_weight,
)
from adapters.mettler.options import GRAMS_PER, MettlerTwinOptions
from capa.devices.delay import ReplyDelay
from capa.devices.lines import LineCollector
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply

__all__ = ["MettlerTwin"]

_DONE, _MORE = SicsStatus.DONE, SicsStatus.MORE
_NOT_NOW, _WRONG = SicsStatus.NOT_NOW, SicsStatus.WRONG_PARAMETER
_SR_SHARE, _SR_DIGITS = 0.125, 30
_IDS = {"SI": "S", "SIR": "S", "SR": "S"}
"""Commands that are answered under another's name."""
_GENERAL_ERRORS = {"exception": "ES", "et": "ET", "el": "EL", "ei": "EI"}
_IDENTITIES = ("I0", "I1", "I2", "I3", "I4", "I5")
_COMMANDS = ("I0 I1 I2 I3 I4 I5 S SI SIR Z ZI @", "SR T TI TA TAC")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A command that waits for a stable weight."""

    name: str
    until_s: float


class MettlerTwin:
    """One simulated balance. Loads are in gram, whatever unit it shows."""

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        options = MettlerTwinOptions.model_validate(spec.twin)
        self._options = options
        self._name = spec.name
        self._plant = plant
        seed = spec.name if options.seed is None else options.seed
        self._delay = ReplyDelay(options.reply_delay_s, seed=seed)
        self._random = random.Random(seed)  # noqa: S311 - a repeatable noise, not a secret
        self._lines = LineCollector(CR_LF)
        self._digit_g = GRAMS_PER[options.unit] * 10.0**-options.decimals
        self._zero_g = 0.0
        self._tare_g = 0.0
        self._display_g = self._load_g()
        self._still_at_g = self._display_g
        self._still_since_s = plant.now_s() - options.stability_s
        self._frozen: tuple[SicsStatus, str] | None = None
        self._module_fault = ""
        self._refusals: dict[str, str] = {}
        self._is_busy = False
        self._has_started = False
        self._waiting: _Waiting | None = None
        self._stream: str = ""
        self._streamed_at_s = 0.0
        self._reported_g = 0.0
        self._report_step_g: float | None = None
        plant.on_tick(self._tick)

    # --- the contract of a twin -------------------------------------------------------------

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        return self._name

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Carry out the commands that these bytes complete."""
        self._plant.get(self._quantity)
        replies: list[TwinReply] = []
        for line in self._lines.feed(chunk):
            replies += [TwinReply(data, self._delay.next_s()) for data in self._obey(line)]
        return replies

    def unasked(self) -> Sequence[TwinReply]:
        """Return the answer that had to wait for a stable weight, and the stream's lines."""
        self._plant.get(self._quantity)
        answers = [*self._announced(), *self._answer_that_waited(), *self._streamed()]
        return [TwinReply(answer) for answer in answers]

    def line_idle(self) -> None:
        """Keep what was half received: a command has no time limit."""

    def outputs(self) -> dict[str, float]:
        """Return nothing: a balance drives nothing."""
        return {}

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Enter or leave a fault.

        ``exception`` has every command answered with ``ES``, and ``et``, ``el`` and ``ei`` with
        those; ``sensor_break`` every weight with ``S S Error <value>b`` (10, the EEPROM, unless
        given). ``busy`` has what weighs, tares or sets zero answered with ``I``. ``power_cycle``
        loses zero and tare, and the balance says its serial number unasked.
        """
        match kind:
            case "exception" | "et" | "el" | "ei":
                self._refusals.pop(kind, None)
                if active:
                    self._refusals[kind] = _GENERAL_ERRORS[kind]
            case "busy":
                self._is_busy = active
            case "power_cycle":
                if active:
                    self._restart()
            case "frozen":
                self._frozen = None
                self._frozen = self._weighed() if active else None
            case "sensor_break":
                number = 10 if value is None else int(value)
                self._module_fault = f"Error {number}b" if active else ""
            case _:
                return False
        return True

    def _restart(self) -> None:
        self._zero_g, self._tare_g = 0.0, 0.0
        self._waiting, self._stream = None, ""
        self._lines = LineCollector(CR_LF)
        self._has_started = True

    # --- commands ---------------------------------------------------------------------------

    def _obey(self, line: bytes) -> list[bytes]:
        command = decode_command(line)
        if command is None or self._refusals:
            refusal = ["ES", *self._refusals.values()][-1]
            return [refusal.encode("ascii") + CR_LF]
        name, data = command
        if name == "@":
            self._waiting, self._stream = None, ""
            return [self._identity("I4")]
        if self._waiting is not None or (self._is_busy and name not in _IDENTITIES):
            return [encode_answer(self._id_of(name), _NOT_NOW)]
        if name in {"S", "SI"}:
            self._stream = ""
        return self._carry_out(name, data)

    def _carry_out(self, name: str, data: str) -> list[bytes]:
        match name:
            case "SI":
                return [self._weight_line("S")]
            case "SIR":
                return self._begin_stream(name)
            case "SR" if data and self._grams(data) is None:
                return [encode_answer("S", _WRONG)]
            case "S" | "SR" | "T" | "Z":
                if name == "SR":
                    self._report_step_g = self._grams(data)
                give_up_s = self._options.give_up_s
                self._waiting = _Waiting(name, self._plant.now_s() + give_up_s)
                return self._answer_that_waited()
            case "TI" | "ZI":
                return [self._set(self._id_of(name), name[0], stable=self._stable())]
            case "TAC":
                self._tare_g = 0.0
                return [encode_answer(name, _DONE)]
            case "TA":
                return [self._preset_tare(data)]
            case "I0":
                return self._command_list()
            case "I1" | "I2" | "I3" | "I4" | "I5":
                return [self._identity(name)]
            case _:
                return [b"ES" + CR_LF]

    def _id_of(self, name: str) -> str:
        """Return the name under which a command is answered."""
        if name in {"TI", "ZI"} and self._options.id_of_immediate == "short":
            return name[0]
        return _IDS.get(name, name)

    def _set(self, name: str, kind: str, *, stable: bool) -> bytes:
        """Tare or set zero with the weight as it is."""
        gross_g = self._gross_g()
        status = SicsStatus.STABLE if stable else SicsStatus.DYNAMIC
        if kind == "T":
            if round(gross_g / self._digit_g) < 0:
                return encode_answer(name, SicsStatus.UNDERLOAD)
            if self._display_g > self._options.capacity_g:
                return encode_answer(name, SicsStatus.OVERLOAD)
            self._tare_g = gross_g
            return encode_answer(name, status, self._shown(self._tare_g))
        span_g = self._options.zero_range * self._options.capacity_g
        if abs(self._display_g) > span_g:
            beyond = SicsStatus.OVERLOAD if self._display_g > 0 else SicsStatus.UNDERLOAD
            return encode_answer(name, beyond)
        self._zero_g, self._tare_g = self._zero_g + gross_g, 0.0
        return encode_answer(name, _DONE if name == "Z" else status)

    @staticmethod
    def _grams(data: str) -> float | None:
        """Return a weight that a host gives, such as ``10.00 g``; None for what is none."""
        number, _, unit = data.partition(" ")
        try:
            return float(number) * GRAMS_PER[unit]
        except (ValueError, KeyError):
            return None

    def _begin_stream(self, name: str) -> list[bytes]:
        self._stream, self._streamed_at_s = name, self._plant.now_s()
        self._reported_g = self._net_g()
        return [self._weight_line("S")]

    def _preset_tare(self, data: str) -> bytes:
        if data:
            tare_g = self._grams(data)
            if tare_g is None or not 0 <= tare_g <= self._options.capacity_g:
                return encode_answer("TA", _WRONG)
            self._tare_g = round(tare_g / self._digit_g) * self._digit_g
        return encode_answer("TA", _DONE, self._shown(self._tare_g))

    def _identity(self, name: str) -> bytes:
        options = self._options
        capacity = f"{options.capacity_g:.5f}"
        text = {
            "I1": '"01" "2.30" "2.22" "" ""',
            "I2": f'"TWIN205 Simulated balance {capacity} g"',
            "I3": '"1.10 18.6.4.1361.772"',
            "I4": f'"{options.serial}"',
            "I5": '"00000000A"',
        }[name]
        return encode_answer(name, _DONE, text)

    @staticmethod
    def _command_list() -> list[bytes]:
        rows = [
            f'{level} "{name}"' for level, names in enumerate(_COMMANDS) for name in names.split()
        ]
        last = len(rows) - 1
        return [
            encode_answer("I0", _DONE if index == last else _MORE, row)
            for index, row in enumerate(rows)
        ]

    # --- what comes later -------------------------------------------------------------------

    def _announced(self) -> list[bytes]:
        """Return what the balance says by itself once it has started."""
        if not self._has_started:
            return []
        self._has_started = False
        return [self._identity("I4")]

    def _answer_that_waited(self) -> list[bytes]:
        waiting = self._waiting
        if waiting is None:
            return []
        if not self._stable() and self._plant.now_s() < waiting.until_s:
            return []
        self._waiting = None
        if not self._stable():
            return [encode_answer(self._id_of(waiting.name), _NOT_NOW)]
        if waiting.name == "SR":
            return self._begin_stream("SR")
        if waiting.name == "S":
            return [self._weight_line("S")]
        return [self._set(waiting.name, waiting.name, stable=True)]

    def _streamed(self) -> list[bytes]:
        period_s = 1.0 / self._options.stream_hz
        if not self._stream or self._plant.now_s() - self._streamed_at_s < period_s:
            return []
        self._streamed_at_s = self._plant.now_s()
        if self._stream == "SR" and not self._has_changed():
            return []
        self._reported_g = self._net_g()
        return [self._weight_line("S")]

    def _has_changed(self) -> bool:
        step_g = self._report_step_g
        if step_g is None:
            step_g = max(_SR_SHARE * abs(self._reported_g), _SR_DIGITS * self._digit_g)
        return abs(self._net_g() - self._reported_g) >= step_g

    # --- the weight -------------------------------------------------------------------------

    @property
    def _quantity(self) -> str:
        return f"{self._options.plant}.mass_g"

    def _load_g(self) -> float:
        return self._plant.get(self._quantity)

    def _gross_g(self) -> float:
        """Return the weight since zero was set, with what the display has crept away by now."""
        hours = self._plant.now_s() / 3600.0
        drift_g = self._options.drift_digits_per_h * hours * self._digit_g
        return self._display_g + drift_g - self._zero_g

    def _net_g(self) -> float:
        return self._gross_g() - self._tare_g

    def _shown(self, grams: float) -> str:
        rounded_g = round(grams / self._digit_g) * self._digit_g
        options = self._options
        return encode_weight(rounded_g / GRAMS_PER[options.unit], options.unit, options.decimals)

    def _weight_line(self, name: str) -> bytes:
        status, data = self._frozen or self._weighed()
        return encode_answer(name, status, data)

    def _weighed(self) -> tuple[SicsStatus, str]:
        if self._module_fault:
            return SicsStatus.STABLE, self._module_fault
        if self._display_g > self._options.capacity_g:
            return SicsStatus.OVERLOAD, ""
        if self._display_g < self._options.underload_g:
            return SicsStatus.UNDERLOAD, ""
        stable = SicsStatus.STABLE if self._stable() else SicsStatus.DYNAMIC
        return stable, self._shown(self._net_g() + self._noise_g())

    def _noise_g(self) -> float:
        digits = self._options.noise_digits
        return self._random.gauss(0.0, digits) * self._digit_g if digits else 0.0

    def _tick(self, dt_s: float) -> None:
        """Let the display follow the load, and note when it last moved."""
        settling_s = self._options.settling_s
        keep = math.exp(-dt_s / settling_s) if settling_s > 0 else 0.0
        load_g = self._load_g()
        self._display_g = load_g + (self._display_g - load_g) * keep
        if abs(self._display_g - self._still_at_g) > self._options.stability_digits * self._digit_g:
            self._still_at_g = self._display_g
            self._still_since_s = self._plant.now_s()

    def _stable(self) -> bool:
        return self._plant.now_s() - self._still_since_s >= self._options.stability_s
