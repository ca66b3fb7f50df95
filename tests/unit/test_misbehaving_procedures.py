"""Procedures that do what they should not: the rig is safe, and the record says who did what."""

import json
import math
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import anyio
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from capa.config.problems import Problem
from capa.devices.adapter import CommandResult
from capa.experiment.authorization import Authorization, AuthorizationError
from capa.experiment.executor import MethodExecutor
from capa.experiment.method import CustomStep
from capa.experiment.procedures.base import (
    OperatorCommand,
    Procedure,
    ProcedureContext,
    ResolvedRecordingPlan,
    declared_handlers,
)
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.runtime.report import RunReport
from capa.runtime.safe_state import all_proven
from tests.support.engine import bench_rig, conductor, method, request


class Script(RecipeRunner):
    """A procedure to be made misbehave."""

    id: ClassVar[str] = "test.script"

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        return []


async def run_of(
    procedure: type[Procedure], runs: Path, *, stop_after_s: float | None = None
) -> RunReport:
    """Run a procedure to its end; whatever it does, the rig ends safe."""
    async with bench_rig() as (rig, twins):
        one = conductor(rig, runs, procedures={procedure.id: procedure})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run, request(None, procedure=procedure.id))
            if stop_after_s is not None:
                await trio.sleep(stop_after_s)
                one.stop("SIGINT")
        report = one.last_report
        assert report is not None
        if report.run_status != "refused":
            await trio.sleep(1)
            assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
            assert all_proven(report.verdicts)
    return report


def events(report: RunReport, kind: str) -> list[tuple[str, str]]:
    assert report.bundle is not None
    db = sqlite3.connect(report.bundle / "events.sqlite")
    rows = db.execute("select severity, message from events where kind = ?", (kind,)).fetchall()
    db.close()
    return rows


async def command(ctx: ProcedureContext, channel: str, value: float) -> CommandResult:
    issued = ctx.authorization.issue(
        kind="set_setpoint",
        target=channel,
        payload={"value": value, "channel": channel, "device": "furnace"},
    )
    return await ctx.dispatcher.dispatch("furnace", issued)


# --- misbehaviour ---------------------------------------------------------------------------------


async def test_an_error_out_of_a_task_group_is_told_for_what_it_is(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Grouped(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
                outer.start_soon(anyio.sleep, 5)
                inner.start_soon(self._fails)

        async def _fails(self) -> None:
            raise ValueError("no flow through the purge line")

    report = await run_of(Grouped, tmp_path)
    assert report.run_status == "crashed"
    assert report.exit_reason == "ValueError: no flow through the purge line"
    ((_, message),) = events(report, "run.crashed")
    assert message == report.exit_reason


async def test_a_from_config_that_returns_nothing_is_refused_in_words(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Forgetful(Script):
        @classmethod
        def from_config(cls, raw: dict[str, Any] | None) -> Self:
            return None  # type: ignore[return-value]  # the mistake

    report = await run_of(Forgetful, tmp_path)
    assert report.run_status == "refused"
    assert report.exit_reason == (
        "test.script: from_config returned None; return an instance of the class, as in "
        "`return cls(...)`"
    )


async def test_a_subclass_with_settings_and_without_from_config_gets_them_by_their_names(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Config(BaseModel):
        seconds: float

    @dataclass
    class Timed(Script):
        config_model: ClassVar[type[BaseModel]] = Config
        seconds: float = 0.0

        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep(self.seconds)

    began_s = trio.current_time()
    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Timed.id: Timed})
        report = await one.run(request(None, procedure=Timed.id, config={"seconds": 30}))
    assert report.run_status == "completed"
    assert trio.current_time() - began_s >= 30


async def test_a_procedure_that_raises_when_it_is_made_is_refused_by_name(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Unmade(Script):
        @classmethod
        def from_config(cls, raw: dict[str, Any] | None) -> "Unmade":
            raise RuntimeError("no licence")

    report = await run_of(Unmade, tmp_path)
    assert report.run_status == "refused"
    assert report.exit_reason.startswith("test.script: from_config raised RuntimeError: no licence")


async def test_a_procedure_that_blocks_the_loop_is_named_with_how_long_it_did(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Blocker(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep(1)
            time.sleep(0.8)  # noqa: ASYNC251 - blocking is what it is here for
            await trio.sleep(1)

    report = await run_of(Blocker, tmp_path)
    assert report.run_status == "completed"
    ((severity, message),) = events(report, "run.loop_blocked")
    assert severity == "warning"
    assert message.startswith("the loop was blocked for 0.")
    assert "while test.script ran" in message
    assert report.ladder[0].words.startswith("the loop was blocked for 0.")


async def test_a_block_right_at_the_end_is_seen_as_well(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Blocker(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep(1)
            time.sleep(0.8)  # noqa: ASYNC251 - blocking is what it is here for

    assert len(events(await run_of(Blocker, tmp_path), "run.loop_blocked")) == 1


async def test_a_block_before_the_first_await_is_seen_as_well(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Blocker(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            time.sleep(0.8)  # noqa: ASYNC251 - blocking is what it is here for
            await trio.sleep(1)

    ((_, message),) = events(await run_of(Blocker, tmp_path), "run.loop_blocked")
    assert "while test.script ran" in message


async def test_a_preflight_that_blocks_the_loop_beyond_its_time_is_refused_by_name(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blocker(Script):
        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            time.sleep(0.4)  # noqa: ASYNC251 - blocking is what it is here for
            return []

    monkeypatch.setattr("capa.runtime.preparing.PREFLIGHT_BUDGET_S", 0.3)
    report = await run_of(Blocker, tmp_path)
    assert report.run_status == "refused"
    assert "test.script: preflight did not return within 0.3 s" in report.exit_reason


async def test_a_block_before_the_run_is_a_warning_in_the_bundle_with_its_name(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Blocker(Script):
        @classmethod
        def from_config(cls, raw: dict[str, object] | None) -> Self:
            time.sleep(0.6)
            return cls()

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            time.sleep(0.8)  # noqa: ASYNC251 - blocking is what it is here for
            return []

        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep(1)

    report = await run_of(Blocker, tmp_path)
    assert report.run_status == "completed"
    (_, first), (_, second) = events(report, "run.problem")
    assert first.startswith("test.script: from_config or plan_capture blocked the loop for 0.")
    assert second.startswith("test.script: preflight blocked the loop for 0.")
    assert "to_thread.run_sync" in second


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_procedure_that_calls_exit_has_crashed_and_the_daemon_lives(
    autojump_clock: MockClock, tmp_path: Path, *, grouped: bool
) -> None:
    class Leaver(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            if grouped:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 5)
                    sys.exit(3)
            sys.exit(3)

    report = await run_of(Leaver, tmp_path)
    assert report.run_status == "crashed"
    assert report.exit_reason.startswith("SystemExit: 3")


@pytest.mark.parametrize("where", ["from_config", "plan_capture", "preflight"])
async def test_a_procedure_that_calls_exit_before_its_run_is_refused_by_name(
    autojump_clock: MockClock, tmp_path: Path, where: str
) -> None:
    class Leaver(Script):
        @classmethod
        def from_config(cls, raw: dict[str, Any] | None) -> Self:
            return sys.exit(3) if where == "from_config" else super().from_config(raw)

        def plan_capture(self, default_plan: ResolvedRecordingPlan) -> ResolvedRecordingPlan:
            return sys.exit(3) if where == "plan_capture" else default_plan

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            return sys.exit(3) if where == "preflight" else []

    report = await run_of(Leaver, tmp_path)
    assert report.run_status == "refused"
    assert f"test.script: {where} raised SystemExit: 3" in report.exit_reason


async def test_a_procedure_that_raises_after_the_stop_has_crashed_all_the_same(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Sore(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            await ctx.external_stop.wait()
            raise KeyError("spectrum")

    report = await run_of(Sore, tmp_path, stop_after_s=5)
    assert (report.run_status, report.exit_reason) == ("crashed", "KeyError: 'spectrum'")


async def test_a_procedure_that_commands_after_its_run_gets_nothing_through(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    kept: list[ProcedureContext] = []
    kept_command: list[Any] = []

    class Haunting(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            kept.append(ctx)
            payload = {"value": 300.0, "channel": "heater.setpoint", "device": "furnace"}
            kept_command.append(
                ctx.authorization.issue(
                    kind="set_setpoint", target="heater.setpoint", payload=payload
                )
            )

    async with bench_rig() as (rig, twins):
        one = conductor(rig, tmp_path, procedures={Script.id: Haunting})
        await one.run(request(None, procedure=Script.id))
        with pytest.raises(AuthorizationError, match="the run is over"):
            await command(kept[0], "heater.setpoint", 300.0)
        late = await kept[0].dispatcher.dispatch("furnace", kept_command[0])
        assert not late.accepted
        await trio.sleep(1)
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)


@pytest.mark.parametrize(
    ("channel", "value", "said"),
    [
        ("heater.setpoint", math.nan, "is not a finite number"),
        ("heater.setpoint", math.inf, "is not a finite number"),
        ("heater.setpoint", 9000.0, "limits.max"),
        ("heter.setpoint", 100.0, "has no channel heter.setpoint"),
        ("heater.pv", 100.0, "can't be commanded"),
    ],
)
async def test_a_command_that_makes_no_sense_is_refused_and_on_record(
    autojump_clock: MockClock, tmp_path: Path, channel: str, value: float, said: str
) -> None:
    class Careless(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            result = await command(ctx, channel, value)
            assert not result.accepted
            assert said in result.detail

    report = await run_of(Careless, tmp_path)
    assert report.run_status == "completed"
    ((_, message),) = events(report, "command.refused")
    assert said in message


PROMISED = {
    "dispatcher": {"dispatch"},
    "authorization": {"id", "issued_by", "armed", "issue"},
    "databus": {"latest", "age_s", "subscribe"},
    "bundle_writer": {"write_event", "run_id", "path"},
}
"""What of the engine's parts a procedure may use; the rest of them is not to be had."""


@pytest.mark.parametrize("part", PROMISED)
async def test_a_procedure_sees_of_the_engine_what_it_is_promised_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path, part: str
) -> None:
    class Prying(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            view = getattr(ctx, part)
            assert {name for name in dir(view) if not name.startswith("__")} == PROMISED[part]
            for name in ("publish", "latch", "_run", "_gate"):
                with pytest.raises(AttributeError):
                    setattr(view, name, None)

    assert (await run_of(Prying, tmp_path)).run_status == "completed"


@pytest.mark.parametrize(
    ("part", "call"),
    [
        ("dispatcher", lambda gate: gate.release()),
        ("dispatcher", lambda gate: gate.note("heater.setpoint", 20.0)),
        ("dispatcher", lambda gate: gate.admit_manual(Authorization.mint("nobody"))),
        ("dispatcher", lambda gate: gate.dispatch.__self__._rig),
        ("authorization", lambda own: own.issue_manual),
        ("authorization", lambda own: own.issue.__self__._issued),
        ("databus", lambda bus: bus.publish([])),
        ("bundle_writer", lambda bundle: bundle.close()),
        ("adapters", lambda devices: devices["furnace"].command("set_setpoint", 900.0)),
        ("adapters", lambda devices: devices["furnace"].fields.clear()),
        ("adapters", lambda devices: devices.clear()),
        ("instruments", lambda channels: channels.resolve("heater.setpoint").write(900.0)),
        ("instruments", lambda channels: channels.resolve("heater.setpoint").binding.write(900.0)),
    ],
)
async def test_the_way_around_the_dispatcher_is_none(
    autojump_clock: MockClock, tmp_path: Path, part: str, call: Callable[[Any], object]
) -> None:
    class Sly(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            call(getattr(ctx, part))

    report = await run_of(Sly, tmp_path)
    assert report.run_status == "crashed"
    assert "AttributeError" in report.exit_reason
    assert not events(report, "command.result")


async def test_the_fields_of_a_device_can_be_read_and_not_changed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Prying(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            furnace = ctx.adapters["furnace"]
            assert furnace.fields["setpoint"].unit == "degC"
            with pytest.raises(TypeError):
                furnace.fields["setpoint"] = None  # type: ignore[index]  # that is the point
            with pytest.raises(TypeError):
                ctx.adapters["furnace"] = furnace  # type: ignore[index]  # that is the point
            with pytest.raises(AttributeError):
                furnace.fields = {}  # type: ignore[misc]  # that is the point

    assert (await run_of(Prying, tmp_path)).run_status == "completed"


@pytest.mark.parametrize("name", ["command", "write", "poll", "_adapter", "adapter", "link"])
async def test_no_attribute_of_an_adapters_view_leads_to_the_driver(
    autojump_clock: MockClock, tmp_path: Path, name: str
) -> None:
    class Prying(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            view = ctx.adapters["furnace"]
            with pytest.raises(AttributeError):
                getattr(view, name)
            with pytest.raises((AttributeError, TypeError)):
                setattr(view, name, 1)

    assert (await run_of(Prying, tmp_path)).run_status == "completed"


async def test_an_operators_commands_are_received_in_both_ways_of_a_stream(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    heard: list[str] = []

    class Listening(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            heard.append((await ctx.operator_commands.receive()).kind)
            async for order in ctx.operator_commands:
                heard.append(order.kind)
                return

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Listening.id: Listening})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run, request(None, procedure=Listening.id))
            await trio.sleep(5)
            assert one.tell(OperatorCommand("pause", "maria"))
            await trio.sleep(1)
            assert one.tell(OperatorCommand("accept", "maria"))
    assert heard == ["pause", "accept"]
    assert one.last_report is not None
    assert one.last_report.run_status == "completed"


# --- the recording plan ---------------------------------------------------------------------------


async def test_the_recording_plan_is_asked_for_once_before_there_is_a_context(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    order: list[str] = []

    class Planner(Script):
        def plan_capture(self, default_plan: ResolvedRecordingPlan) -> None:
            assert default_plan.recorded_channels
            order.append("plan_capture")

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            order.append("preflight")
            return []

        async def run(self, ctx: ProcedureContext) -> None:
            order.append("run")
            await trio.sleep(2)

    report = await run_of(Planner, tmp_path)
    assert order == ["plan_capture", "preflight", "run"]
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert manifest["recorder"]["samples"] > 25  # None inherits: everything is recorded


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (RuntimeError("x"), "procedure.plan_capture_raised"),
        ("everything", "procedure.plan_capture_result"),
        (
            ResolvedRecordingPlan(channel_mode="only", recorded_channels=("heater.vp",)),
            "procedure.plan_capture_channel",
        ),
    ],
)
async def test_a_recording_plan_that_makes_no_sense_refuses_the_run(
    autojump_clock: MockClock, tmp_path: Path, plan: object, code: str
) -> None:
    class Planner(Script):
        def plan_capture(self, default_plan: ResolvedRecordingPlan) -> Any:  # noqa: ANN401 - rubbish is the point
            if isinstance(plan, Exception):
                raise plan
            return plan

    report = await run_of(Planner, tmp_path)
    assert report.run_status == "refused"
    assert [problem.code for problem in report.problems] == [code]


# --- custom steps ---------------------------------------------------------------------------------


PURGE = method({"kind": "custom", "handler_id": "lab.purge", "params": {"seconds": 1}})


class Purging(RecipeRunner):
    """Registers a handler, and does not say so."""

    id: ClassVar[str] = "test.purging"
    seen: ClassVar[list[dict[str, Any]]] = []

    async def run(self, ctx: ProcedureContext) -> None:
        assert ctx.method_executor is not None
        ctx.method_executor.custom_handlers["lab.purge"] = self._purge
        await super().run(ctx)

    async def _purge(self, _: MethodExecutor, step: CustomStep, __: ProcedureContext) -> None:
        self.seen.append(step.params)


class Saying(Purging):
    """Says which handlers it registers, and forgets one that the method wants."""

    id: ClassVar[str] = "test.saying"
    custom_handler_ids: ClassVar[tuple[str, ...]] = ("lab.purge_gas",)


async def test_a_subclass_of_the_recipe_runner_may_register_handlers_without_saying_so(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Purging.id: Purging})
        report = await one.run(request(PURGE, procedure=Purging.id))
    assert report.run_status == "completed"
    assert Purging.seen == [{"seconds": 1}]
    assert len(events(report, "run.problem")) == 1


async def test_a_handler_that_is_no_coroutine_is_told_so(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Plain(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            assert ctx.method_executor is not None
            handler: Any = lambda executor, step, ctx: None  # noqa: E731 - the mistake
            ctx.method_executor.custom_handlers["lab.purge"] = handler
            await super().run(ctx)

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Plain.id: Plain})
        report = await one.run(request(PURGE, procedure=Plain.id))
    assert report.run_status == "crashed"
    assert report.exit_reason == (
        "MethodExecutorError: the handler of 'lab.purge' must be `async def`: it returned None, "
        "which can't be awaited"
    )


@pytest.mark.parametrize("procedure", [RecipeRunner, Saying])
async def test_a_missing_handler_is_named_before_anything_heats(
    autojump_clock: MockClock, tmp_path: Path, procedure: type[Procedure]
) -> None:
    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={procedure.id: procedure})
        report = await one.run(request(PURGE, procedure=procedure.id))
    assert report.run_status == "refused"
    assert [problem.code for problem in report.problems] == ["method.unknown_handler"]


def test_a_declaration_speaks_for_the_run_that_it_stands_beside() -> None:
    class Renamed(RecipeRunner):
        id: ClassVar[str] = "test.renamed"

    assert declared_handlers(RecipeRunner) == frozenset()
    assert declared_handlers(Renamed) == frozenset()
    assert declared_handlers(Purging) is None
    assert declared_handlers(Saying) == frozenset({"lab.purge_gas"})


class Shielded(Script):
    """Heats, and lets nobody end it."""

    id: ClassVar[str] = "test.shielded"

    async def run(self, ctx: ProcedureContext) -> None:
        with trio.CancelScope(shield=True):
            await command(ctx, "heater.setpoint", 100.0)
            await trio.sleep(60)
            late = await command(ctx, "heater.setpoint", 150.0)
            assert not late.accepted


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_rig_is_made_safe_beside_a_procedure_that_shields_itself(
    autojump_clock: MockClock, tmp_path: Path, cancelled: bool
) -> None:
    async with bench_rig() as (rig, twins):
        one = conductor(rig, tmp_path, procedures={Shielded.id: Shielded})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run, request(None, procedure=Shielded.id))
            await trio.sleep(5)
            assert twins.outputs()["furnace.setpoint"] == pytest.approx(100.0, abs=0.1)
            one.stop("SIGINT")
            if cancelled:  # as a daemon that ends
                nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(30)
            assert one.progress is not None  # it is still at it
            assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
    report = one.last_report
    assert report is not None
    assert report.run_status == "crashed"
    assert any("shields itself" in str(rung) for rung in report.ladder)
