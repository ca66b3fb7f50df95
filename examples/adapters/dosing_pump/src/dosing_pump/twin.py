"""The simulator: the other half of the codec, with a pressure that follows the rate."""

from collections.abc import Sequence

from capa.devices.delay import ReplyDelay
from capa.devices.lines import LineCollector
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply
from dosing_pump.codec import EOL, Ask, Refused, Value, decode_request, encode
from dosing_pump.options import PumpOptions, PumpTwinOptions, number_of

__all__ = ["DosingPumpTwin"]

_BAR_PER_ML_PER_MIN = 0.1


class DosingPumpTwin:
    """One simulated pump: no I/O, no clock of its own."""

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        options = PumpTwinOptions.model_validate(spec.twin)
        self._most = PumpOptions.model_validate(spec.options).max_mL_per_min
        self._name = spec.name
        self._number = number_of(spec)
        self._delay = ReplyDelay(options.reply_delay_s, seed=spec.name)
        self._lines = LineCollector(EOL)
        self._rate = 0.0
        self._frozen: float | None = None
        self._refuses = False

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        return self._name

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Answer what is addressed to this pump."""
        requests = [decode_request(line) for line in self._lines.feed(chunk)]
        mine = [one for one in requests if one is not None and one.pump == self._number]
        return [
            TwinReply(encode(self._answer(one), pump=self._number), self._delay.next_s())
            for one in mine
        ]

    def line_idle(self) -> None:
        """Keep what was half received: a line has no time limit."""

    def outputs(self) -> dict[str, float]:
        """Return what it drives, by field."""
        return {"rate": self._rate}

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Enter or leave ``exception`` or ``frozen``; there is no sensor to break."""
        match kind:
            case "exception":
                self._refuses = active
            case "frozen":
                self._frozen = self._pressure() if active else None
            case _:
                return False
        return True

    def _answer(self, request: Ask | Value) -> Value | Refused:
        if self._refuses or request.name not in {"RATE", "PRES"}:
            return Refused(1)
        if isinstance(request, Value):
            if request.name != "RATE" or not 0.0 <= request.number <= self._most:
                return Refused(2)
            self._rate = request.number
        number = self._rate if request.name == "RATE" else self._pressure()
        return Value(self._number, request.name, number)

    def _pressure(self) -> float:
        return self._rate * _BAR_PER_ML_PER_MIN if self._frozen is None else self._frozen
