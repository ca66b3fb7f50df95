"""What a simulated device is to the twin server that carries its bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["PlantPort", "SpeaksUnasked", "TwinDevice", "TwinReply", "WearsOut"]


class PlantPort(Protocol):
    """The physics behind the instruments, as named quantities.

    Quantities are named ``thing.quantity_unit``: ``furnace.pv_degC``, ``furnace.power_pct``,
    ``gas.flow_sccm``, ``gas.setpoint_sccm``, ``gas.pressure_psia``, ``sample.mass_g``. Reading
    one first brings the plant to the present. An unknown name raises ``KeyError``.
    """

    def now_s(self) -> float:
        """Seconds of plant time."""
        ...

    def get(self, quantity: str) -> float:
        """Return a quantity as it is now."""
        ...

    def set(self, quantity: str, value: float) -> None:
        """Drive one of the plant's inputs."""
        ...

    def on_tick(self, tick: Callable[[float], None]) -> None:
        """Have ``tick(dt_s)`` called before each integration step: a device's own control loop."""
        ...


@dataclass(frozen=True, slots=True)
class TwinReply:
    """Bytes to send ``delay_s`` after the request was complete."""

    data: bytes
    delay_s: float = 0.0


class TwinDevice(Protocol):
    """The far half of a codec: decodes requests, encodes replies, keeps the device's state.

    A twin does no I/O and keeps no clock. Every device on a link is handed every byte on it,
    answers what is addressed to it, and ignores the rest.
    """

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        ...

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Take bytes as they come, chopped anyhow; return replies to the requests completed."""
        ...

    def line_idle(self) -> None:
        """Forget a half-received request: the line has been silent for a frame gap."""
        ...

    def outputs(self) -> dict[str, float]:
        """Return what this device drives, by field, in the field's unit."""
        ...

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Enter or leave a fault of the device itself.

        Kinds: ``exception`` (an error reply), ``frozen`` (the value stays), ``sensor_break``.

        Returns False when this device has no such fault.
        """
        ...


@runtime_checkable
class SpeaksUnasked(Protocol):
    """A ``TwinDevice`` that also says what nobody asked for at that moment; optional.

    A stream, a line printed at power-up, an answer that waits for a condition.
    """

    def unasked(self) -> Sequence[TwinReply]:
        """Return what has become due since the last call, and no more of it the next time."""
        ...


@runtime_checkable
class WearsOut(Protocol):
    """A ``TwinDevice`` with a memory that takes a limited number of writes; optional."""

    @property
    def nv_writes(self) -> int:
        """How often the memory was written since the twin was made."""
        ...
