"""What a device driver is to the engine, and what passes between them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from capa.channels.sample import Status
from capa.devices.link import Link, Priority
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice

__all__ = [
    "AdapterFamily",
    "CommandResult",
    "DeviceAdapter",
    "DeviceCommand",
    "DeviceHealth",
    "FieldInfo",
    "FieldWrite",
    "Health",
    "Identity",
    "Reading",
    "WriteAck",
]


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """One thing a device can tell or be told.

    ``command`` names the command that writes it (``"set_setpoint"``), or is None for a
    read-only field. ``resolution`` is the smallest step the device can show, and so the
    tolerance of a read-back where the profile states none.
    """

    name: str
    unit: str
    command: str | None = None
    resolution: float = 0.0
    reads_back: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One field of one device, in the field's own unit; NaN where the status is not usable.

    ``at_s`` is the midpoint of the exchange, on trio's clock. ``native`` is what the device said,
    as it said it: a line of text, or the bytes in hexadecimal. All readings of one exchange share
    it; what the adapter makes of it can be made again from it.
    """

    field: str
    value: float
    at_s: float
    status: Status = Status.OK
    native: str = dataclasses.field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class FieldWrite:
    """A value for a field, in the field's own unit."""

    field: str
    value: float


@dataclass(frozen=True, slots=True)
class WriteAck:
    """What a device made of a write.

    ``readback`` is the value read from the device afterwards, or None where it cannot be read.
    """

    accepted: bool
    detail: str = ""
    readback: float | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class DeviceCommand:
    """A command on its way to the gate, stamped by an authorization.

    The authorization remembers the very objects it issued (weakly), so an equal copy is no command.

    ``payload`` of ``kind="set_setpoint"`` carries ``value`` (channel unit), ``channel`` and
    ``device``. Make one with ``ctx.authorization.issue(...)``.
    """

    kind: str
    target: str
    payload: Mapping[str, Any]
    issued_by: str
    authorization_id: str
    confirmed_by: str | None = None


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of a command; a refusal says which limit and which file.

    ``called_back`` says that a stop or a trip overtook it: it may have arrived, unproven.
    """

    accepted: bool
    detail: str = ""
    readback: float | None = None
    called_back: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answered: for the log, the start-up report and ``equipment.toml``."""

    family: str
    model: str = ""
    serial: str = ""
    firmware: str = ""


class Health(StrEnum):
    """Whether a device can be relied on."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(slots=True)
class DeviceHealth:
    """A device's state and counters; ``detail`` is the last trouble in words."""

    state: Health = Health.DOWN
    detail: str = "not opened yet"
    polls: int = 0
    failures: int = 0
    consecutive_failures: int = 0
    last_ok_at_s: float | None = None
    counters: dict[str, int] = field(default_factory=dict)


class DeviceAdapter(Protocol):
    """Turns a device's fields into readings, and writes into exchanges.

    An adapter keeps no task and no clock of its own: the rig calls ``open`` once the link is
    up (and again after it came back), then ``poll`` on absolute ticks. Every method may raise
    ``LinkError``, ``FrameError`` or ``DeviceError``; the rig keeps the health.
    """

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        ...

    @property
    def family(self) -> str:
        """The name of its family."""
        ...

    @property
    def resource_id(self) -> str:
        """The name of the link it is on: what it shares with others."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """Capability flags, such as ``"setpoint"``, ``"tare"``."""
        ...

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        """What it can tell or be told."""
        ...

    async def open(self) -> Identity:
        """Make sure that the right device answers; read-only; may be called again."""
        ...

    async def poll(self) -> Sequence[Reading]:
        """Read what the device offers, in as few exchanges as it allows."""
        ...

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        """Write one field and read it back, in one or two exchanges of that priority."""
        ...


class AdapterFamily(Protocol):
    """A kind of instrument: the object that an entry point in ``capa.adapters`` names."""

    @property
    def name(self) -> str:
        """The name used in ``adapter = "..."``."""
        ...

    @property
    def title(self) -> str:
        """What a person calls it."""
        ...

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        """Return what such a device can tell or be told; needs no link.

        Raises:
            ValueError: ``spec.options`` or ``spec.address`` do not fit the family; a pydantic
                ``ValidationError`` is one.
        """
        ...

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        """Make the driver of one device."""
        ...

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        """Make the simulator of one device."""
        ...
