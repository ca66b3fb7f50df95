"""Each rung of the ladder by which a run is brought to rest is on record, with its time."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from capa.config.problems import Problem
from capa.experiment.method import SafeShutdownStep
from capa.experiment.procedures.base import ProcedureContext
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capad.aftermath import rungs_after
from capad.guarding import guard_report
from capad.jobs import Job, JobState
from capad.reports import interrupted, of_run
from tests.support.engine import bench_rig, conductor, method, request

LONG = method(
    {"kind": "hold", "target": {"name": "heater.setpoint"}, "value": 100.0, "duration_s": 14_400.0}
)
JOB = Job("000001-x", "pmma.method.toml", "pmma.method.toml", "alice", 1971, JobState.ACTIVE)
AT = datetime(2026, 11, 20, 14, 2, tzinfo=UTC)


class Script(RecipeRunner):
    id: ClassVar[str] = "test.script"

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        return []


class Deaf(Script):
    async def run(self, ctx: ProcedureContext) -> None:
        await trio.sleep_forever()


class Cooling(Script):
    async def run(self, ctx: ProcedureContext) -> None:
        await ctx.external_stop.wait()
        assert ctx.method_executor is not None
        cool = SafeShutdownStep(cool_target={"heater.setpoint": 50.0}, duration_s=3600)
        await ctx.method_executor.run_segment(cool)


def of_kind(report: RunReport, kind: str) -> list[tuple[str, dict[str, Any]]]:
    assert report.bundle is not None
    with closing(sqlite3.connect(report.bundle / "events.sqlite")) as db:
        rows = db.execute(
            "select message, metadata_json from events where kind = ? order by id", (kind,)
        ).fetchall()
    return [(message, json.loads(metadata)) for message, metadata in rows]


def words(report: RunReport) -> list[str]:
    return [rung.words for rung in report.ladder]


def seconds(report: RunReport, part: str) -> float:
    """When a rung came about, in seconds since the run was armed."""
    at = next(rung.at_utc for rung in report.ladder if part in rung.words)
    return (at - report.started_utc).total_seconds()


def told(one: Conductor) -> RunReport:
    assert one.last_report is not None
    return one.last_report


async def test_a_stop_is_told_rung_by_rung_from_who_asked_to_what_was_proven(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(60)
        one.stop("SIGINT: an operator asked for an abort", by="SIGINT")
    report = told(one)
    assert words(report)[:4] == [
        "stop asked for by SIGINT: SIGINT: an operator asked for an abort",
        "step 1 (hold) was left",
        "the procedure returned",
        "the gate was closed to the run; the safe state is driven",
    ]
    assert sorted(words(report)[4:]) == [
        "heater.setpoint = 20: proven, read back 20",
        "purge.flow = 0: proven, read back 0",
    ]
    assert seconds(report, "stop asked for") == pytest.approx(60, abs=0.1)
    assert 60 < seconds(report, "heater.setpoint = 20: proven") < 61
    (_, metadata) = of_kind(report, "run.stop_requested")[0]
    assert metadata["source"] == "SIGINT"
    text = of_run(JOB, report).as_text()
    assert "How it was brought to rest (UTC):" in text
    assert text.index("stop asked for by SIGINT") < text.index("step 1 (hold) was left")
    data = json.loads(of_run(JOB, report).as_json())
    assert [rung["words"] for rung in data["run"]["ladder"]] == words(report)


async def test_the_end_of_the_grace_is_an_event_and_a_rung(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path, procedures={Script.id: Deaf}, grace_s=5.0)
        nursery.start_soon(one.run, request(None, procedure=Script.id))
        await trio.sleep(10)
        one.stop("SIGINT")
    report = told(one)
    assert seconds(report, "5 s of grace were over") == pytest.approx(15, abs=0.1)
    assert seconds(report, "the gate was closed") == pytest.approx(15, abs=0.1)
    ((message, metadata),) = of_kind(report, "run.grace_ended")
    assert "had not returned 5 s after the stop" in message
    assert metadata == {"grace_s": 5.0, "stop": "SIGINT"}


async def test_a_second_stop_is_a_rung_of_its_own(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path, procedures={Script.id: Cooling})
        nursery.start_soon(one.run, request(None, procedure=Script.id))
        await trio.sleep(10)
        one.stop("SIGINT")
        await trio.sleep(60)
        one.stop("SIGINT", by="SIGINT")
    report = told(one)
    assert seconds(report, "stop asked for again by SIGINT") == pytest.approx(70, abs=0.1)
    assert [metadata["source"] for _, metadata in of_kind(report, "run.cooldown_ended")] == [
        "SIGINT"
    ]


async def test_a_stop_of_the_safety_monitors_says_so_and_what_it_forgoes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(10)
        one.safety_stop("heater.pv = 501 degC: alarm at > 500", at_once=True)
    found = words(told(one))
    assert found[0] == "stop asked for by the safety monitor: heater.pv = 501 degC: alarm at > 500"
    assert "a cooldown dwell is forgone: the safe state is driven at once" in found


async def test_an_output_that_was_not_reached_is_told_in_its_place(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(5)
        twins.fault("silence", link="oven")
        one.stop("SIGINT")
    assert any(one.startswith("heater.setpoint = 20: unreachable") for one in words(told(one)))


async def test_a_run_that_came_to_its_end_has_no_such_story(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    short = method(
        {"kind": "hold", "target": {"name": "heater.setpoint"}, "value": 50.0, "duration_s": 1.0}
    )
    async with bench_rig() as (rig, _):
        report = await conductor(rig, tmp_path).run(request(short))
    assert "brought to rest" not in of_run(JOB, report).as_text()


# --- a daemon that was gone ---------------------------------------------------------------------


def left_behind(folder: Path, result: str) -> Path:
    """What a daemon that died, and the guardian after it, leave on disk."""
    bundle = folder / "run-1"
    bundle.mkdir()
    with closing(sqlite3.connect(bundle / "events.sqlite")) as db:
        db.execute("create table events (id integer primary key, t_utc, kind, message)")
        rows = [
            (AT, "run.armed", "pmma"),
            (AT + timedelta(seconds=60), "run.stop_requested", "SIGINT"),
            (AT + timedelta(seconds=60.2), "command.intent", "heater.setpoint = 300"),
        ]
        for at, kind, message in rows:
            db.execute(
                "insert into events (t_utc, kind, message) values (?, ?, ?)",
                (at.isoformat(), kind, message),
            )
        db.commit()
    record = {
        "started_utc": (AT + timedelta(seconds=64)).isoformat(),
        "ended_utc": (AT + timedelta(seconds=64.1)).isoformat(),
        "exit_code": 0,
        "error": "",
        "service": {"service_result": result, "exit_status": "ABRT"},
        "verdicts": {
            "heater.setpoint": {
                "channel": "heater.setpoint",
                "value": 20.0,
                "verdict": "proven",
                "detail": "read back 20",
            }
        },
    }
    (folder / "guard_verdicts.json").write_text(json.dumps(record))
    return bundle


def test_a_daemon_that_hung_is_told_from_its_last_event_to_the_guardians_proof(
    tmp_path: Path,
) -> None:
    bundle = left_behind(tmp_path, "watchdog")
    guard, _ = guard_report(tmp_path)
    assert guard is not None
    text = interrupted(JOB, "bundle x", rungs_after(bundle, guard)).as_text()
    told = [line.strip() for line in text.splitlines() if line.startswith("  14:")]
    assert told == [
        "14:03:00.000  SIGINT",
        "14:03:00.200  the last that was recorded: command.intent: heater.setpoint = 300",
        "14:03:04.000  the daemon showed no life: systemd's watchdog ended it (ABRT)",
        "14:03:04.100  capad-guard: heater.setpoint = 20: proven, read back 20",
    ]


@pytest.mark.parametrize("text", [b"", b"no database", None])
def test_a_bundle_whose_events_can_not_be_read_still_gets_the_guardians_word(
    tmp_path: Path, text: bytes | None
) -> None:
    bundle = left_behind(tmp_path, "signal")
    file = bundle / "events.sqlite"
    file.unlink() if text is None else file.write_bytes(text)
    rungs = rungs_after(bundle, guard_report(tmp_path)[0])
    assert [rung.words for rung in rungs] == [
        "the daemon was killed (ABRT)",
        "capad-guard: heater.setpoint = 20: proven, read back 20",
    ]


@pytest.mark.parametrize("time", [None, 20261121, 1.5, b"2026", "", "noon", "0001-01-01T00+23:59"])
def test_an_event_without_a_time_is_left_out_and_the_others_are_told(
    tmp_path: Path, time: object
) -> None:
    bundle = left_behind(tmp_path, "signal")
    with closing(sqlite3.connect(bundle / "events.sqlite")) as db, db:
        added = (time, "run.crashed", "altered")
        db.execute("insert into events (t_utc, kind, message) values (?, ?, ?)", added)
        db.execute("update events set t_utc = ? where kind = 'command.intent'", (time,))
    words = [rung.words for rung in rungs_after(bundle, guard_report(tmp_path)[0])]
    assert words[:2] == ["SIGINT", "the daemon was killed (ABRT)"]
    assert not any("altered" in said for said in words)


def test_an_event_whose_text_is_damaged_is_told_with_the_others(tmp_path: Path) -> None:
    bundle = left_behind(tmp_path, "signal")
    with closing(sqlite3.connect(bundle / "events.sqlite")) as db, db:
        db.execute("update events set message = cast(x'53494749ce54' as text) where id = 2")
    words = [rung.words for rung in rungs_after(bundle, guard_report(tmp_path)[0])]
    assert words[0] == "SIGI\\xceT"
    assert words[1].startswith("the last that was recorded")


def test_a_time_without_an_offset_is_utc(tmp_path: Path) -> None:
    bundle = left_behind(tmp_path, "signal")
    naive = (AT + timedelta(seconds=62)).replace(tzinfo=None).isoformat()
    with closing(sqlite3.connect(bundle / "events.sqlite")) as db, db:
        db.execute("update events set t_utc = ? where kind = 'run.stop_requested'", (naive,))
    rungs = rungs_after(bundle, guard_report(tmp_path)[0])
    assert [rung.at_utc for rung in rungs if rung.words == "SIGINT"] == [AT + timedelta(seconds=62)]
    assert "SIGINT" in interrupted(JOB, "bundle x", rungs).as_text()
