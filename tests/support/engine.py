"""A small rig of twins on memory links, and contexts for the executor: all in virtual time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
import trio
from structlog.typing import FilteringBoundLogger
from trio.testing import MockClock

from adapters.alicat import FAMILY as ALICAT
from adapters.links.link import StreamLink
from adapters.sartorius import FAMILY as SARTORIUS
from adapters.twin.memory import TwinHandle, twin_connectors
from adapters.watlow import FAMILY as WATLOW
from capa.channels.registry import Binding, ChannelRegistry, ResolvedChannel
from capa.channels.sample import Sample, Status
from capa.channels.spec import ChannelSpec
from capa.clock import RunClock
from capa.config.experiment import ExperimentConfig, ProcedureRef
from capa.config.hardware import HardwareProfile
from capa.devices.adapter import AdapterFamily, CommandResult, DeviceCommand
from capa.experiment.authorization import Authorization
from capa.experiment.executor import MethodExecutor
from capa.experiment.method import Method
from capa.experiment.procedures.base import ProcedureContext
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.runtime.conductor import Conductor
from capa.runtime.databus import DataBus
from capa.runtime.report import RunRequest
from capa.runtime.rig import Rig, open_rig
from capa.runtime.stop import StopSignal
from capa.storage.memory import MemoryBundleWriter

FAMILIES: dict[str, AdapterFamily] = {
    "watlow": WATLOW,
    "alicat": ALICAT,
    "sartorius": SARTORIUS,
}
SAFE = {"heater.setpoint": 20.0, "purge.flow": 0.0}
PROFILE_FILE = "bench.toml"

ResultT = TypeVar("ResultT")


def profile(**changes: object) -> HardwareProfile:
    """A furnace and a gas line on wires of their own, a balance on a third."""
    table: dict[str, Any] = {
        "name": "bench",
        "links": [
            {"name": "oven", "port": "oven"},
            {"name": "gas", "port": "gas", "baud": 19200},
            {"name": "scale", "port": "scale"},
        ],
        "devices": [
            {
                "name": "furnace",
                "adapter": "watlow",
                "link": "oven",
                "address": 1,
                "poll_hz": 5.0,
                "twin": {"registers": {2494: 59}},  # saving is off: nothing to be enforced
            },
            {
                "name": "mfc",
                "adapter": "alicat",
                "link": "gas",
                "address": "A",
                "poll_hz": 5.0,
            },
            {
                "name": "balance",
                "adapter": "sartorius",
                "link": "scale",
                "poll_hz": 5.0,
                "options": {"unit": "g"},
            },
        ],
        "channels": [
            {
                "name": "heater.setpoint",
                "kind": "temperature",
                "unit": "degC",
                "device": "furnace",
                "field": "setpoint",
                "command": "set_setpoint",
                "limits": {"min": 0.0, "max": 700.0},
            },
            {
                "name": "heater.pv",
                "kind": "temperature",
                "unit": "degC",
                "device": "furnace",
                "field": "pv",
                "stale_after_s": 3.0,
            },
            {
                "name": "purge.flow",
                "kind": "flow",
                "unit": "sccm",
                "device": "mfc",
                "field": "flow",
                "command": "set_setpoint",
                "limits": {"min": 0.0, "max": 400.0, "max_rate_per_s": 20.0},
            },
            {
                "name": "balance.mass",
                "kind": "mass",
                "unit": "g",
                "device": "balance",
                "field": "mass",
            },
            {
                "name": "loss",
                "kind": "fraction",
                "unit": "1",
                "derived": {"kind": "loss_fraction", "of": "balance.mass"},
            },
        ],
        "safe_state": [{"set": SAFE}],
    }
    return HardwareProfile.model_validate({**table, **changes})


def quiet_log() -> FilteringBoundLogger:
    """A logger that keeps its peace."""
    log: FilteringBoundLogger = structlog.wrap_logger(None, processors=[_drop])
    return log


def _drop(_logger: object, _method: str, _event: object) -> str:
    raise structlog.DropEvent


@asynccontextmanager
async def bench_rig(
    of: HardwareProfile | None = None, *, log: FilteringBoundLogger | None = None
) -> AsyncIterator[tuple[Rig, TwinHandle]]:
    """Open the bench on its twins, once every device that can has answered."""
    wanted = profile() if of is None else of
    connectors, twins = twin_connectors(wanted, FAMILIES)
    async with open_rig(
        wanted,
        families=FAMILIES,
        link_class=StreamLink,
        connectors=connectors,
        log=quiet_log() if log is None else log,
        profile_file=PROFILE_FILE,
    ) as rig:
        await rig.wait_answering(5.0)
        yield rig, twins


def virtual(scenario: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Run a scenario in virtual time; for ``@given``, which does not mix with the fixture."""
    return trio.run(scenario, clock=MockClock(autojump_threshold=0))


@dataclass
class Sealed:
    """What a finalizer that does nothing says."""

    bundle_status: str = "sealed"
    detail: str = ""


async def no_finalizer(_path: Path) -> Sealed:
    """Stand in for the child process: virtual time can't wait for one."""
    await trio.lowlevel.checkpoint()
    return Sealed()


def conductor(rig: Rig, runs: Path, **changes: object) -> Conductor:
    """A conductor whose recorder works in the loop, so that virtual time stays in hand."""
    settings: dict[str, Any] = {
        "procedures": {one.id: one for one in (RecipeRunner, FreeRun)},
        "grace_s": 5.0,
        "safing_budget_s": 5.0,
        "log": quiet_log(),
        "finalize": no_finalizer,
        "threaded": False,
    }
    return Conductor(rig, runs_root=runs, **{**settings, **changes})


def method(*steps: Mapping[str, Any], name: str = "trial") -> Method:
    """Make a method of step tables."""
    return Method.model_validate({"name": name, "steps": steps})


def request(
    of: Method | None, *, procedure: str = RecipeRunner.id, config: dict[str, Any] | None = None
) -> RunRequest:
    """Ask for a run."""
    reference = ProcedureRef(id=procedure, config=config or {})
    return RunRequest(
        experiment=ExperimentConfig(method=of, procedure=reference),
        source_name="trial.method.toml",
        method_text=None,
        hardware_text="name = 'bench'",
        config_text="",
        operator_id="maria",
    )


# --- a context without a rig, for the executor's own tests --------------------------------------


@dataclass
class FakeDispatcher:
    """Takes commands instantly, or after ``latency_s``; refuses or raises where it is told to."""

    latency_s: float = 0.0
    refuse: dict[str, str] = field(default_factory=dict)
    explode: dict[str, Exception] = field(default_factory=dict)
    sent: list[tuple[float, str, float]] = field(default_factory=list)
    commands: list[DeviceCommand] = field(default_factory=list)

    async def dispatch(self, device: str, command: DeviceCommand) -> CommandResult:
        self.commands.append(command)
        channel, value = command.payload["channel"], command.payload["value"]
        self.sent.append((trio.current_time(), channel, value))
        await trio.sleep(self.latency_s)
        if channel in self.explode:
            raise self.explode[channel]
        if channel in self.refuse:
            return CommandResult(accepted=False, detail=self.refuse[channel])
        return CommandResult(accepted=True)

    @property
    def values(self) -> list[float]:
        return [value for _, _, value in self.sent]


@dataclass
class Bench:
    """An executor with everything around it that it can see."""

    executor: MethodExecutor
    ctx: ProcedureContext
    bus: DataBus
    dispatcher: FakeDispatcher
    bundle: MemoryBundleWriter
    stop: StopSignal

    def publish(self, channel: str, value: float, status: Status = Status.OK) -> None:
        self.bus.publish([Sample(channel, value, trio.current_time(), status)])

    def kinds(self, prefix: str = "method.") -> list[str]:
        return [kind for kind in self.bundle.kinds if kind.startswith(prefix)]


def bench(of: Method | None = None) -> Bench:
    """Make an executor on a fake dispatcher and a real bus; needs a running loop."""
    bundle, bus, dispatcher, stop = MemoryBundleWriter(), DataBus(), FakeDispatcher(), StopSignal()
    executor = MethodExecutor()
    ctx = ProcedureContext(
        clock=RunClock.start(),
        config=ExperimentConfig(method=of),
        bundle_writer=bundle,
        databus=bus,
        logger=quiet_log(),
        external_stop=stop,
        instruments=_registry(),
        authorization=Authorization.mint("maria"),
        dispatcher=dispatcher,
        method_executor=executor,
        metadata={},
    )
    executor.ctx = ctx
    return Bench(executor, ctx, bus, dispatcher, bundle, stop)


def _registry() -> ChannelRegistry:
    specs = profile().channels
    return ChannelRegistry([ResolvedChannel(one.name, one, _binding(one)) for one in specs])


def _binding(spec: ChannelSpec) -> Binding | None:
    if spec.device is None or spec.field is None:
        return None
    return Binding(spec.device, spec.field, command=spec.command, command_field="setpoint")
