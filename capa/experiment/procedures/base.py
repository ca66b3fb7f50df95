"""What a procedure is, and everything the engine hands to one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from capa.channels.spec import ChannelKind
from capa.clock import RunClock
from capa.config.problems import Problem
from capa.errors import CapaError
from capa.experiment.procedures.live import OperatorCommand, ProcedureTick

if TYPE_CHECKING:
    from capa.channels.registry import ChannelRegistry
    from capa.channels.sample import Sample
    from capa.config.experiment import ExperimentConfig
    from capa.devices.adapter import CommandResult, DeviceCommand, FieldInfo
    from capa.experiment.executor import MethodExecutor

__all__ = [
    "AdapterView",
    "ChannelRequirement",
    "DataSource",
    "Dispatcher",
    "EventWriter",
    "Feed",
    "InnerOutcome",
    "InnerRun",
    "InnerRuns",
    "Issuer",
    "OperatorCommand",
    "Problem",
    "Procedure",
    "ProcedureContext",
    "ProcedureError",
    "ProcedureTick",
    "ResolvedRecordingPlan",
    "Stop",
    "declared_handlers",
]


class ProcedureError(CapaError):
    """The run is structurally misconfigured; raised in preflight it is one blocking problem."""


@dataclass(frozen=True, slots=True)
class ChannelRequirement:
    """A channel that a procedure can't run without.

    ``name`` asks for that very channel, ``kind`` for any (or that) channel of a kind; a
    ``commandable`` one must take a command.
    """

    name: str | None = None
    kind: ChannelKind | None = None
    commandable: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedRecordingPlan:
    """Which channels and cameras a run records."""

    channel_mode: Literal["all", "only"] = "all"
    recorded_channels: tuple[str, ...] = ()
    camera_mode: Literal["all", "only", "none"] = "all"
    recorded_cameras: tuple[str, ...] = ()
    source: str = "hardware_profile"


class Stop(Protocol):
    """A stop request; ``anyio.Event`` and ``trio.Event`` will do in a test."""

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        ...

    async def wait(self) -> object:
        """Return once a stop is asked for."""
        ...

    def set(self) -> object:
        """Ask for a stop."""
        ...


class EventWriter(Protocol):
    """The part of the bundle writer that procedures use."""

    def write_event(
        self,
        *,
        kind: str,
        message: str,
        severity: Literal["debug", "info", "warning", "error", "critical"] = "info",
        source: str,
        t_mono_ns: int,
        t_utc: datetime,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the bundle; never blocks."""
        ...


class Dispatcher(Protocol):
    """The gate: the only way to the devices."""

    async def dispatch(self, device: str, command: "DeviceCommand") -> "CommandResult":
        """Let a command through or refuse it; a refusal is a result, not an exception."""
        ...


class Issuer(Protocol):
    """The part of the run's authorization that procedures use."""

    @property
    def id(self) -> str:
        """16 hexadecimal digits, in every event of a command."""
        ...

    @property
    def issued_by(self) -> str:
        """In whose name the run commands."""
        ...

    @property
    def armed(self) -> bool:
        """Whether it still stands."""
        ...

    def issue(self, *, kind: str, target: str, payload: Mapping[str, Any]) -> "DeviceCommand":
        """Return a stamped command for the dispatcher.

        Raises:
            AuthorizationError: the run is over.
        """
        ...


class Feed(Protocol):
    """A subscription to channels; enter it with ``with``."""

    def __enter__(self) -> "Feed": ...
    def __exit__(self, *exc: object) -> None: ...
    async def get(self) -> "list[Sample]":
        """Wait for at least one sample; take all that wait."""
        ...


class DataSource(Protocol):
    """The part of the data bus that procedures use."""

    def latest(self, channel: str) -> "Sample | None":
        """Return the newest sample; None before the first."""
        ...

    def age_s(self, channel: str) -> float | None:
        """Return the newest sample's age; None before the first."""
        ...

    def subscribe(self, *channels: str, maxlen: int = 1024) -> Feed:
        """Return a subscription to enter with ``with``."""
        ...


@dataclass(frozen=True, slots=True)
class AdapterView:
    """What may be known of a device. There is no way from here to its wires."""

    name: str
    family: str
    resource_id: str
    capabilities: frozenset[str]
    fields: "Mapping[str, FieldInfo]"


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerRun:
    """A run that a procedure wants inside its own; ``label`` names it to people."""

    experiment: "ExperimentConfig"
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerOutcome:
    """How an inner run ended. A refused one has no run id, and the problems that refused it.

    ``unreachable`` are the outputs that could not be brought to their safe values afterwards.
    """

    run_id: str | None
    run_status: Literal["completed", "aborted", "crashed", "refused"]
    bundle_status: str
    exit_reason: str
    unreachable: tuple[str, ...] = ()


class InnerRuns(Protocol):
    """Runs inside a run: each a whole one, with its own authorization, bundle and safe state.

    While one is under way, its authorization is in force and the outer run's is not. A stop
    ends both.
    """

    async def check(self, run: InnerRun) -> list[Problem]:
        """Return what would refuse this run for its own sake, without touching the rig."""
        ...

    async def run(self, run: InnerRun) -> InnerOutcome:
        """Conduct a run to its end, however it ends; only from within ``run``, one at a time."""
        ...


@dataclass(slots=True, kw_only=True)
class ProcedureContext:
    """All that a procedure gets: one run's clock, rig, rights and records.

    ``metadata`` is the run's scratch pad, shared with the operator's surface (a prompt is
    confirmed by setting ``_prompt_confirmed`` there). ``ui_sink`` and ``operator_commands`` are
    None where nobody watches; ``runs`` is None inside an inner run. In preflight ``bundle_writer``
    refuses: there is no bundle yet.
    """

    clock: RunClock
    config: "ExperimentConfig"
    bundle_writer: EventWriter
    databus: DataSource
    logger: Any
    external_stop: Stop
    instruments: "ChannelRegistry"
    adapters: Mapping[str, AdapterView] = field(default_factory=dict)
    authorization: Issuer
    dispatcher: Dispatcher
    method_executor: "MethodExecutor | None" = None
    metadata: dict[str, Any] = field(default_factory=dict)
    ui_sink: Any = None
    operator_commands: Any = None
    runs: InnerRuns | None = None


class Procedure(Protocol):
    """The code that drives one run from start to finish.

    Optional besides what is declared: ``from_config(raw)``, ``plan_capture(default_plan)`` and
    the class variable ``custom_handler_ids`` (the step handlers it will register).
    """

    id: ClassVar[str]
    name: ClassVar[str]
    version: ClassVar[str]
    config_model: ClassVar[type[BaseModel]]
    required_capabilities: ClassVar[tuple[str, ...]]
    required_channels: ClassVar[tuple[ChannelRequirement, ...]]
    uses_method: ClassVar[bool]

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        """Say what stands against arming, without touching the rig; empty means good to arm.

        Raises:
            ProcedureError: the run is structurally misconfigured.
        """
        ...

    async def run(self, ctx: ProcedureContext) -> None:
        """Drive the run; return for completed, raise for crashed, leave on ``external_stop``."""
        ...


def declared_handlers(procedure: type[Procedure]) -> frozenset[str] | None:
    """Return the custom steps that a procedure says it handles; None where it says nothing.

    A declaration speaks for the ``run`` it stands beside: a subclass with a ``run`` of its own
    may register more, and has to declare them again.
    """
    for cls in procedure.__mro__:
        if "custom_handler_ids" in vars(cls):
            return frozenset(vars(cls)["custom_handler_ids"])
        if "run" in vars(cls):
            return None
    return None
