"""The later stages and the runs between them: on the twins, by the conductor, in virtual time."""

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from adapters.twin.memory import TwinHandle
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capa.runtime.rig import Rig
from capa.runtime.safe_state import ChannelVerdict, Verdict, drive_safe_state
from capa.runtime.stage_store import Pending, StageStore
from capa.runtime.stages import LaterStages
from capad.jobs import Job, JobState
from capad.reports import of_run
from tests.support.cooling import HEAT_OFF, PURGE_OFF
from tests.support.engine import bench_rig, conductor, method, profile, quiet_log, request
from tests.support.watched import at_once

PURGE = {"kind": "setpoint", "target": {"name": "purge.flow"}, "value": 50.0}
SHORT = method(
    PURGE, {"kind": "hold", "target": {"name": "heater.setpoint"}, "value": 50.0, "duration_s": 5.0}
)
WAIT = {**PURGE_OFF, "when": {"channel": "heater.pv", "op": "<", "value": -50.0}}
JOB = Job("000001-x", "pmma.method.toml", "pmma.method.toml", "alice", 1971, JobState.ACTIVE)


@asynccontextmanager
async def staged(
    folder: Path, timeout_s: float = 60.0
) -> AsyncIterator[tuple[Conductor, LaterStages, TwinHandle]]:
    """A bench whose purge stays for a time after each run."""
    bench = profile(safe_state=[HEAT_OFF, {**WAIT, "timeout_s": timeout_s}])
    async with bench_rig(bench) as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, folder / "runs")
        later = LaterStages(
            bench.safe_state,
            rig.registry,
            rig.bus,
            drive=partial(_drive, rig),
            store=StageStore(folder / "safe_stages.json"),
            log=quiet_log(),
            save=at_once,
        )
        one.later = later
        nursery.start_soon(later.run)
        yield one, later, twins
        nursery.cancel_scope.cancel()


async def _drive(rig: Rig, pending: Pending) -> Mapping[str, ChannelVerdict]:
    return await drive_safe_state(rig, budget_s=5.0, stage=pending.stage)


def called_off(report: RunReport) -> list[str]:
    assert report.bundle is not None
    with closing(sqlite3.connect(report.bundle / "events.sqlite")) as db:
        rows = db.execute("select message from events where kind = 'safe_state.called_off'")
        return [message for (message,) in rows]


async def test_a_run_is_told_at_once_and_its_purge_goes_on_until_its_time_is_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with staged(tmp_path) as (one, later, twins):
        report = await one.run(request(SHORT))
        assert report.run_status == "completed"
        ended_s = trio.current_time()
        assert later.waiting.startswith("purge.flow to 0 when heater.pv < -50 degC, 60 s left")
        assert twins.outputs()["mfc.setpoint"] == pytest.approx(50.0, abs=0.1)
        await trio.sleep_until(ended_s + 58)
        assert twins.outputs()["mfc.setpoint"] == pytest.approx(50.0, abs=0.1)
        await trio.sleep(10)
        assert twins.outputs()["mfc.setpoint"] == pytest.approx(0.0, abs=0.1)
        assert later.due == ""
    text = of_run(JOB, report).as_text()
    assert "Still to come" in text
    assert "purge.flow to 0 when heater.pv < -50 degC, after 1 min at the latest" in text


async def test_a_run_that_begins_meanwhile_has_on_record_what_it_called_off(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with staged(tmp_path) as (one, later, twins):
        first = await one.run(request(SHORT))
        assert called_off(first) == []
        await trio.sleep(58)
        second = await one.run(request(SHORT))
        assert called_off(second) == [
            "called off, since a run begins: purge.flow to 0 when heater.pv < -50 degC, "
            f"after 1 min at the latest (due after run {first.run_id})"
        ]
        await trio.sleep(50)
        assert twins.outputs()["mfc.setpoint"] == pytest.approx(50.0, abs=0.1)
        await trio.sleep(12)
        assert twins.outputs()["mfc.setpoint"] == pytest.approx(0.0, abs=0.1)
        assert later.due == ""


async def test_an_output_of_stage_one_that_a_run_left_unreached_keeps_the_purge_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with staged(tmp_path) as (one, later, twins), trio.open_nursery() as nursery:
        nursery.start_soon(one.run, request(SHORT))
        await trio.sleep(3)
        twins.fault("silence", link="oven")
        await trio.sleep(120)
        assert one.last_report is not None
        assert one.last_report.verdicts["heater.setpoint"].verdict is Verdict.UNREACHABLE
        assert twins.outputs()["mfc.setpoint"] == pytest.approx(50.0, abs=0.1)
        assert "first the outputs before it" in later.waiting


async def test_what_can_not_be_forgotten_on_disk_refuses_the_run_and_says_why(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with staged(tmp_path) as (one, later, _):
        await one.run(request(SHORT))
        await trio.sleep(1)
        await at_once((tmp_path / "safe_stages.json").unlink)
        await at_once((tmp_path / "safe_stages.json").mkdir)
        report = await one.run(request(SHORT))
        assert report.run_status == "refused"
        assert [problem.code for problem in report.problems] == ["rig.safe_state_kept"]
        assert "safe_stages.json can't be changed" in report.exit_reason
        assert later.waiting != ""
