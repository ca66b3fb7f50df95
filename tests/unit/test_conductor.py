"""A run from arming to its report: how it ends, and what follows every end."""

import json
import os
import sqlite3
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from capa.config.problems import Problem
from capa.experiment.method import SafeShutdownStep
from capa.experiment.procedures.base import (
    ChannelRequirement,
    Procedure,
    ProcedureContext,
    ProcedureError,
    ResolvedRecordingPlan,
)
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.plugins.discovery import load_procedures
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capa.runtime.safe_state import Verdict, all_proven
from tests.support.engine import (
    Sealed,
    bench,
    bench_rig,
    conductor,
    method,
    no_finalizer,
    request,
)

HEATER = {"name": "heater.setpoint"}
SHORT = method({"kind": "hold", "target": HEATER, "value": 100.0, "duration_s": 5.0})
LONG = method({"kind": "hold", "target": HEATER, "value": 100.0, "duration_s": 14_400.0})
RAMP = method(
    {
        "kind": "ramp",
        "target": HEATER,
        "start_value": 50.0,
        "end_value": 150.0,
        "duration_s": 600.0,
    }
)
SAFE_WRITE = "0110087000020400004288a38d"
"""20 degC are 68 degF, 0x42880000, low word first, into 2160 of unit 1."""


class Script(RecipeRunner):
    """A procedure to be made misbehave."""

    id: ClassVar[str] = "test.script"

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        return []


def events(report: RunReport) -> list[tuple[str, str]]:
    assert report.bundle is not None
    with sqlite3.connect(report.bundle / "events.sqlite") as db:
        rows = db.execute("select kind, severity from events order by id").fetchall()
    db.close()
    return rows


def running(one: Conductor) -> bool:
    return one.progress is not None


def kinds(report: RunReport) -> list[str]:
    return [kind for kind, _ in events(report)]


async def test_a_method_runs_to_its_end_and_the_rig_is_proven_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins):
        one = conductor(rig, tmp_path)
        report = await one.run(request(SHORT))
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
    assert (report.run_status, report.bundle_status) == ("completed", "sealed")
    assert all_proven(report.verdicts)
    assert [(step.kind, step.outcome) for step in report.steps] == [("hold", "exited")]
    seen = kinds(report)
    assert seen[0] == "run.armed"
    assert seen.index("authorization.disarmed") < seen.index("safe_state.verdict")
    assert seen[-1] == "run.ended"
    assert not running(one)


async def test_a_stop_ends_a_four_hour_hold_at_once_as_aborted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(60)
        line = one.progress.describe() if one.progress else ""
        assert line.startswith("step 1/1 hold heater.setpoint 100.0 -> 100 degC, 3 h 59 min left")
        one.stop("SIGINT")
        await trio.sleep(0.5)
        assert not running(one)
    assert one.last_report is not None
    assert (one.last_report.run_status, one.last_report.exit_reason) == ("aborted", "SIGINT")
    assert "run.stop_requested" in kinds(one.last_report)


@pytest.mark.parametrize(
    "stop_at_s", [2 + tick / 10 + ms / 1000 for tick in (0, 3) for ms in range(0, 60, 4)]
)
async def test_a_stop_in_a_ramp_waits_for_the_exchange_in_progress_and_no_other(
    autojump_clock: MockClock, tmp_path: Path, stop_at_s: float
) -> None:
    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(RAMP))
        await trio.sleep(stop_at_s)
        one.stop("SIGINT")
        stopped_ns = trio.current_time() * 1e9 - 1000  # at once is soon enough, and no rounding
        await trio.sleep(0.5)
        oven = [record for record in twins.wire if record["link"] == "oven"]
        later = [record for record in oven if record["t_ns"] > stopped_ns]
        asked = [record["hex"] for record in later if record["event"] == "rx"]
        assert asked[0] == SAFE_WRITE
    assert one.last_report is not None
    assert one.last_report.run_status == "aborted"
    assert all_proven(one.last_report.verdicts)


async def test_a_run_that_is_over_is_not_shown_between_two_steps_while_its_bundle_is_sealed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def slow(path: Path) -> Sealed:
        await trio.sleep(60)
        return await no_finalizer(path)

    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path, finalize=slow)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(60)
        twins.fault("silence", link="oven")
        one.stop("SIGINT")
        await trio.sleep(1)
        assert one.progress is not None
        assert one.progress.describe() == "driving the safe state"
        await trio.sleep(30)
        assert one.progress.describe() == "sealing the bundle"
        await trio.sleep(60)
        assert not running(one)
    assert one.last_report is not None
    assert one.last_report.ladder
    lasted = one.last_report.ended_utc - one.last_report.started_utc
    assert 60 <= lasted.total_seconds() < 75  # the hold and its safing; sealing is no part of it


async def test_a_procedure_that_raises_has_crashed_and_the_daemon_lives(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Crash(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError("a bug")

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Script.id: Crash, RecipeRunner.id: RecipeRunner})
        report = await one.run(request(None, procedure=Script.id))
        assert (report.run_status, report.exit_reason) == ("crashed", "ZeroDivisionError: a bug")
        assert ("run.crashed", "error") in events(report)
        assert report.bundle is not None
        text = (report.bundle / "run.log").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        crash = next(line for line in lines if line["event"] == "run.crashed")
        assert "raise ZeroDivisionError" in crash["traceback"]
        assert all_proven(report.verdicts)
        assert (await one.run(request(SHORT))).run_status == "completed"


async def test_a_failed_step_crashes_the_run(autojump_clock: MockClock, tmp_path: Path) -> None:
    cold = {"channel": "heater.pv", "op": ">", "value": 500.0}
    never = method({"kind": "wait", "end_condition": cold, "timeout_s": 5.0, "on_timeout": "abort"})
    async with bench_rig() as (rig, _):
        report = await conductor(rig, tmp_path).run(request(never))
    assert report.run_status == "crashed"
    assert report.exit_reason.startswith("MethodExecutorError: wait: not over after")
    assert report.steps[-1].outcome == "failed"
    assert report.bundle_status == "sealed"
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert manifest["recorder"]["samples"] > 40, "what came before the step failed is kept"


async def test_a_procedure_that_ignores_the_stop_is_cancelled_after_its_grace(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Deaf(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep_forever()

    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path, procedures={Script.id: Deaf}, grace_s=5.0)
        nursery.start_soon(one.run, request(None, procedure=Script.id))
        await trio.sleep(10)
        one.stop("SIGINT")
        await trio.sleep(4.9)
        assert running(one)
        await trio.sleep(1.0)
    assert one.last_report is not None
    assert one.last_report.run_status == "crashed"
    assert "had not returned 5 s after the stop (SIGINT)" in one.last_report.exit_reason


async def test_a_second_stop_ends_the_cooldown_and_the_grace_waits_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cool = SafeShutdownStep(cool_target={"heater.setpoint": 50.0}, duration_s=3600)

    class Cooling(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            await ctx.external_stop.wait()
            assert ctx.method_executor is not None
            await ctx.method_executor.run_segment(cool)

    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path, procedures={Script.id: Cooling})
        nursery.start_soon(one.run, request(None, procedure=Script.id))
        await trio.sleep(10)
        one.stop("SIGINT")
        await trio.sleep(60)
        assert running(one)
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(50.0, abs=0.1)
        one.stop("SIGINT again")
        await trio.sleep(1)
    assert one.last_report is not None
    assert (one.last_report.run_status, one.last_report.exit_reason) == ("aborted", "SIGINT")
    assert "run.cooldown_ended" in kinds(one.last_report)


async def test_a_run_cancelled_from_above_is_made_safe_recorded_and_reported(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins):
        one = conductor(rig, tmp_path)
        with trio.move_on_after(60):
            await one.run(request(LONG))
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
        assert one.last_report is not None
        assert one.last_report.run_status == "aborted"
        assert one.last_report.bundle_status == "sealed"  # the shield covers all that follows
        assert all_proven(one.last_report.verdicts)
        assert kinds(one.last_report)[-1] == "run.ended"
        assert (await one.run(request(SHORT))).run_status == "completed"


async def test_a_keyboard_interrupt_passes_through_a_rig_made_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Interrupted(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep(1)
            raise KeyboardInterrupt

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Script.id: Interrupted})
        with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
            await one.run(request(None, procedure=Script.id))
        assert one.last_report is not None
        assert all_proven(one.last_report.verdicts)


async def test_an_output_that_cannot_be_reached_is_reported_and_recorded_as_an_error(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(5)
        twins.fault("silence", link="oven")
        one.stop("SIGINT")
        await trio.sleep(10)
    report = one.last_report
    assert report is not None
    assert report.verdicts["heater.setpoint"].verdict is Verdict.UNREACHABLE
    assert report.verdicts["purge.flow"].verdict is Verdict.PROVEN
    assert ("safe_state.verdict", "error") in events(report)


# --- refusals -----------------------------------------------------------------------------------


async def refusal(tmp_path: Path, procedure: type[Procedure], **config: object) -> RunReport:
    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={procedure.id: procedure})
        report = await one.run(request(None, procedure=procedure.id, config=dict(config)))
    assert report.run_status == "refused"
    assert report.bundle is None
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib's own is taken for slow here
    return report


async def test_the_recipe_runner_refuses_an_experiment_without_a_method(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await refusal(tmp_path, RecipeRunner)
    assert [problem.code for problem in report.problems] == ["procedure.error"]
    assert "capa.builtin.free_run" in report.exit_reason


async def test_a_typo_in_the_procedures_config_is_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await refusal(tmp_path, RecipeRunner, auto_acknowledge_prompt=True)
    assert report.problems[0].code == "procedure.config"
    assert "auto_acknowledge_prompts" in report.exit_reason


async def test_a_missing_channel_or_capability_is_refused_by_the_engine(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Picky(Script):
        required_capabilities: ClassVar[tuple[str, ...]] = ("ignite",)
        required_channels: ClassVar[tuple[ChannelRequirement, ...]] = (
            ChannelRequirement(kind="heat_flux"),
            ChannelRequirement(name="heater.pv"),
        )

    report = await refusal(tmp_path, Picky)
    assert [one.code for one in report.problems] == ["procedure.capability", "procedure.channel"]


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        ("raises", "procedure.preflight_raised"),
        ("misconfigured", "procedure.error"),
        ("hangs", "procedure.preflight_hangs"),
        ("rubbish", "procedure.preflight_result"),
        ("writes", "procedure.error"),
    ],
)
async def test_a_preflight_that_misbehaves_refuses_the_run_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path, trouble: str, code: str
) -> None:
    class Bad(Script):
        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            if trouble == "raises":
                raise OSError("x")
            if trouble == "misconfigured":
                raise ProcedureError("x")
            if trouble == "hangs":
                await trio.sleep_forever()
            if trouble == "writes":
                ctx.bundle_writer.write_event(
                    kind="k", message="m", source="s", t_mono_ns=0, t_utc=ctx.clock.t_utc()
                )
            return "good"  # type: ignore[return-value]  # rubbish is the point

    report = await refusal(tmp_path, Bad)
    assert [problem.code for problem in report.problems] == [code]
    if trouble == "hangs":
        assert "10 s" in report.problems[0].message


async def test_a_silent_required_device_refuses_the_run_by_name(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins):
        twins.fault("silence", link="oven")
        await trio.sleep(10)
        report = await conductor(rig, tmp_path).run(request(SHORT))
    assert report.run_status == "refused"
    assert "furnace does not answer" in report.exit_reason


async def test_a_latched_trip_refuses_the_run(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path)
        one.gate.latch("smoke")
        report = await one.run(request(SHORT))
    assert [problem.code for problem in report.problems] == ["rig.tripped"]


async def test_a_problem_that_does_not_block_lands_in_the_bundle(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Odd(Script):
        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            return [Problem(code="odd", message="odd", blocking=False)]

        async def run(self, ctx: ProcedureContext) -> None:
            return

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Script.id: Odd})
        report = await one.run(request(None, procedure=Script.id))
    assert report.run_status == "completed"
    assert ("run.problem", "warning") in events(report)


# --- procedures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("duration_s", [0, 30.0])
async def test_a_free_run_records_for_its_duration(
    autojump_clock: MockClock, tmp_path: Path, duration_s: float
) -> None:
    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={FreeRun.id: FreeRun})
        began_s = trio.current_time()
        config = {"duration_s": duration_s, "notes": "baseline"}
        report = await one.run(request(None, procedure=FreeRun.id, config=config))
        assert trio.current_time() - began_s == pytest.approx(duration_s, abs=0.5)
    assert report.run_status == "completed"
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert manifest["custom"]["notes"] == "baseline"
    assert (manifest["recorder"]["samples"] > 500) is (duration_s > 0)


async def test_a_free_run_without_a_duration_ends_when_it_is_stopped(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(None, procedure=FreeRun.id))
        await trio.sleep(60)
        one.stop("enough")
    assert one.last_report is not None
    assert one.last_report.run_status == "aborted"


async def test_a_free_run_refuses_a_method(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with bench_rig() as (rig, _):
        report = await conductor(rig, tmp_path).run(request(SHORT, procedure=FreeRun.id))
    assert [problem.code for problem in report.problems] == ["free_run.has_method"]


async def test_a_procedure_without_from_config_is_made_from_its_validated_fields(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Config(BaseModel):
        value: float = 1.0

    class Plain:
        id: ClassVar[str] = "test.plain"
        name: ClassVar[str] = "Plain"
        version: ClassVar[str] = "1"
        config_model: ClassVar[type[BaseModel]] = Config
        required_capabilities: ClassVar[tuple[str, ...]] = ()
        required_channels: ClassVar[tuple[ChannelRequirement, ...]] = ()
        uses_method: ClassVar[bool] = False

        def __init__(self, value: float) -> None:
            self.value = value

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            return []

        async def run(self, ctx: ProcedureContext) -> None:
            ctx.metadata["custom"] = {"value": self.value}

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Plain.id: Plain})
        config = {"value": 7}
        report = await one.run(request(None, procedure=Plain.id, config=config))
    assert report.bundle is not None
    assert json.loads((report.bundle / "manifest.json").read_text())["custom"]["value"] == 7.0


async def test_adapters_can_be_looked_at_and_not_spoken_to(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    seen: list[set[str]] = []

    class Curious(Script):
        async def run(self, ctx: ProcedureContext) -> None:
            furnace = ctx.adapters["furnace"]
            assert furnace.resource_id == "oven"
            seen.append({name for name in dir(furnace) if not name.startswith("__")})

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Script.id: Curious})
        await one.run(request(None, procedure=Script.id))
    assert seen == [{"name", "family", "resource_id", "capabilities", "fields"}]


async def test_a_procedure_can_have_only_its_channels_recorded(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Narrow(Script):
        def plan_capture(self, default_plan: ResolvedRecordingPlan) -> ResolvedRecordingPlan:
            assert "heater.pv" in default_plan.recorded_channels
            return ResolvedRecordingPlan(channel_mode="only", recorded_channels=("heater.pv",))

        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep(10)

    async with bench_rig() as (rig, _):
        one = conductor(rig, tmp_path, procedures={Script.id: Narrow})
        report = await one.run(request(None, procedure=Script.id))
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert manifest["recorder"]["samples"] == pytest.approx(50, abs=5)


async def test_the_recipe_runner_reports_an_engine_without_an_executor(
    autojump_clock: MockClock,
) -> None:
    of = bench(SHORT)
    of.ctx.method_executor = None
    problems = await RecipeRunner().preflight(of.ctx)
    assert [(one.code, one.blocking) for one in problems] == [("recipe_runner.no_executor", True)]


async def test_the_recipe_runner_keeps_its_notes_and_logs_its_start_and_end(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _):
        config = {"notes": "PMMA replicate 3", "auto_acknowledge_prompts": True}
        of = method({"kind": "prompt", "message": "Close the door."})
        report = await conductor(rig, tmp_path).run(request(of, config=config))
    assert report.run_status == "completed"
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert manifest["custom"]["notes"] == "PMMA replicate 3"
    lines = [json.loads(line) for line in (report.bundle / "run.log").read_text().splitlines()]
    start = next(line for line in lines if line["event"] == "recipe_runner.start")
    assert (start["method"], start["steps"], start["notes"]) == ("trial", 1, "PMMA replicate 3")
    assert any(line["event"] == "recipe_runner.end" for line in lines)
    assert "recipe_runner.start" not in kinds(report)


def test_the_built_in_procedures_are_found_by_their_entry_points() -> None:
    assert load_procedures().keys() >= {RecipeRunner.id, FreeRun.id}


async def test_samples_go_on_to_the_disk_while_a_cancelled_run_is_made_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)

        async def run_for_a_while() -> None:
            with trio.move_on_after(10):
                await one.run(request(LONG))

        nursery.start_soon(run_for_a_while)
        await trio.sleep(9)
        twins.fault("silence", link="oven")
        await trio.sleep(5)
        assert one.bundle is not None
        assert one.bundle.health.pending_samples < 40
