"""A batch: N whole runs, one after the other, each made safe before the next one heats."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from pydantic import ValidationError
from trio.testing import MockClock

from capa.config.experiment import ExperimentConfig, ProcedureRef
from capa.config.problems import Problem
from capa.devices.adapter import CommandResult, DeviceCommand
from capa.experiment.method import Method
from capa.experiment.procedures.base import InnerRun, Procedure, ProcedureContext
from capa.experiment.procedures.builtin.batch import Batch, BatchConfig
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport, RunRequest
from capa.runtime.rig import Rig
from tests.support.engine import bench_rig, conductor, method, profile

HEATER = {"name": "heater.setpoint"}
SOAK = method(
    {"kind": "ramp", "target": HEATER, "end_value": 100.0, "duration_s": 10.0, "notes": "heat"},
    {"kind": "hold", "target": HEATER, "value": 100.0, "duration_s": 5.0, "notes": "soak"},
)


class Fragile(RecipeRunner):
    """Walks the method, and breaks at the samples it was told to break at."""

    id: ClassVar[str] = "test.fragile"
    breaks_at: ClassVar[tuple[str, ...]] = ("PMMA-03",)

    async def run(self, ctx: ProcedureContext) -> None:
        await super().run(ctx)
        if ctx.config.sample.get("id") in self.breaks_at:
            raise OSError("the sample holder broke")


def batch_request(of: Method | None = SOAK, /, **config: object) -> RunRequest:
    settings: dict[str, Any] = {"replicates": 5, "sample_id_template": "PMMA-{index:02}"}
    settings |= config
    settings.setdefault("procedure", {"id": Fragile.id})
    experiment = ExperimentConfig(
        method=of,
        procedure=ProcedureRef(id=Batch.id, config=settings),
        sample={"material": "PMMA", "thickness_mm": 3.0},
        tags=("series",),
    )
    return RunRequest(
        experiment=experiment,
        source_name="series.experiment.toml",
        method_text=None,
        hardware_text="name = 'bench'",
        config_text="",
        operator_id="maria",
    )


def batching(rig: Rig, runs: Path, *more: type[Procedure], **changes: object) -> Conductor:
    procedures: tuple[type[Procedure], ...] = (Batch, RecipeRunner, FreeRun, Fragile, *more)
    known = {one.id: one for one in procedures}
    return conductor(rig, runs, procedures=known, **changes)


async def batch_of(runs: Path, *more: type[Procedure], **config: object) -> RunReport:
    async with bench_rig() as (rig, _):
        return await batching(rig, runs, *more).run(batch_request(SOAK, **config))


def events(bundle: Path | None) -> list[tuple[str, str, dict[str, Any]]]:
    assert bundle is not None
    db = sqlite3.connect(bundle / "events.sqlite")
    rows = db.execute("select kind, message, metadata_json from events order by id").fetchall()
    db.close()
    return [(kind, message, json.loads(metadata or "{}")) for kind, message, metadata in rows]


def running(one: Conductor) -> bool:
    return one.progress is not None


def ended(report: RunReport) -> list[dict[str, Any]]:
    found = [facts for kind, _, facts in events(report.bundle) if kind == "batch.replicate.ended"]
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert [one["run_id"] for one in manifest["custom"]["batch"]] == [o["run_id"] for o in found]
    return found


def manifest(runs: Path, run_id: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((runs / run_id / "manifest.json").read_text())
    return data


# --- how it ends ----------------------------------------------------------------------------------


async def test_each_replicate_is_a_whole_run_with_its_own_bundle_and_authorization(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await batch_of(tmp_path, replicates=3, procedure={"id": RecipeRunner.id})
    assert (report.run_status, report.bundle_status) == ("completed", "sealed")
    children = ended(report)
    assert [one["sample_id"] for one in children] == ["PMMA-01", "PMMA-02", "PMMA-03"]
    assert [one["run_status"] for one in children] == ["completed"] * 3
    assert len(os.listdir(tmp_path)) == 4  # noqa: PTH208 - pathlib's own is taken for slow here
    manifests = [manifest(tmp_path, one["run_id"]) for one in children]
    ids = {one["authorization_id"] for one in manifests}
    assert len(ids) == 3
    for one in manifests:
        assert one["sample"]["material"] == "PMMA"
        assert one["tags"] == ["series"]
        assert one["operator"]["id"] == "maria"
        assert {v["verdict"] for v in one["verdicts"].values()} == {"proven"}
        assert one["recorder"]["samples"] > 100
    commands = [e for e in events(tmp_path / children[1]["run_id"]) if e[0] == "command.intent"]
    assert {facts["authorization_id"] for _, _, facts in commands} == {
        manifests[1]["authorization_id"]
    }


async def test_the_batchs_own_bundle_holds_events_and_no_samples(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await batch_of(tmp_path, replicates=2, procedure={"id": RecipeRunner.id})
    assert report.run_id is not None
    assert manifest(tmp_path, report.run_id)["recorder"]["samples"] == 0
    kinds = [kind for kind, _, _ in events(report.bundle)]
    assert kinds.count("batch.replicate.started") == kinds.count("batch.replicate.ended") == 2
    assert "command.intent" not in kinds
    assert kinds.index("batch.started") < kinds.index("batch.completed")


async def test_a_crash_in_the_middle_of_five_ends_the_batch_where_it_fails_fast(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await batch_of(tmp_path, fail_fast=True)
    assert [one["run_status"] for one in ended(report)] == ["completed", "completed", "crashed"]
    assert report.run_status == "crashed"
    assert "1 of 5 replicates did not complete: replicate 3/5 (run 20" in report.exit_reason
    assert "the sample holder broke" in report.exit_reason
    assert "fail_fast" in report.exit_reason


async def test_a_crash_in_the_middle_of_five_lets_the_others_run_where_it_does_not_fail_fast(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await batch_of(tmp_path, fail_fast=False, cooldown_s=60)
    statuses = ["completed", "completed", "crashed", "completed", "completed"]
    assert [one["run_status"] for one in ended(report)] == statuses
    assert report.run_status == "crashed"
    assert "1 of 5 replicates did not complete: replicate 3/5" in report.exit_reason
    kinds = [kind for kind, _, _ in events(report.bundle)]
    assert kinds.count("batch.cooldown.ended") == 4


async def test_a_batch_is_resumed_from_the_replicate_that_crashed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    procedure = {"id": RecipeRunner.id}
    report = await batch_of(tmp_path, resume_from=3, procedure=procedure, cooldown_s=60)
    assert report.run_status == "completed"
    assert [one["sample_id"] for one in ended(report)] == ["PMMA-03", "PMMA-04", "PMMA-05"]
    seen = events(report.bundle)
    assert seen[1][:2] == ("batch.resumed", "replicates 3 to 5 of 5 with " + RecipeRunner.id)
    assert [kind for kind, _, _ in seen].count("batch.cooldown.started") == 2


async def test_a_stop_ends_the_replicate_under_way_and_the_batch_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = batching(rig, tmp_path)
        nursery.start_soon(one.run, batch_request())
        await trio.sleep(20)
        assert one.progress is not None
        assert one.progress.describe().startswith("replicate 2/5: step 1/2 ramp heater.setpoint")
        outer_run_id = one.progress.run_id
        one.stop("SIGINT")
        await trio.sleep(2)
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
        assert not running(one)
    report = one.last_report
    assert report is not None
    assert (report.run_status, report.run_id) == ("aborted", outer_run_id)
    assert report.exit_reason.startswith("SIGINT; in replicate 2/5 (run 20")
    assert [each["run_status"] for each in ended(report)] == ["completed", "aborted"]


async def test_a_stop_during_the_cooldown_begins_no_other_replicate(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = batching(rig, tmp_path)
        nursery.start_soon(one.run, batch_request(cooldown_s=3600))
        await trio.sleep(60)
        assert one.progress is not None
        line = one.progress.describe()
        assert line.startswith("cooldown before replicate 2/5: step 1/1 wait, 59 min left")
        one.stop("SIGINT")
    report = one.last_report
    assert report is not None
    assert report.run_status == "aborted"
    assert report.exit_reason == "SIGINT; in the cooldown before replicate 2/5"
    assert len(ended(report)) == 1


async def test_a_replicate_that_ignores_the_stop_has_its_grace_and_the_batch_waits_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Deaf(Fragile):
        id: ClassVar[str] = "test.deaf"

        async def run(self, ctx: ProcedureContext) -> None:
            await trio.sleep_forever()

    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = batching(rig, tmp_path, Deaf, grace_s=5.0)
        nursery.start_soon(one.run, batch_request(procedure={"id": Deaf.id}))
        await trio.sleep(10)
        one.stop("SIGINT")
    report = one.last_report
    assert report is not None
    assert [each["run_status"] for each in ended(report)] == ["crashed"]
    assert report.run_status == "aborted"


async def test_a_batch_cancelled_from_above_leaves_both_bundles_ended_and_the_rig_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins):
        one = batching(rig, tmp_path)
        with trio.move_on_after(8):
            await one.run(batch_request())
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
    found = sorted(os.listdir(tmp_path))  # noqa: PTH208 - pathlib's own is taken for slow here
    assert [manifest(tmp_path, name)["run_status"] for name in found] == ["aborted", "aborted"]
    assert one.last_report is not None
    assert one.last_report.run_id in found


async def test_an_output_that_is_not_proven_safe_ends_the_batch_even_if_it_need_not_fail_fast(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = batching(rig, tmp_path)
        nursery.start_soon(one.run, batch_request(fail_fast=False))
        await trio.sleep(14.5)
        twins.fault("silence", link="oven")
    report = one.last_report
    assert report is not None
    assert report.run_status == "crashed"
    assert "as heater.setpoint is not proven safe" in report.exit_reason
    assert len(ended(report)) == 1


# --- who may command ------------------------------------------------------------------------------


async def test_the_outer_run_commands_nothing_while_another_runs_inside_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    results: list[CommandResult] = []

    class Meddler(Fragile):
        id: ClassVar[str] = "test.meddler"

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            return []

        async def run(self, ctx: ProcedureContext) -> None:
            assert ctx.runs is not None
            experiment = ExperimentConfig(method=SOAK)
            results.append(await ctx.dispatcher.dispatch("furnace", setpoint(ctx)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(meddle, ctx)
                await ctx.runs.run(InnerRun(experiment=experiment, label="inner"))
            results.append(await ctx.dispatcher.dispatch("furnace", setpoint(ctx)))

    def setpoint(ctx: ProcedureContext) -> DeviceCommand:
        payload = {"value": 50.0, "channel": "heater.setpoint", "device": "furnace"}
        return ctx.authorization.issue(
            kind="set_setpoint", target="heater.setpoint", payload=payload
        )

    async def meddle(ctx: ProcedureContext) -> None:
        await trio.sleep(5)
        results.append(await ctx.dispatcher.dispatch("furnace", setpoint(ctx)))

    async with bench_rig() as (rig, _):
        one = batching(rig, tmp_path, Meddler)
        report = await one.run(
            RunRequest(
                experiment=ExperimentConfig(procedure=ProcedureRef(id=Meddler.id)),
                source_name="x",
                method_text=None,
                hardware_text="",
                config_text="",
                operator_id="maria",
            )
        )
    assert report.run_status == "completed"
    assert [result.accepted for result in results] == [True, False, True]
    assert "no authorization in force issued this command" in results[1].detail


async def test_the_outer_run_commands_nothing_while_the_inner_one_is_still_being_checked(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    late: list[CommandResult] = []

    class Thorough(Fragile):
        id: ClassVar[str] = "test.thorough"

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            await trio.sleep(4)
            return []

    class Hasty(Thorough):
        id: ClassVar[str] = "test.hasty"

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            return []

        async def run(self, ctx: ProcedureContext) -> None:
            assert ctx.runs is not None
            inner = ExperimentConfig(method=SOAK, procedure=ProcedureRef(id=Thorough.id))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heat, ctx)
                await ctx.runs.run(InnerRun(experiment=inner, label="inner"))

        async def _heat(self, ctx: ProcedureContext) -> None:
            await trio.sleep(2)
            payload = {"value": 50.0, "channel": "heater.setpoint", "device": "furnace"}
            command = ctx.authorization.issue(
                kind="set_setpoint", target="heater.setpoint", payload=payload
            )
            late.append(await ctx.dispatcher.dispatch("furnace", command))

    experiment = ExperimentConfig(procedure=ProcedureRef(id=Hasty.id))
    async with bench_rig() as (rig, _):
        one = batching(rig, tmp_path, Thorough, Hasty)
        await one.run(RunRequest(experiment, "x", None, "", "", "maria"))
    assert [result.accepted for result in late] == [False]


# --- cooldown -------------------------------------------------------------------------------------


async def pv_before_each(rig: Rig, one: Conductor, seen: list[float]) -> None:
    """Note the process value whenever a replicate begins to ramp."""
    last = ""
    while True:
        await trio.sleep(0.05)
        progress = one.progress
        if progress is not None and progress.within not in ("", last):
            last = progress.within
            pv = rig.bus.latest("heater.pv")
            seen.append(float("nan") if pv is None else pv.value)


async def test_no_replicate_begins_before_the_cooldown_condition_holds(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    small = {"heat_capacity_j_per_k": 20.0, "max_power_w": 1500.0, "insulation": 1.0}
    hot = method({"kind": "hold", "target": HEATER, "value": 200.0, "duration_s": 20.0})
    until = {"channel": "heater.pv", "op": "<", "value": 60.0, "timeout_s": 600.0}
    seen: list[float] = []
    async with (
        bench_rig(profile(twin={"furnace": small})) as (rig, _),
        trio.open_nursery() as nursery,
    ):
        one = batching(rig, tmp_path)
        nursery.start_soon(pv_before_each, rig, one, seen)
        report = await one.run(
            batch_request(
                hot, replicates=3, cooldown_until=until, procedure={"id": RecipeRunner.id}
            )
        )
        nursery.cancel_scope.cancel()
    assert report.run_status == "completed"
    assert len(seen) == 3
    assert max(seen) < 61.0


async def test_a_rig_that_does_not_cool_in_time_ends_the_batch(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    until = {"channel": "heater.pv", "op": "<", "value": -10.0, "timeout_s": 60.0}
    report = await batch_of(tmp_path, cooldown_until=until)
    assert report.run_status == "crashed"
    assert "cooldown before replicate 2/5: wait: not over after timeout_s = 60" in (
        report.exit_reason
    )
    assert len(ended(report)) == 1


async def test_a_rig_that_does_not_cool_in_time_is_only_warned_of_where_that_is_asked_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    until = {
        "channel": "heater.pv",
        "op": "<",
        "value": -10.0,
        "timeout_s": 60.0,
        "on_timeout": "warn",
    }
    procedure = {"id": RecipeRunner.id}
    report = await batch_of(tmp_path, replicates=2, cooldown_until=until, procedure=procedure)
    assert report.run_status == "completed"


async def test_a_resumed_batch_waits_for_the_cooldown_condition_first(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    until = {"channel": "heater.pv", "op": "<", "value": -10.0, "timeout_s": 60.0}
    report = await batch_of(tmp_path, cooldown_until=until, cooldown_s=3600, resume_from=3)
    assert report.run_status == "crashed"
    assert "cooldown before replicate 3/5" in report.exit_reason
    assert ended(report) == []
    took_s = (report.ended_utc - report.started_utc).total_seconds()
    assert 60 <= took_s < 120  # the condition's time-out, not the hour of cooldown_s


# --- what is different in one replicate -----------------------------------------------------------


async def test_one_replicate_has_another_sample_and_other_values_in_its_method(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    overrides = [
        {
            "iteration": 2,
            "sample": {"thickness_mm": 6.0},
            "steps": {"soak": {"value": 120.0}, "1": {"end_value": 120.0}},
        }
    ]
    report = await batch_of(
        tmp_path, replicates=3, overrides=overrides, procedure={"id": RecipeRunner.id}
    )
    children = [one["run_id"] for one in ended(report)]
    samples = [manifest(tmp_path, one)["sample"] for one in children]
    assert [one["thickness_mm"] for one in samples] == [3.0, 6.0, 3.0]
    assert [one["id"] for one in samples] == ["PMMA-01", "PMMA-02", "PMMA-03"]
    texts = [(tmp_path / one / "method.toml").read_text() for one in children]
    assert ["value = 120.0" in text for text in texts] == [False, True, False]
    asked = [
        facts["value"]
        for kind, _, facts in events(tmp_path / children[1])
        if kind == "method.command.issued"
    ]
    assert max(asked) == 120.0


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"2": {"value": 9000.0}}, "limits"),
        ({"2": {"valu": 1.0}}, "did you mean `value`?"),
        ({"2": {"value": "hot"}}, "must be a number"),
        ({"7": {"value": 1.0}}, "there is no step 7"),
        ({"soke": {"value": 1.0}}, "did you mean `soak`?"),
        ({"2": {"target": {"name": "heter.setpoint"}}}, "did you mean `heater.setpoint`?"),
        ({"2": {"kind": "wait"}}, "has no field"),
    ],
)
async def test_a_bad_value_in_the_last_replicate_refuses_the_batch_before_the_first_heats(
    autojump_clock: MockClock, tmp_path: Path, steps: dict[str, Any], said: str
) -> None:
    report = await batch_of(tmp_path, overrides=[{"iteration": 5, "steps": steps}])
    assert report.run_status == "refused"
    assert said in report.exit_reason
    assert "5" in (report.problems[0].where or "")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib's own is taken for slow here


async def test_a_mistake_in_every_replicate_is_said_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    bad = method({"kind": "setpoint", "target": {"name": "heter.setpoint"}, "value": 1.0})
    async with bench_rig() as (rig, _):
        report = await batching(rig, tmp_path).run(batch_request(bad))
    texts = [str(one) for one in report.problems if one.code == "method.unknown_channel"]
    assert len(set(texts)) == 1
    assert not any("replicate" in text for text in texts)


# --- what is no batch -----------------------------------------------------------------------------


async def test_a_batch_of_a_batch_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    inner = {"id": Batch.id, "config": {"replicates": 2}}
    report = await batch_of(tmp_path, procedure=inner)
    assert report.run_status == "refused"
    assert [one.code for one in report.problems] == ["batch.recursion"]


async def test_a_batch_under_another_name_is_no_way_around_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Renamed(Batch):
        id: ClassVar[str] = "test.renamed"

    inner = {"id": Renamed.id, "config": {"replicates": 2}}
    report = await batch_of(tmp_path, Renamed, procedure=inner)
    assert report.run_status == "refused"
    assert "a batch can't be run by a batch" in report.exit_reason


async def test_an_inner_procedure_that_is_not_installed_refuses_the_batch(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await batch_of(tmp_path, procedure={"id": "capa.builtin.recipe_runer"})
    assert report.run_status == "refused"
    assert "recipe_runer" in report.exit_reason


async def test_an_inner_config_that_is_wrong_refuses_the_batch(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    inner = {"id": RecipeRunner.id, "config": {"auto_acknowledge_prompt": True}}
    report = await batch_of(tmp_path, procedure=inner)
    assert report.run_status == "refused"
    assert "auto_acknowledge_prompts" in report.exit_reason


async def test_an_unknown_cooldown_channel_refuses_the_batch(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    until = {"channel": "heater.vp", "op": "<", "value": 60.0}
    report = await batch_of(tmp_path, cooldown_until=until)
    assert report.run_status == "refused"
    assert "did you mean `heater.pv`?" in report.exit_reason


async def test_inner_runs_cannot_be_started_from_preflight(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Early(Fragile):
        id: ClassVar[str] = "test.early"

        async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
            assert ctx.runs is not None
            await ctx.runs.run(InnerRun(experiment=ExperimentConfig(method=SOAK), label="x"))
            return []

    async with bench_rig() as (rig, _):
        known = {one.id: one for one in (Early, RecipeRunner)}
        one = conductor(rig, tmp_path, procedures=known)
        experiment = ExperimentConfig(procedure=ProcedureRef(id=Early.id))
        report = await one.run(RunRequest(experiment, "x", None, "", "", "maria"))
    assert report.run_status == "refused"
    assert [problem.code for problem in report.problems] == ["procedure.error"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"sample_id_template": "PMMA"}, "every replicate would be the same sample"),
        ({"sample_id_template": "PMMA-{number}"}, "there are {index} and {replicates}"),
        ({"sample_id_template": "PMMA-{index.__class__}"}, "there are {index}"),
        ({"sample_id_template": "PMMA-{index:zz}"}, "does not work"),
        ({"sample_id_template": "PMMA-{index"}, "expected '}'"),
        ({"resume_from": 6}, "resume_from is 6"),
        ({"overrides": [{"iteration": 6}]}, "iteration 6 of 5"),
        ({"overrides": [{"iteration": 2}, {"iteration": 2}]}, "twice"),
        ({"replicates": 0}, "greater than or equal to 1"),
        ({"cooldown": 3}, "Extra inputs"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused_in_words(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BatchConfig.model_validate({"replicates": 5, **config})
    assert said in str(caught.value)


def test_yaml_numbers_name_steps_as_text_does() -> None:
    config = BatchConfig.model_validate(
        {"replicates": 2, "overrides": [{"iteration": 1, "steps": {3: {"value": 1.0}}}]}
    )
    assert config.override(1).steps == {"3": {"value": 1.0}}
