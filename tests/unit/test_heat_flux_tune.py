"""The heat-flux tune on the shipped cone and its twins, in virtual time."""

import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from adapters.twin.memory import TwinHandle
from capa.config.hardware import HardwareProfile
from capa.config.load import load_experiment
from capa.experiment.procedures.base import ProcedureContext
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.experiment.procedures.builtin.heat_flux_tune import HeatFluxTune, keeper
from capa.experiment.procedures.live import OperatorCommand
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capa.runtime.safe_state import all_proven
from tests.support.cone import (
    EXPERIMENT,
    Screen,
    artifact,
    cone_profile,
    cone_rig,
    kinds,
    messages,
)
from tests.support.engine import conductor, method, request

TUNE = "heat_flux_tune."
QUICK: dict[str, Any] = {
    "targets_kw_m2": [20.0, 35.0, 50.0],
    "t_set_min_c": 100.0,
    "t_set_max_c": 900.0,
    "window_s": 20.0,
    "min_settle_s": 10.0,
    "settle_budget_s": 300.0,
}


class Attended(HeatFluxTune):
    """A tune with a screen and an operator at it."""

    screen: ClassVar[Screen]
    orders: ClassVar[trio.MemoryReceiveChannel[OperatorCommand]]

    async def run(self, ctx: ProcedureContext) -> None:
        ctx.ui_sink = self.screen
        ctx.operator_commands = self.orders
        await super().run(ctx)


async def until(true: Callable[[], bool]) -> None:
    """Look ten times a second until it is so."""
    while True:
        if true():
            return
        await trio.sleep(0.1)


@pytest.fixture(autouse=True)
def _patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual seconds pass while a real disk writes."""
    monkeypatch.setattr(keeper, "SAVE_BUDGET_S", float("inf"))


def tuner(rig: Any, runs: Path, cls: type[HeatFluxTune] = HeatFluxTune) -> Conductor:  # noqa: ANN401 - a rig
    return conductor(rig, runs, procedures={HeatFluxTune.id: cls})


async def tuned(
    runs: Path,
    *,
    profile: HardwareProfile | None = None,
    meddle: Callable[[TwinHandle], Any] | None = None,
    cls: type[HeatFluxTune] = HeatFluxTune,
    **config: Any,  # noqa: ANN401 - passed on
) -> RunReport:
    """Run a tune to its end, with somebody meddling meanwhile."""
    async with cone_rig(profile) as (rig, twins), trio.open_nursery() as nursery:
        if meddle is not None:
            nursery.start_soon(meddle, twins)
        of = request(None, procedure=HeatFluxTune.id, config={**QUICK, **config})
        report = await tuner(rig, runs, cls).run(of)
        nursery.cancel_scope.cancel()
    return report


# --- reaching targets -----------------------------------------------------------------------------


async def test_each_target_is_reached_within_its_tolerance_on_the_simulated_cone(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    report = await tuned(runs, tolerance_kw_m2=0.2, tolerance_rel=0.0)
    assert (report.run_status, report.exit_reason) == (
        "completed",
        "the procedure ran to its end",
    )
    assert all_proven(report.verdicts)
    found = artifact(runs)
    assert (found["status"], found["run_id"], found["operator"]) == (
        "completed",
        report.run_id,
        "maria",
    )
    for target in found["targets"]:
        assert target["status"] == "converged"
        assert target["flux_kw_m2"] == pytest.approx(target["target_kw_m2"], abs=0.2)
        assert target["noise_kw_m2"] < 0.1
        assert target["iterations"] <= 3
    setpoints = [target["setpoint_c"] for target in found["targets"]]
    assert setpoints == pytest.approx([539.0, 659.0, 747.0], abs=4.0)  # the plant's own law


async def test_the_shipped_experiment_converges_from_a_cold_rig(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    config = load_experiment(EXPERIMENT).procedure.config
    report = await tuned(tmp_path / "runs", **config)
    assert report.run_status == "completed"
    assert {one["status"] for one in artifact(tmp_path / "runs")["targets"]} == {"converged"}


async def test_a_tune_tells_its_story_in_events(autojump_clock: MockClock, tmp_path: Path) -> None:
    report = await tuned(tmp_path / "runs", targets_kw_m2=[20.0])
    story = kinds(report, TUNE)
    assert story[0] == "target.started"
    assert story[-3:] == ["target.converged", "artifact", "artifact"]
    assert set(story[1:-3]) == {"iteration"}


async def test_a_ramp_moves_the_setpoint_no_faster_than_it_was_told(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    seen: list[tuple[float, float]] = []

    async def watch(twins: TwinHandle) -> None:
        while True:
            await trio.sleep(1.0)
            seen.append((trio.current_time(), twins.outputs()["cone.setpoint"]))

    report = await tuned(
        tmp_path / "runs", targets_kw_m2=[20.0], ramp_c_per_min=120.0, meddle=watch
    )
    assert report.run_status == "completed"
    rises = [later[1] - early[1] for early, later in pairwise(seen[5:])]
    assert max(rises) <= 4.1  # two seconds' worth, where the looks straddle a tick
    assert sum(1.5 < rise < 2.5 for rise in rises) > 200


# --- giving up at once ----------------------------------------------------------------------------


async def test_a_gauge_that_falls_silent_ends_the_tune_and_leaves_the_rig_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    ended_s = {}

    async def cut(twins: TwinHandle) -> None:
        await trio.sleep(60)
        twins.fault("silence", device="gauge")
        ended_s["cut"] = trio.current_time()

    class Watched(HeatFluxTune):
        async def run(self, ctx: ProcedureContext) -> None:
            try:
                await super().run(ctx)
            finally:
                ended_s["end"] = trio.current_time()

    runs = tmp_path / "runs"
    report = await tuned(runs, meddle=cut, cls=Watched, gauge_silence_s=5.0)
    assert report.run_status == "crashed"
    assert "flux.incident: no usable sample for" in report.exit_reason
    assert all_proven(report.verdicts)
    assert ended_s["end"] - ended_s["cut"] < 10.0
    found = artifact(runs)
    assert found["status"] == "crashed"
    assert found["targets"][0]["reason"] == "ended"
    assert [one["status"] for one in found["targets"][1:]] == ["not_started"] * 2


async def test_a_broken_gauge_is_as_silent_as_a_mute_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def snap(twins: TwinHandle) -> None:
        await trio.sleep(60)
        twins.fault("sensor_break", device="gauge")

    report = await tuned(tmp_path / "runs", meddle=snap)
    assert report.run_status == "crashed"
    assert "flux.incident: no usable sample" in report.exit_reason


async def test_a_flux_beyond_the_limit_ends_the_tune(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def overheat(twins: TwinHandle) -> None:
        await trio.sleep(60)
        twins.plant.set("furnace.temperature_degC", 880.0)

    report = await tuned(tmp_path / "runs", targets_kw_m2=[20.0], meddle=overheat)
    assert report.run_status == "crashed"
    assert re.search(r"runaway: flux.incident is \d+\.\d kW/m\^2, above .* 30", report.exit_reason)


async def test_a_heater_beyond_its_limit_ends_the_tune(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def overheat(twins: TwinHandle) -> None:
        await trio.sleep(60)
        twins.plant.set("furnace.temperature_degC", 880.0)

    limits: dict[str, Any] = {
        "t_set_max_c": 700.0,
        "flux_limit_kw_m2": 500.0,
        "targets_kw_m2": [20.0],
    }
    report = await tuned(tmp_path / "runs", meddle=overheat, **limits)
    assert report.run_status == "crashed"
    assert re.search(r"runaway: heater.pv is \d+ degC, above the limit of 750", report.exit_reason)


async def test_a_flux_that_rises_after_the_setpoint_was_lowered_ends_the_tune(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def weld_the_relay(twins: TwinHandle) -> None:
        await until(lambda: twins.outputs()["cone.setpoint"] >= 700.0)
        await until(lambda: twins.outputs()["cone.setpoint"] < 700.0)
        hot = 730.0
        while True:
            twins.plant.set("furnace.temperature_degC", hot)
            hot += 2.0
            await trio.sleep(1.0)

    report = await tuned(tmp_path / "runs", targets_kw_m2=[45.0, 30.0], meddle=weld_the_relay)
    assert report.run_status == "crashed"
    assert "after heater.setpoint was lowered" in report.exit_reason
    assert artifact(tmp_path / "runs")["targets"][0]["status"] == "converged"


async def test_a_gauge_behind_a_shutter_is_noticed_before_the_heater_is_driven_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def shut(twins: TwinHandle) -> None:
        twins.fault("frozen", device="gauge")
        await trio.sleep_forever()

    report = await tuned(tmp_path / "runs", targets_kw_m2=[35.0], meddle=shut)
    assert report.run_status == "crashed"
    assert "the gauge does not see the heater" in report.exit_reason


async def test_a_refused_setpoint_ends_the_tune(autojump_clock: MockClock, tmp_path: Path) -> None:
    async def refuse(twins: TwinHandle) -> None:
        await trio.sleep(30)
        twins.fault("exception", device="cone", value=4)

    slow: dict[str, Any] = {"ramp_c_per_min": 60.0, "gauge_silence_s": 60.0}
    report = await tuned(tmp_path / "runs", meddle=refuse, **slow)
    assert report.run_status == "crashed"
    assert re.search(r"setpoint heater.setpoint = .* was refused: ", report.exit_reason)


# --- budgets --------------------------------------------------------------------------------------


async def test_a_target_that_never_gets_steady_ends_by_its_settle_budget_and_the_next_begins(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def restless(twins: TwinHandle) -> None:
        while twins.outputs()["cone.setpoint"] < 640.0:
            twins.plant.set("furnace.temperature_degC", 545.0 + 40.0 * (trio.current_time() % 2))
            await trio.sleep(0.5)
        await trio.sleep_forever()

    runs = tmp_path / "runs"
    wide: dict[str, Any] = {"targets_kw_m2": [20.0, 35.0], "pv_band_c": None}
    report = await tuned(runs, meddle=restless, settle_budget_s=120.0, **wide)
    assert report.run_status == "crashed"
    assert "1 of 2 targets missed: 20 kW/m^2 not steady within 120 s" in report.exit_reason
    first, second = artifact(runs)["targets"]
    assert (first["status"], first["reason"]) == ("not_converged", "settle")
    assert "iteration 1: noise" in first["detail"]
    assert second["status"] == "converged"


async def test_a_run_may_be_content_with_some_of_its_targets(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    some: dict[str, Any] = {
        "targets_kw_m2": [20.0, 50.0],
        "t_set_max_c": 700.0,
        "require_all": False,
    }
    report = await tuned(runs, **some)
    assert report.run_status == "completed"
    found = artifact(runs)
    assert found["status"] == "incomplete"
    first, second = found["targets"]
    assert first["status"] == "converged"
    assert (second["status"], second["reason"]) == ("not_converged", "bound")
    assert "700.0 degC, a bound of this tune, gives" in second["detail"]


async def test_a_target_out_of_iterations_says_how_near_it_got(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    poor: dict[str, Any] = {"targets_kw_m2": [35.0], "max_iterations": 2, "max_step_c": 5.0}
    report = await tuned(runs, initial_setpoint_c=500.0, **poor)
    assert report.run_status == "crashed"
    (only,) = artifact(runs)["targets"]
    assert (only["status"], only["reason"], only["iterations"]) == (
        "not_converged",
        "iterations",
        2,
    )
    assert "after 2 iterations; the last, 505.0 degC, gives" in only["detail"]
    assert kinds(report, TUNE).count("iteration") == 2


async def test_a_session_out_of_time_leaves_the_rest_unbegun(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    report = await tuned(runs, session_budget_s=150.0)
    assert report.run_status == "crashed"
    assert "the session's budget of 150 s ran out" in report.exit_reason
    targets = artifact(runs)["targets"]
    assert targets[0]["status"] == "converged"
    assert ("not_converged", "session") in [(one["status"], one["reason"]) for one in targets[1:]]
    assert (targets[-1]["status"], targets[-1]["reason"]) == ("not_started", "session")


# --- the operator ---------------------------------------------------------------------------------


@pytest.fixture
async def desk() -> AsyncIterator[trio.MemorySendChannel[OperatorCommand]]:
    send, Attended.orders = trio.open_memory_channel[OperatorCommand](10)
    Attended.screen = Screen()
    with send:
        yield send


async def test_a_paused_tune_holds_its_setpoint_and_spends_no_budget(
    autojump_clock: MockClock, tmp_path: Path, desk: trio.MemorySendChannel[OperatorCommand]
) -> None:
    held: set[float] = set()

    async def operate(twins: TwinHandle) -> None:
        await trio.sleep(40)
        await desk.send(OperatorCommand("pause", "maria"))
        await desk.send(OperatorCommand("pause", "maria"))
        await trio.sleep(1)
        for _ in range(30):
            held.add(round(twins.outputs()["cone.setpoint"], 3))
            await trio.sleep(10)
        await desk.send(OperatorCommand("resume", "maria"))

    report = await tuned(tmp_path / "runs", meddle=operate, cls=Attended, session_budget_s=280.0)
    assert report.run_status == "completed"
    assert len(held) == 1
    assert messages(report, TUNE + "paused") == ["paused by maria"]
    assert messages(report, TUNE + "resumed") == ["resumed by maria"]
    states = Attended.screen.states
    assert states[states.index("paused") + 1] == "resumed"


async def test_a_pause_of_the_safety_monitors_holds_a_tune_and_no_operator_resumes_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    held: set[float] = set()
    runs = tmp_path / "runs"
    async with cone_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = tuner(rig, runs)
        config = {**QUICK, "session_budget_s": 280.0}
        nursery.start_soon(one.run, request(None, procedure=HeatFluxTune.id, config=config))
        await trio.sleep(40)
        assert one.tell(OperatorCommand("pause", "maria"))
        await trio.sleep(1)
        one.hold_method("the lid is open")
        await trio.sleep(1)
        one.hold_method("")  # the monitor lets go on what maria still holds
        await trio.sleep(1)
        one.hold_method("the lid is open again")
        assert one.tell(OperatorCommand("resume", "maria"))
        await trio.sleep(1)
        for _ in range(30):
            held.add(round(twins.outputs()["cone.setpoint"], 3))
            await trio.sleep(10)
        one.hold_method("")
        await until(lambda: one.progress is None)
    assert len(held) == 1
    report = one.last_report
    assert report is not None
    assert report.run_status == "completed"
    assert messages(report, TUNE + "resumed") == ["resumed by the safety monitor"]
    assert messages(report, TUNE + "command.ignored") == [
        "'resume' of the safety monitor is ignored: paused by maria",
        "'resume' of maria is ignored: paused by the safety monitor",
    ]


async def test_an_accepted_measurement_ends_its_target_outside_the_tolerance(
    autojump_clock: MockClock, tmp_path: Path, desk: trio.MemorySendChannel[OperatorCommand]
) -> None:
    async def operate(twins: TwinHandle) -> None:
        await until(lambda: twins.outputs()["cone.setpoint"] >= 300.0)
        await desk.send(OperatorCommand("accept", "too early"))
        await desk.send(OperatorCommand("dance", "maria"))
        await trio.sleep(25)
        await desk.send(OperatorCommand("accept", "maria"))

    runs = tmp_path / "runs"
    one: dict[str, Any] = {"targets_kw_m2": [20.0], "initial_setpoint_c": 400.0, "window_s": 60.0}
    report = await tuned(runs, meddle=operate, cls=Attended, **one)
    assert report.run_status == "completed"
    (only,) = artifact(runs)["targets"]
    assert (only["status"], only["setpoint_c"], only["iterations"]) == ("accepted", 400.0, 1)
    assert only["flux_kw_m2"] < 15.0
    assert messages(report, TUNE + "accepted") == ["accepted by maria"]
    assert messages(report, TUNE + "command.ignored") == [
        "'accept' of too early is ignored: nothing is measured yet",
        "'dance' of maria is ignored: a tune knows no such command",
    ]


async def test_after_an_accepted_target_a_paused_tune_waits_before_the_next(
    autojump_clock: MockClock, tmp_path: Path, desk: trio.MemorySendChannel[OperatorCommand]
) -> None:
    held: list[float] = []

    async def operate(twins: TwinHandle) -> None:
        await trio.sleep(60)
        await desk.send(OperatorCommand("pause"))
        await desk.send(OperatorCommand("accept"))
        await trio.sleep(120)
        held.append(twins.outputs()["cone.setpoint"])
        await desk.send(OperatorCommand("resume"))

    runs = tmp_path / "runs"
    two: dict[str, Any] = {"targets_kw_m2": [20.0, 35.0], "window_s": 100.0}
    report = await tuned(runs, meddle=operate, cls=Attended, **two)
    assert report.run_status == "completed"
    first, second = artifact(runs)["targets"]
    assert (first["status"], second["status"]) == ("accepted", "converged")
    assert held == [pytest.approx(first["setpoint_c"], abs=0.1)]


async def test_the_screen_shows_the_live_numbers(
    autojump_clock: MockClock, tmp_path: Path, desk: trio.MemorySendChannel[OperatorCommand]
) -> None:
    await tuned(tmp_path / "runs", cls=Attended, targets_kw_m2=[20.0])
    ticks = Attended.screen.ticks
    measured = next(tick for tick in ticks if tick.state == "measured")
    assert (measured.kind, measured.target, measured.iteration) == ("heat_flux_tune", 20.0, 1)
    assert measured.setpoint is not None
    assert measured.mean == pytest.approx(20.0, abs=2.0)
    assert measured.noise is not None
    assert measured.slope is not None
    assert [tick.elapsed_s for tick in ticks] == sorted(tick.elapsed_s for tick in ticks)
    assert Attended.screen.states[:2] == ["moving", "settling"]
    assert Attended.screen.states[-1] == "converged"


async def test_the_conductor_hands_the_operators_commands_to_the_tune(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    config = {**QUICK, "targets_kw_m2": [20.0], "window_s": 100.0}
    async with cone_rig() as (rig, _), trio.open_nursery() as nursery:
        one = tuner(rig, tmp_path / "runs")
        assert not one.tell(OperatorCommand("accept", "maria"))
        nursery.start_soon(one.run, request(None, procedure=HeatFluxTune.id, config=config))
        await trio.sleep(60)
        assert one.tell(OperatorCommand("accept", "maria"))
        await until(lambda: one.progress is None)
    assert one.last_report is not None
    assert one.last_report.run_status == "completed"
    assert artifact(tmp_path / "runs")["targets"][0]["detail"] == "by maria"


async def test_a_procedure_that_does_not_listen_is_not_told_for_ever(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with cone_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path / "runs")
        nursery.start_soon(one.run, request(None, procedure=FreeRun.id))
        await trio.sleep(5)
        told = [one.tell(OperatorCommand("pause")) for _ in range(20)]
        one.stop("enough")
    assert told == [True] * 16 + [False] * 4


# --- stopping and recording -----------------------------------------------------------------------


async def test_a_stop_in_the_middle_ends_at_once_and_keeps_what_was_found(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    async with cone_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = tuner(rig, runs)
        nursery.start_soon(one.run, request(None, procedure=HeatFluxTune.id, config={**QUICK}))
        await until(lambda: twins.outputs()["cone.setpoint"] >= 640.0)
        stopped_at_s = trio.current_time()
        shown = (one.metadata or {}).get("status", "")
        one.stop("SIGINT")
        await until(lambda: one.progress is None)
        assert "target 2/3, 35 kW/m^2, iteration 1" in shown
        assert twins.outputs()["cone.setpoint"] == pytest.approx(20.0, abs=0.1)
        assert trio.current_time() - stopped_at_s < 2.0
    assert one.last_report is not None
    assert (one.last_report.run_status, one.last_report.exit_reason) == ("aborted", "SIGINT")
    found = artifact(runs)
    assert found["status"] == "aborted"
    statuses = [(target["status"], target.get("reason")) for target in found["targets"]]
    assert statuses == [
        ("converged", None),
        ("not_converged", "ended"),
        ("not_started", None),
    ]


async def test_only_the_tunes_own_channels_are_recorded(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with cone_rig() as (rig, _):
        of = request(
            None,
            procedure=HeatFluxTune.id,
            config={**QUICK, "targets_kw_m2": [20.0], "record_channels": ["heater.power"]},
        )
        one = tuner(rig, tmp_path / "runs")
        report = await one.run(of)
    assert report.bundle is not None
    assert recorded_channels(report.bundle) == {
        "flux.incident",
        "heater.pv",
        "heater.setpoint",
        "heater.power",
    }


def recorded_channels(bundle: Path) -> set[str]:
    with closing(sqlite3.connect(bundle / "inflight.sqlite")) as db:
        names = dict(db.execute("select id, name from channels"))
        batches = db.execute("select channel_id from batches").fetchall()
    return {names[number] for (ids,) in batches for number in memoryview(ids).cast("H")}


# --- before anything heats ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"flux_channel": "flux.incidnet"}, "channel_unknown", "did you mean 'flux.incident'"),
        ({"record_channels": ["mass"]}, "channel_unknown", "record_channels 'mass'"),
        ({"flux_channel": "heater.pv"}, "wrong_kind", "of kind temperature, not heat_flux"),
        ({"heater_channel": "heater.pv"}, "same_channel", "are both heater.pv"),
        ({"heater_channel": "purge.flow"}, "wrong_kind", "of kind flow, not temperature"),
        ({"t_set_max_c": 1200.0}, "outside_limits", "t_set_max_c = 1200 is outside the limits"),
        ({"end_setpoint_c": -5.0}, "outside_limits", "end_setpoint_c = -5 is outside"),
        ({"targets_kw_m2": [150.0]}, "out_of_reach", "more than a black heater at"),
        ({"targets_kw_m2": []}, "config", "at least 1 item"),
        ({"targets_kw_m2": [-3.0]}, "config", "target -3 kW/m^2 is not more than 0"),
        ({"t_set_min_c": 900.0}, "config", "t_set_min_c = 900 is not below t_set_max_c"),
        ({"initial_setpoint_c": 50.0}, "config", "initial_setpoint_c = 50 is outside"),
        ({"settle_budget_s": 20.0}, "config", "min_settle_s + window_s alone take 30 s"),
        ({"flux_limit_kw_m2": 40.0}, "config", "is not below flux_limit_kw_m2 = 40"),
        ({"pv_limit_c": 800.0}, "config", "the highest setpoint would abort the tune"),
        ({"tolerance": 3.0}, "config", "Extra inputs"),
    ],
)
async def test_a_tune_that_can_not_work_is_refused_before_anything_heats(
    change: dict[str, Any], code: str, says: str, autojump_clock: MockClock, tmp_path: Path
) -> None:
    report = await tuned(tmp_path / "runs", **change)
    assert report.run_status == "refused"
    assert says in report.exit_reason
    assert any(one.code.endswith("." + code) for one in report.problems)
    assert not (tmp_path / "tunes").exists()


async def test_a_tune_does_not_pretend_to_walk_a_method(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    steps = method({"kind": "prompt", "message": "Open the shutter."})
    async with cone_rig() as (rig, _):
        of = request(steps, procedure=HeatFluxTune.id, config=QUICK)
        report = await tuner(rig, tmp_path / "runs").run(of)
    assert [one.code for one in report.problems if one.blocking] == ["heat_flux_tune.has_method"]


async def test_a_heater_that_may_not_jump_asks_for_a_ramp(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    whole = cone_profile()
    channels = tuple(
        one.model_copy(update={"limits": one.limits.model_copy(update={"max_rate_per_s": 2.0})})
        if one.name == "heater.setpoint" and one.limits is not None
        else one
        for one in whole.channels
    )
    limited = whole.model_copy(update={"channels": channels})
    report = await tuned(tmp_path / "runs", profile=limited, targets_kw_m2=[20.0])
    assert report.run_status == "refused"
    assert "give ramp_c_per_min = 108 or less" in report.exit_reason
    slow: dict[str, Any] = {"targets_kw_m2": [20.0], "ramp_c_per_min": 108.0}
    report = await tuned(tmp_path / "runs", profile=limited, **slow)
    assert report.run_status == "completed"


async def test_a_result_that_can_not_be_written_is_a_failed_tune(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    (tmp_path / "tunes").write_text("a file where the folder should be")
    report = await tuned(tmp_path / "runs", targets_kw_m2=[20.0])
    assert report.run_status == "crashed"
    assert "could not be written" in report.exit_reason
