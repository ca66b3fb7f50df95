"""A recorder that gets nothing done ends the run, in words that name it, and the rig is safe."""

import errno
import json
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capa.runtime.safe_state import all_proven
from capa.storage.inflight import EventStore
from tests.support.engine import bench_rig, conductor, method, request

LONG = method(
    {"kind": "hold", "target": {"name": "heater.setpoint"}, "value": 100.0, "duration_s": 14_400.0}
)


def nothing() -> None:
    """A write that never comes to its end, as the loop sees it."""


def running(one: Conductor) -> bool:
    return one.progress is not None


async def wedged_after(one: Conductor, seconds: float) -> None:
    await trio.sleep(seconds)
    assert one.bundle is not None
    one.bundle._recorder.pump = nothing  # type: ignore[method-assign]  # the disk is stuck


def told(one: Conductor) -> RunReport:
    assert one.last_report is not None
    return one.last_report


async def test_a_recorder_that_makes_no_progress_for_10_s_ends_the_run_as_crashed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await wedged_after(one, 20)
        await trio.sleep(9)
        assert running(one)
        await trio.sleep(4)
        assert not running(one)
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
    report = told(one)
    assert report.run_status == "crashed"
    assert report.exit_reason.startswith("the recorder has made no progress for 10 s with ")
    assert "events and" in report.exit_reason
    assert "check the disk under" in report.exit_reason
    assert all_proven(report.verdicts)
    assert any("the run was given up: the recorder" in rung.words for rung in report.ladder)
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert manifest["run_status"] == "crashed"
    assert manifest["exit_reason"] == report.exit_reason
    assert manifest["recorder"]["events_lost"] > 0


async def test_a_recorder_that_is_slow_but_gets_on_ends_nothing(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(20)
        assert one.bundle is not None
        recorder = one.bundle._recorder
        pump = recorder.pump
        monkeypatch.setattr(recorder, "pump", nothing)
        for _ in range(10):
            await trio.sleep(9)
            pump()
        assert running(one)
        monkeypatch.setattr(recorder, "pump", pump)
        one.stop("SIGINT")
    assert told(one).run_status == "aborted"


async def test_a_recorder_that_can_not_write_for_10_s_ends_the_run_with_the_disks_words(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: EventStore, _rows: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(one.run, request(LONG))
        await trio.sleep(20)
        monkeypatch.setattr(EventStore, "write", full)
        one.hold_method("so that there is something to write")
        await trio.sleep(20)
        assert not running(one)
    report = told(one)
    assert report.run_status == "crashed"
    assert report.exit_reason.startswith("nothing could be recorded for 10 s: ")
    assert "No space left on device" in report.exit_reason
    assert all_proven(report.verdicts)


async def test_nobody_waits_for_the_recorder_of_a_run_that_was_given_up_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    ending: list[float | None] = []

    async def look() -> None:
        await trio.sleep(32)
        while True:
            if running(one):
                ending.append(one.recorder_beat_at_s)
            await trio.sleep(0.1)

    async with bench_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path)
        nursery.start_soon(look)
        nursery.start_soon(one.run, request(LONG))
        await wedged_after(one, 20)
        assert one.recorder_beat_at_s is not None
        twins.fault("silence", link="gas")  # so that safing takes its whole budget
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert len(ending) > 20
    assert set(ending) == {None}
