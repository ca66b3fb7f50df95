"""The procedure on a context made by hand: no rig, no bundle on disk, no waiting."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
import trio
from hello_procedure.procedure import HoldSetpoint
from pydantic import ValidationError
from trio.testing import MockClock

from capa.channels.registry import Binding, ChannelRegistry, ResolvedChannel
from capa.channels.spec import ChannelSpec
from capa.clock import RunClock
from capa.config.experiment import ExperimentConfig
from capa.devices.adapter import CommandResult, DeviceCommand
from capa.experiment.authorization import Authorization
from capa.experiment.procedures.base import ProcedureContext
from capa.storage.memory import MemoryBundleWriter

CONFIG = {"target_channel": "heater.setpoint", "value": 250.0, "duration_s": 600.0}


@dataclass
class Gate:
    """A dispatcher that keeps what it is given and answers as told."""

    answer: CommandResult = field(default_factory=lambda: CommandResult(accepted=True))
    commands: list[DeviceCommand] = field(default_factory=list)

    async def dispatch(self, device: str, command: DeviceCommand) -> CommandResult:
        assert device == "furnace"
        self.commands.append(command)
        return self.answer


def channel(name: str, command: str | None = None) -> ResolvedChannel:
    parts: dict[str, Any] = {"device": "furnace", "field": "setpoint", "command": command}
    spec = ChannelSpec(name=name, kind="temperature", unit="degC", **parts)
    return ResolvedChannel(name, spec, Binding("furnace", "setpoint", command))


def context(gate: Gate) -> ProcedureContext:
    return ProcedureContext(
        clock=RunClock.start(),
        config=ExperimentConfig(),
        bundle_writer=MemoryBundleWriter(),
        databus=None,  # type: ignore[arg-type]  # this procedure reads no channel
        logger=structlog.get_logger(),
        external_stop=trio.Event(),
        instruments=ChannelRegistry(
            [channel("heater.setpoint", "set_setpoint"), channel("heater.pv")]
        ),
        authorization=Authorization.mint("maria"),
        dispatcher=gate,
    )


def kinds(ctx: ProcedureContext) -> list[str]:
    assert isinstance(ctx.bundle_writer, MemoryBundleWriter)
    return ctx.bundle_writer.kinds


async def test_it_commands_once_and_holds_for_its_time(autojump_clock: MockClock) -> None:
    gate = Gate()
    ctx = context(gate)
    await HoldSetpoint.from_config(CONFIG).run(ctx)
    assert trio.current_time() == pytest.approx(600.0)
    (command,) = gate.commands
    assert command.payload["value"] == 250.0
    assert ctx.authorization.issued(command)
    assert kinds(ctx) == ["hello.setpoint.commanded", "hello.ended"]


async def test_a_stop_ends_it_at_once(autojump_clock: MockClock) -> None:
    ctx = context(Gate())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(HoldSetpoint.from_config(CONFIG).run, ctx)
        await trio.sleep(5.0)
        ctx.external_stop.set()
    assert trio.current_time() == pytest.approx(5.0)


async def test_a_refused_setpoint_crashes_the_run(autojump_clock: MockClock) -> None:
    gate = Gate(CommandResult(accepted=False, detail="above limits.max"))
    with pytest.raises(RuntimeError, match=r"above limits\.max"):
        await HoldSetpoint.from_config(CONFIG).run(context(gate))


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("heater.setpoint", []),
        ("heater.pv", ["hello.not_commandable"]),
        ("heater.setpt", ["hello.unknown_channel"]),
    ],
)
async def test_preflight_wants_a_channel_that_takes_commands(name: str, codes: list[str]) -> None:
    procedure = HoldSetpoint.from_config({**CONFIG, "target_channel": name})
    problems = await procedure.preflight(context(Gate()))
    assert [problem.code for problem in problems] == codes


@pytest.mark.parametrize("wrong", [{"duration_s": 0.0}, {"valeu": 1.0}, {"value": float("nan")}])
def test_a_config_with_a_mistake_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        HoldSetpoint.from_config({**CONFIG, **wrong})
