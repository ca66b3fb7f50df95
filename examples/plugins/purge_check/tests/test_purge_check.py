"""The custom step on a context made by hand, in virtual time."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from purge_check.procedure import PURGE, PurgeCheckRunner
from trio.testing import MockClock

from capa.channels.registry import Binding, ChannelRegistry, ResolvedChannel
from capa.channels.sample import Sample, Status
from capa.channels.spec import ChannelSpec
from capa.clock import RunClock
from capa.config.experiment import ExperimentConfig
from capa.config.load import load_method
from capa.devices.adapter import CommandResult, DeviceCommand
from capa.experiment.authorization import Authorization
from capa.experiment.executor import MethodExecutor, MethodExecutorError
from capa.experiment.method import Method
from capa.experiment.procedures.base import ProcedureContext
from capa.runtime.databus import DataBus
from capa.storage.memory import MemoryBundleWriter

PARAMS = {"channel": "purge.flow", "flow": 200.0, "steady_s": 5.0, "timeout_s": 30.0}


@dataclass
class Gate:
    """A dispatcher that keeps the order of commands."""

    answer: CommandResult = field(default_factory=lambda: CommandResult(accepted=True))
    commands: list[DeviceCommand] = field(default_factory=list)

    async def dispatch(self, device: str, command: DeviceCommand) -> CommandResult:
        self.commands.append(command)
        return self.answer


@dataclass
class Bench:
    """The procedure, its context, and the flow that the gauge shows."""

    gate: Gate = field(default_factory=Gate)
    bus: DataBus = field(default_factory=DataBus)
    params: dict[str, Any] = field(default_factory=lambda: dict(PARAMS))

    def context(self) -> ProcedureContext:
        steps = [
            {"kind": "custom", "handler_id": PURGE, "params": self.params},
            {"kind": "setpoint", "target": {"name": "heater.setpoint"}, "value": 150.0},
        ]
        method = Method.model_validate({"name": "m", "steps": steps})
        executor = MethodExecutor()
        executor.ctx = ProcedureContext(
            clock=RunClock.start(),
            config=ExperimentConfig(method=method),
            bundle_writer=MemoryBundleWriter(),
            databus=self.bus,
            logger=structlog.get_logger(),
            external_stop=trio.Event(),
            instruments=ChannelRegistry([channel("purge.flow"), channel("heater.setpoint")]),
            authorization=Authorization.mint("maria"),
            dispatcher=self.gate,
            method_executor=executor,
        )
        return executor.ctx

    async def run(self, flows: dict[float, float], ctx: ProcedureContext | None = None) -> None:
        """Run the procedure while the gauge shows, from second t on, ``flows[t]``."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show, flows)
            await PurgeCheckRunner.from_config({}).run(ctx or self.context())
            nursery.cancel_scope.cancel()

    async def _show(self, flows: dict[float, float]) -> None:
        """Publish twice a second; NaN is a gauge whose sensor has failed."""
        while True:
            known = [value for at_s, value in flows.items() if at_s <= trio.current_time()]
            if known:
                status = Status.SENSOR_FAIL if math.isnan(known[-1]) else Status.OK
                now_s = trio.current_time()
                self.bus.publish([Sample("purge.flow", known[-1], now_s, status)])
            await trio.sleep(0.5)


def channel(name: str) -> ResolvedChannel:
    spec = ChannelSpec(
        name=name, kind="other", unit="1", device="d", field="f", command="set_setpoint"
    )
    return ResolvedChannel(name, spec, Binding("d", "f", "set_setpoint"))


def targets(gate: Gate) -> list[str]:
    return [command.target for command in gate.commands]


async def test_the_heater_is_commanded_only_after_the_flow_was_steady(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    ctx = bench.context()
    await bench.run({0.0: 0.0, 4.0: 195.0}, ctx)
    assert targets(bench.gate) == ["purge.flow", "heater.setpoint"]
    assert 9.0 <= trio.current_time() < 10.0
    assert isinstance(ctx.bundle_writer, MemoryBundleWriter)
    assert "purge_check.purged" in ctx.bundle_writer.kinds


@pytest.mark.parametrize(
    "flows", [{}, {0.0: 0.0}, {0.0: 250.0}, {0.0: math.nan}, {t: t % 8 * 50.0 for t in range(40)}]
)
async def test_without_a_steady_flow_nothing_heats(
    autojump_clock: MockClock, flows: dict[float, float]
) -> None:
    bench = Bench()
    with pytest.RaisesGroup(
        pytest.RaisesExc(MethodExecutorError, match=r"purge\.flow was not within 20 of 200")
    ):
        await bench.run(flows)
    assert targets(bench.gate) == ["purge.flow"]
    assert trio.current_time() == pytest.approx(30.0)


async def test_a_stop_ends_the_purge_and_the_method(autojump_clock: MockClock) -> None:
    bench = Bench()
    ctx = bench.context()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, {0.0: 0.0}, ctx)
        await trio.sleep(2.0)
        ctx.external_stop.set()
    assert targets(bench.gate) == ["purge.flow"]
    assert trio.current_time() == pytest.approx(2.0, abs=0.3)


async def test_a_refused_purge_fails_the_step(autojump_clock: MockClock) -> None:
    bench = Bench(Gate(CommandResult(accepted=False, detail="above limits.max")))
    with pytest.RaisesGroup(pytest.RaisesExc(MethodExecutorError, match="above limits")):
        await bench.run({0.0: 200.0})


async def test_a_misspelt_parameter_fails_the_step_before_any_command(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(params={**PARAMS, "flwo": 3.0})
    with pytest.RaisesGroup(pytest.RaisesExc(MethodExecutorError, match="flwo")):
        await bench.run({})
    assert bench.gate.commands == []


def test_the_method_beside_it_uses_the_step_that_the_procedure_declares() -> None:
    folder = Path(__file__).parents[1] / "methods"
    method = load_method(folder / "purged_soak.method.toml")
    used = {step.handler_id for step in method.steps if step.kind == "custom"}
    assert used == set(PurgeCheckRunner.custom_handler_ids)
