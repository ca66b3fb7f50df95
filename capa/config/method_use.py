"""What a method does with each output: how far, how often; for devices that care."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from capa.channels.calibration import IDENTITY, Conversion
from capa.devices.preflight import Sweep
from capa.experiment.method import HoldStep, Method, RampStep, SafeShutdownStep, SetpointStep
from capa.experiment.ramp import Trajectory

__all__ = ["ChannelUse", "uses_of"]

RAMP_TICK_HZ = 10.0
"""As the executor walks a ramp: ``DEFAULT_RAMP_TICK_HZ``, which a test holds against this."""


@dataclass(slots=True)
class ChannelUse:
    """What one channel is commanded to, in its own unit and in order."""

    values: list[float] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)

    def asked(self, by: Conversion = IDENTITY) -> tuple[float, float] | None:
        """Return the least and the greatest value, as the device is told them."""
        told = [by.to_device(value) for value in self.values]
        return (min(told), max(told)) if told else None

    def swept(self, by: Conversion = IDENTITY) -> tuple[Sweep, ...]:
        """Return the changes, with spans as the device sees them."""
        return tuple(
            Sweep(abs(one.span / by.gain), one.duration_s, one.ticks) for one in self.sweeps
        )

    def jump(self, value: float, before: float | None) -> None:
        """Note a command in one go; the same value again is none."""
        if value != before:
            self.sweeps.append(Sweep(value - (0.0 if before is None else before)))
        self.values.append(value)

    def ramp(self, start: float, end: float, duration_s: float) -> None:
        """Note a command a tick."""
        ticks = Trajectory(start, end, duration_s, RAMP_TICK_HZ).last_tick
        self.sweeps.append(Sweep(end - start, duration_s, max(1, ticks)))
        self.values += [start, end]


def uses_of(method: Method, start: Mapping[str, float]) -> dict[str, ChannelUse]:
    """Walk a method from ``start``, the values of the safe state, and note every command.

    What custom steps command can't be told, and neither can the length of a ramp by rate from an
    unknown value.
    """
    uses: dict[str, ChannelUse] = {}
    known = dict(start)
    for step in method.steps:
        match step:
            case HoldStep() | SetpointStep():
                name = step.target.name
                uses.setdefault(name, ChannelUse()).jump(step.value, known.get(name))
                known[name] = step.value
            case RampStep():
                _ramp(step, uses.setdefault(step.target.name, ChannelUse()), known)
            case SafeShutdownStep():
                for name, value in step.cool_target.items():
                    uses.setdefault(name, ChannelUse()).jump(value, known.get(name))
                    known[name] = value
            case _:
                pass
    return uses


def _ramp(step: RampStep, use: ChannelUse, known: dict[str, float]) -> None:
    name, end = step.target.name, step.end_value
    start = known.get(name) if step.start_value is None else step.start_value
    known[name] = end
    if start is None:
        use.jump(end, None)
    elif step.duration_s is not None:
        use.ramp(start, end, step.duration_s)
    elif step.rate_per_second:
        use.ramp(start, end, abs(end - start) / abs(step.rate_per_second))
    else:
        use.values.append(end)  # a rate of 0: reported with the method
