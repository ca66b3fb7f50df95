"""The safety monitor on a bench of twins: what it does to the rig, to the run, to the next one."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from capa.experiment.method import Method
from capa.experiment.procedures.base import ProcedureContext
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capa.runtime.safety_book import RUNS_FREE
from capa.runtime.trips import Trips
from tests.support.engine import method, quiet_log, request
from tests.support.watched import Watched, furnace_profile, until, watched

HEATER = {"name": "heater.setpoint"}


def hold(value: float = 100.0, duration_s: float = 14_400.0, **step: object) -> Mapping[str, Any]:
    return {"kind": "hold", "target": HEATER, "value": value, "duration_s": duration_s, **step}


LONG = method(hold())


async def under(
    w: Watched, of: Method, reports: list[RunReport], procedure: str = RecipeRunner.id
) -> None:
    reports.append(await w.conductor.run(request(of, procedure=procedure)))


def events(report: RunReport, *kinds: str) -> list[tuple[str, str]]:
    assert report.bundle is not None
    with sqlite3.connect(report.bundle / "events.sqlite") as db:
        rows = db.execute("select kind, message from events order by id").fetchall()
    db.close()
    return [row for row in rows if row[0] in kinds]


def assert_outputs_safe(w: Watched) -> None:
    assert w.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
    assert w.outputs()["mfc.setpoint"] == 0.0


async def during(w: Watched, of: Method, after_s: float, *, kind: str, device: str) -> RunReport:
    """Run a method, let a fault befall the rig, return the report."""
    reports: list[RunReport] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(under, w, of, reports)
        await trio.sleep(after_s)
        w.twins.fault(kind, device=device)
        await until(lambda: reports)
    return reports[0]


# --- safe_shutdown, trips ------------------------------------------------------------------------


async def test_a_sensor_break_makes_the_rig_safe_and_latches_and_the_next_run_is_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        report = await during(w, LONG, 20.0, kind="sensor_break", device="furnace")
        assert_outputs_safe(w)
        assert report.run_status == "aborted"
        assert "heater.pv: furnace says sensor_fail" in report.exit_reason
        assert "sensor_fail" in report.trip
        assert w.tripped == ["sensor heater.pv"]
        raised = events(report, "safety.raised", "safety.tripped", "safety.driven")
        assert [kind for kind, _ in raised][:2] == ["safety.raised", "safety.tripped"]
        refused = await w.conductor.run(request(LONG))
        assert refused.run_status == "refused"
        assert [p.code for p in refused.problems][:2] == ["rig.alarm", "rig.tripped"]
        assert w.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)


class Deaf(RecipeRunner):
    """A procedure that minds neither a stop nor a cancellation."""

    id: ClassVar[str] = "test.deaf"

    async def run(self, ctx: ProcedureContext) -> None:
        assert ctx.method_executor is not None
        await ctx.method_executor._command_setpoint("heater.setpoint", 300.0)
        with trio.CancelScope(shield=True):
            await trio.sleep(120)


async def test_the_safe_state_is_driven_at_once_though_the_procedure_goes_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path, procedures={Deaf.id: Deaf}) as w:
        reports: list[RunReport] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(under, w, LONG, reports, Deaf.id)
            await trio.sleep(20)
            assert w.outputs()["furnace.setpoint"] == pytest.approx(300.0)
            w.twins.fault("sensor_break", device="furnace")
            await trio.sleep(2.0)  # one of debounce, one poll, one exchange
            assert_outputs_safe(w)
            assert reports == []
        assert reports[0].run_status == "aborted"


class Cooling(RecipeRunner):
    """A procedure that cools down for an hour after whatever happened."""

    id: ClassVar[str] = "test.cooling"

    async def run(self, ctx: ProcedureContext) -> None:
        assert ctx.method_executor is not None
        await super().run(ctx)
        cooling = {"kind": "safe_shutdown", "cool_target": {"heater.setpoint": 90.0}}
        await ctx.method_executor.run_segment(method({**cooling, "duration_s": 3600.0}).steps)


async def test_an_abort_lets_a_cooldown_be_and_a_trip_ends_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path, procedures={Cooling.id: Cooling}) as w:
        reports: list[RunReport] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(under, w, LONG, reports, Cooling.id)
            await trio.sleep(20)
            turn_the_knob(w, 500.0)
            await trio.sleep(60)
            assert w.outputs()["furnace.setpoint"] == pytest.approx(90.0)
            w.twins.fault("sensor_break", device="furnace")
            await until(lambda: reports)
        assert reports[0].run_status == "aborted"
        assert "reads 500 degC, commanded was 100" in reports[0].exit_reason
        assert_outputs_safe(w)


async def test_a_trip_outlives_its_cause_and_is_cleared_by_name_only_once_it_is_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        await during(w, LONG, 20.0, kind="sensor_break", device="furnace")
        refusal = w.monitor.clear(by="maria", reason="new sensor", user="maria")
        assert "it still holds: heater.pv: furnace says sensor_fail" in refusal
        w.twins.fault("sensor_break", device="furnace", active=False)
        await trio.sleep(60)
        assert w.tripped == ["sensor heater.pv"]
        assert "a name and a reason" in w.monitor.clear(by=" ", reason="x", user="maria")
        assert "a name and a reason" in w.monitor.clear(by="maria", reason="", user="maria")
        assert w.monitor.clear(by="maria", reason="new sensor", user="root") == ""
        assert "no trip" in w.monitor.clear(by="maria", reason="again", user="root")
        again = await w.conductor.run(request(method(hold(duration_s=1.0))))
        assert (again.run_status, again.trip) == ("completed", "")
    journal = [json.loads(line) for line in (tmp_path / "trips.jsonl").read_text().splitlines()]
    assert [record["event"] for record in journal] == ["latched", "cleared"]
    assert (journal[1]["by"], journal[1]["user"]) == ("maria", "root")
    assert journal[1]["reason"] == "new sensor"


async def test_an_alarm_says_value_and_threshold_when_it_still_holds(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        w.twins.plant.set("furnace.temperature_degC", 600.0)
        await trio.sleep(2)
        assert w.tripped == ["alarm over"]
        assert_outputs_safe(w)
        w.twins.plant.set("furnace.temperature_degC", 499.0)  # within the hysteresis
        await trio.sleep(1)
        refusal = w.monitor.clear(by="maria", reason="let me", user="maria")
        assert "alarm at > 500 degC" in refusal
        w.twins.plant.set("furnace.temperature_degC", 400.0)
        await trio.sleep(1)
        assert w.monitor.clear(by="maria", reason="cooled", user="maria") == ""


async def test_a_trip_survives_the_process_and_shuts_the_gate_of_the_next(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        w.twins.plant.set("furnace.temperature_degC", 600.0)
        await trio.sleep(2)
        store = w.store
    again = Trips(store.load(), log=quiet_log())
    async with watched(tmp_path, trips=again) as w:
        await trio.sleep(2)
        assert w.tripped == ["alarm over"]
        report = await w.conductor.run(request(LONG))
        assert [p.code for p in report.problems] == ["rig.tripped"]
        assert "capa safety clear" in str(report.problems[0].hint)


# --- heat that nobody asked for -------------------------------------------------------------------


async def test_a_trip_that_the_disk_would_not_take_is_kept_once_it_does(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        w.store.file.mkdir()
        w.twins.fault("sensor_break", device="furnace")
        await until(lambda: w.tripped)
        await trio.sleep(10)
        assert w.trips.unsaved
        w.store.file.rmdir()
        await until(lambda: not w.trips.unsaved)
        assert [trip.rule for trip in w.store.load()] == ["sensor heater.pv"]


async def test_a_welded_relay_is_noticed_while_nothing_runs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        await trio.sleep(120)
        assert w.tripped == []
        w.twins.plant.set("furnace.stuck_power_pct", 30.0)
        await until(lambda: w.trips.latched, within_s=600)
        assert w.tripped == ["unasked rise of heater.pv"]
        assert w.twins.plant.get("furnace.pv_degC") < 150.0
        latest = w.rig.bus.latest("heater.power")
        assert latest is not None
        assert latest.value == 0.0  # the controller knows nothing of it
        assert w.monitor.clear(by="maria", reason="?", user="maria")


async def test_a_knob_turned_while_nothing_runs_is_turned_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        assert (await w.conductor.run(request(method(hold(duration_s=1.0))))).trip == ""
        turn_the_knob(w, 400.0)
        assert w.outputs()["furnace.setpoint"] == pytest.approx(400.0)
        await trio.sleep(8)
        assert_outputs_safe(w)
        assert w.tripped == []


def turn_the_knob(w: Watched, value: float) -> None:
    from adapters.watlow.codec import SETPOINT

    (line,) = (one for name, one in w.twins._rig.lines.items() if name == "oven")
    (device,) = line.devices
    device._values[SETPOINT] = value  # type: ignore[attr-defined]  # behind the twin's back


# --- abort, pause, warn --------------------------------------------------------------------------


async def test_a_mute_device_ends_the_run_and_what_was_not_reached_is_tried_until_it_is(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    retried_only = {"output": [{"channel": "heater.setpoint", "action": "off"}]}
    async with watched(tmp_path, furnace_profile(safety=retried_only)) as w:
        report = await during(w, LONG, 20.0, kind="silence", device="furnace")
        assert report.run_status == "aborted"
        assert "heater.pv: nothing heard for" in report.exit_reason
        assert "check furnace: link oven (" in report.exit_reason
        assert "not a byte came; check power, address, baud rate" in report.exit_reason
        assert report.verdicts["heater.setpoint"].verdict == "unreachable"
        assert w.tripped == ["safe state"]
        assert w.outputs()["furnace.setpoint"] == pytest.approx(100.0)
        assert "could not be brought to 20" in w.monitor.clear(by="m", reason="r", user="m")
        await trio.sleep(60)
        w.twins.fault("silence", device="furnace", active=False)
        await trio.sleep(10)
        assert_outputs_safe(w)
        assert w.tripped == ["safe state"]
        assert w.monitor.clear(by="maria", reason="cable", user="maria") == ""


async def test_an_instrument_switched_off_while_nothing_runs_needs_no_name_to_come_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        w.twins.fault("silence", device="furnace")
        await trio.sleep(30)
        assert any("nothing heard" in words for words in w.monitor.forbidding().values())
        report = await w.conductor.run(request(LONG))
        assert {p.code for p in report.problems} == {"rig.alarm", "rig.device_silent"}
        turn_the_knob(w, 300.0)  # comes back with a setpoint of its own
        w.twins.fault("silence", device="furnace", active=False)
        await trio.sleep(10)
        assert w.monitor.forbidding() == {}
        assert w.tripped == []
        assert_outputs_safe(w)


async def test_a_pause_holds_the_method_and_its_time_and_lets_them_go_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        reports: list[RunReport] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(under, w, method(hold(duration_s=60.0), hold(30.0, 1.0)), reports)
            await trio.sleep(20)
            w.twins.plant.set("furnace.temperature_degC", 480.0)
            w.twins.fault("frozen", device="furnace")
            await trio.sleep(120)
            assert reports == []
            assert w.monitor.forbidding()
            assert w.outputs()["furnace.setpoint"] == pytest.approx(100.0)
            w.twins.plant.set("furnace.temperature_degC", 100.0)
            w.twins.fault("frozen", device="furnace", active=False)
            began_s = trio.current_time()
            await until(lambda: reports)
            assert 40 <= trio.current_time() - began_s <= 44
        (report,) = reports
        assert report.run_status == "completed"
        assert [kind for kind, _ in events(report, "method.held", "method.released")] == [
            "method.held",
            "method.released",
        ]


async def test_little_space_for_bundles_stops_the_run_and_blocks_the_next_until_there_is_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    free = {RUNS_FREE: 5000.0}

    async def measure() -> Mapping[str, float]:
        await trio.lowlevel.checkpoint()
        return free

    async with watched(tmp_path, measure=measure) as w:
        reports: list[RunReport] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(under, w, LONG, reports)
            await trio.sleep(20)
            free[RUNS_FREE] = 500.0
            await trio.sleep(10)
            assert reports == []
            free[RUNS_FREE] = 50.0
            await trio.sleep(10)
        assert reports[0].run_status == "aborted"
        assert "runs disk free = 50 MB: alarm at < 100 MB" in reports[0].exit_reason
        assert w.monitor.forbidding()
        free[RUNS_FREE] = 5000.0
        await trio.sleep(10)
        assert w.monitor.forbidding() == {}


async def test_a_recorder_that_falls_behind_is_said(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched(tmp_path) as w:
        await trio.sleep(1)
        assert w.monitor.raised == {}
        monkeypatch.setattr(Conductor, "recorder_lag_s", property(lambda _: 60.0))
        await until(lambda: w.monitor.raised, within_s=1)
        (words,) = w.monitor.raised.values()
        assert words == "recorder lag = 60 s: alarm at > 5 s"


async def test_nothing_is_armed_while_the_safe_state_is_still_being_driven(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        assert (await w.conductor.run(request(method(hold(duration_s=1.0))))).trip == ""
        w.twins.fault("silence", device="mfc")
        turn_the_knob(w, 400.0)
        await until(lambda: w.monitor.raised)
        turn_the_knob(w, 20.0)
        await until(lambda: not w.monitor.raised)
        assert w.monitor.forbidding() == {"safe state": "the safe state is being driven"}
        report = await w.conductor.run(request(LONG))
        assert report.problems[0].code == "rig.alarm"
        assert report.run_status == "refused"
        w.twins.fault("silence", device="mfc", active=False)
        await until(lambda: not w.monitor.forbidding())


async def test_the_monitor_shows_life_while_it_drives_an_unreachable_rig(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with watched(tmp_path) as w:
        w.twins.fault("silence", link="oven")
        w.twins.plant.set("furnace.temperature_degC", 600.0)
        for _ in range(400):
            await trio.sleep(0.1)
            assert trio.current_time() - w.monitor.beat_at_s < 0.5


async def test_a_warning_is_said_and_recorded_and_stands_in_nobodys_way(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    low = {"channel": "heater.pv", "max_per_s": 0.5, "window_s": 5.0, "action": "warn"}
    async with watched(tmp_path, furnace_profile(safety={"rate": [low]})) as w:
        reports: list[RunReport] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(under, w, method(hold(duration_s=60.0)), reports)
            await trio.sleep(20)
            w.twins.plant.set("furnace.temperature_degC", 300.0)
            await until(lambda: w.monitor.raised)
            assert w.monitor.forbidding() == {}
            assert w.outputs()["furnace.setpoint"] == pytest.approx(100.0)
        (report,) = reports
        assert report.run_status == "completed"
        (raised,) = report.raised
        assert "heater.pv changes by" in raised
        assert "the most it may is 0.5" in raised
        assert (await w.conductor.run(request(method(hold(duration_s=1.0))))).bundle is not None


# --- overrides -----------------------------------------------------------------------------------


async def test_an_override_is_in_force_for_its_step_only_and_on_record(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    overrides = [{"alarm_id": "over", "threshold": 650.0}, {"alarm_id": "warm", "disable": True}]
    of = method(hold(duration_s=30.0, safety_overrides=overrides), hold(duration_s=30.0))
    async with watched(tmp_path, furnace_profile()) as w:
        reports: list[RunReport] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(under, w, of, reports)
            await trio.sleep(10)
            w.twins.plant.set("furnace.temperature_degC", 600.0)
            w.twins.fault("frozen", device="furnace")
            await trio.sleep(10)
            assert w.trips.latched == ()
            await trio.sleep(20)
            assert w.tripped == ["alarm over"]
        told = events(reports[0], "safety.override.applied", "safety.override.restored")
        assert told[0][1].endswith("alarm over at 650, alarm warm off")
        assert told[1][1].endswith("alarm over at 500, alarm warm at 450")
