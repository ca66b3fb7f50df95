"""The simulated balance: a display that follows the load, and knows when it is stable."""

import math
import random
from collections.abc import Sequence

from adapters.sartorius.codec import (
    CR_LF,
    CommandCollector,
    Line,
    Overload,
    StatusLine,
    Underload,
    Weight,
    encode_line,
)
from adapters.sartorius.options import GRAMS_PER, SartoriusTwinOptions
from capa.devices.delay import ReplyDelay
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply

__all__ = ["PrintingTwin", "SartoriusTwin", "make_twin"]

_TARE = {"T", "U", "f4_"}
_ZERO = {"V", "f3_"}
_ZERO_RANGE = 0.02
_CALIBRATES, _CALIBRATION_LINE_S = "Cal.Int.", 1.0


class SartoriusTwin:
    """One simulated balance. Loads are in gram, whatever unit it shows."""

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        options = SartoriusTwinOptions.model_validate(spec.twin)
        self._options = options
        self._name = spec.name
        self._plant = plant
        seed = spec.name if options.seed is None else options.seed
        self._delay = ReplyDelay(options.reply_delay_s, seed=seed)
        self._random = random.Random(seed)  # noqa: S311 - a repeatable noise, not a secret
        self._commands = CommandCollector()
        self._digit_g = GRAMS_PER[options.unit] * 10.0**-options.decimals
        self._offset_g = 0.0
        self._display_g = self._load_g()
        self._still_at_g = self._display_g
        self._still_since_s = plant.now_s() - options.stability_s
        self._frozen: Line | None = None
        self._statuses = {"standby": "OFF"} if options.standby else {}
        self._calibrates_until_s = float("-inf")
        plant.on_tick(self._tick)

    # --- the contract of a twin -------------------------------------------------------------

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        return self._name

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Carry out the commands that these bytes complete; only some have a reply."""
        answers = [self._obey(command) for command in self._commands.feed(chunk)]
        return [TwinReply(answer, self._delay.next_s()) for answer in answers if answer]

    def line_idle(self) -> None:
        """Keep what was half received: a command has no time limit."""

    def outputs(self) -> dict[str, float]:
        """Return nothing: a balance drives nothing."""
        return {}

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Enter or leave a fault; ``exception`` is an error line with ``value`` as its number.

        ``sensor_break`` is stand-by, ``calibration`` and ``blank`` what the line then shows.
        """
        match kind:
            case "exception":
                number = 54 if value is None else int(value)
                self._shows(kind, f"Err {number:03d}", active=active)
            case "frozen":
                self._frozen = None
                self._frozen = self._line() if active else None
            case "sensor_break":
                self._shows(kind, "OFF", active=active)
            case "calibration":
                self._shows(kind, _CALIBRATES, active=active)
            case "blank":
                self._shows(kind, "--", active=active)
            case _:
                return False
        return True

    def _shows(self, kind: str, text: str, *, active: bool) -> None:
        """Have a status line instead of the weight; of several the one that began last."""
        self._statuses.pop(kind, None)
        if active:
            self._statuses[kind] = text

    # --- commands ---------------------------------------------------------------------------

    def _obey(self, command: str) -> bytes:
        self._plant.get(self._quantity)
        if command == "P":
            return self._printed()
        if command == "Z" and self._options.calibration_s is not None:
            self._calibrates_until_s = self._plant.now_s() + self._options.calibration_s
        if command in _TARE or (command in _ZERO and self._zero_allowed()):
            self._offset_g = self._display_g + self._drift_g()
        if not self._options.tells_model:
            return b""
        identity = {"x1_": "TWIN224-1S", "x2_": "0029350001", "x3_": "01-62-04"}.get(command)
        return b"" if identity is None else f"{identity:<20}".encode("ascii") + CR_LF

    def _printed(self) -> bytes:
        line, options = self._line(), self._options
        return encode_line(line, decimals=options.decimals, width=options.line)

    def _zero_allowed(self) -> bool:
        return abs(self._display_g) <= _ZERO_RANGE * self._options.capacity_g

    def _line(self) -> Line:
        if self._calibrates:
            return StatusLine(_CALIBRATES)
        if self._statuses:
            return StatusLine(list(self._statuses.values())[-1])
        if self._frozen is not None:
            return self._frozen
        if self._display_g > self._options.capacity_g:
            return Overload()
        if self._display_g < self._options.underload_g:
            return Underload()
        shown_g = round(self._net_g() / self._digit_g) * self._digit_g
        unit = self._options.unit
        return Weight(shown_g / GRAMS_PER[unit], unit if self._stable() else None, "N")

    @property
    def _calibrates(self) -> bool:
        return self._plant.now_s() < self._calibrates_until_s

    # --- the load ---------------------------------------------------------------------------

    @property
    def _quantity(self) -> str:
        return f"{self._options.plant}.mass_g"

    def _load_g(self) -> float:
        return self._plant.get(self._quantity)

    def _net_g(self) -> float:
        """Return what is on the pan as the display has it, with its noise and its drift."""
        net_g = self._display_g + self._drift_g() - self._offset_g
        if self._options.noise_digits:
            net_g += self._random.gauss(0.0, self._options.noise_digits) * self._digit_g
        return net_g

    def _drift_g(self) -> float:
        """Return how far the display has crept away by now; a tare takes out what there is."""
        hours = self._plant.now_s() / 3600.0
        return self._options.drift_digits_per_h * hours * self._digit_g

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


class PrintingTwin(SartoriusTwin):
    """One that prints at other times than when it is asked: by itself, or once the load rests.

    ``ESC P`` stops what it prints by itself, tare and zero have it go on. While it calibrates it
    says so once a second.
    """

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        super().__init__(spec, plant)
        hz = self._options.auto_print_hz
        self._period_s = math.inf if hz is None else 1.0 / hz
        self._printed_at_s = plant.now_s()
        self._prints = True
        self._owed = 0

    def _obey(self, command: str) -> bytes:
        if command == "P":
            self._prints = False
        elif command in _TARE | _ZERO:
            self._prints = True
            self._printed_at_s = self._plant.now_s()
        answer = super()._obey(command)
        if command == "P" and self._must_wait():
            self._owed += 1
            return b""
        return answer

    def _must_wait(self) -> bool:
        line = self._line()
        return self._options.print_when_stable and isinstance(line, Weight) and line.unit is None

    def unasked(self) -> Sequence[TwinReply]:
        """Return the lines that were waited for, or that are due."""
        self._plant.get(self._quantity)
        if self._owed and not self._must_wait():
            owed, self._owed = self._owed, 0
            return [TwinReply(self._printed())] * owed
        period_s = _CALIBRATION_LINE_S if self._calibrates else self._period_s
        if not (self._prints or self._calibrates) or (
            self._plant.now_s() - self._printed_at_s < period_s
        ):
            return []
        self._printed_at_s = self._plant.now_s()
        return [TwinReply(self._printed())]


def make_twin(spec: DeviceSpec, plant: PlantPort) -> SartoriusTwin:
    """Make one of either kind: a line with a balance that prints must be listened to."""
    options = SartoriusTwinOptions.model_validate(spec.twin)
    prints = (
        options.auto_print_hz is not None
        or options.print_when_stable
        or options.calibration_s is not None
    )
    return PrintingTwin(spec, plant) if prints else SartoriusTwin(spec, plant)
