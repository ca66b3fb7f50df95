"""What the daemon does with an open rig: what it says of alarms, and how later stages end."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from capa.runtime.moments import moment_now
from capa.runtime.rig_lock import RigLock
from capa.runtime.stage_store import Pending
from capa.runtime.trips import Trips, TripStore
from capad.service import Options
from capad.settings import SafetySettings
from tests.support.box import Box, box
from tests.support.cooling import HEAT_OFF, PURGE_OFF
from tests.support.engine import quiet_log
from tests.support.watched import furnace_profile, until


def staged(**safety: object) -> dict[str, object]:
    return {"safe_state": [HEAT_OFF, PURGE_OFF], "safety": safety}


def hear(one: Box) -> None:
    """Have the daemon hear what the monitor finds."""
    one.watched.monitor._on_change = one.opening._alarmed
    one.service.safety.trips = one.watched.trips


async def test_an_alarm_is_said_when_it_is_raised_and_when_it_is_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one:
        hear(one)
        one.watched.twins.plant.set("furnace.temperature_degC", 470.0)
        await until(lambda: one.watched.monitor.raised)
        one.watched.twins.plant.set("furnace.temperature_degC", 100.0)
        await until(lambda: not one.watched.monitor.raised)
        raised, cleared = one.said.splitlines()
        assert raised.endswith("degC: alarm at > 450 degC")
        assert cleared == f"cleared: {raised}"


async def test_a_trip_is_said_when_it_latches_and_when_somebody_has_cleared_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one:
        hear(one)
        one.watched.twins.plant.set("furnace.temperature_degC", 600.0)
        await until(lambda: one.watched.tripped)
        one.watched.twins.plant.set("furnace.temperature_degC", 100.0)
        await until(lambda: not one.watched.monitor.raised)
        await trio.sleep(5)
        assert "cleared: TRIPPED" not in one.said
        assert one.watched.monitor.clear(by="maria", reason="looked", user="maria") == ""
        assert one.said.splitlines()[-1].startswith("cleared: TRIPPED: heater.pv = ")


async def test_a_rig_that_is_closed_has_cleared_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one:
        hear(one)
        one.watched.twins.plant.set("furnace.temperature_degC", 470.0)
        await until(lambda: one.watched.monitor.raised)
        one.service.bench = None
        one.opening._alarmed()
        assert "cleared" not in one.said


@pytest.mark.parametrize(
    ("box_says", "profile_says", "waits"),
    [
        ("after_last_stage", None, True),
        ("after_first_stage", None, False),
        ("after_last_stage", "after_first_stage", False),
        ("after_first_stage", "after_last_stage", True),
    ],
)
async def test_whether_the_next_run_waits_is_the_profiles_word_before_the_boxs(
    autojump_clock: MockClock, tmp_path: Path, box_says: str, profile_says: str | None, waits: bool
) -> None:
    wanted = furnace_profile(**staged(next_run_may_start=profile_says))
    async with box(tmp_path, wanted) as one:
        told = SafetySettings.model_validate({"next_run_may_start": box_says})
        one.service.settings = one.service.settings.model_copy(update={"safety": told})
        assert one.opening._waits_for_all(one.bench.parts) is waits


@pytest.mark.parametrize("waits", [True, False])
async def test_nothing_is_armed_while_a_later_stage_is_due_if_the_next_run_waits(
    autojump_clock: MockClock, tmp_path: Path, waits: bool
) -> None:
    async with box(tmp_path, furnace_profile(**staged())) as one:
        one.bench.waits_for_all = waits
        assert await one.safing.become_safe(one.bench)
        assert one.bench.stages.due == "purge.flow to 0 when heater.pv < 200 degC"
        assert one.service.blocked() is waits
        forbidden = "the rig is being left safe: purge.flow to 0 when heater.pv < 200 degC"
        assert (forbidden in one.bench.forbidding().values()) is waits
        one.service.enter("IDLE", "")
        assert "cooling: purge.flow to 0 when heater.pv < 200 degC, 1 h 59 min left" in (
            one.service.status()
        )


@pytest.mark.parametrize(("after", "tripped"), [("run-1", ["safe state"]), ("", [])])
async def test_a_later_stage_that_is_not_reached_trips_after_a_run_and_not_after_a_start(
    autojump_clock: MockClock, tmp_path: Path, after: str, tripped: list[str]
) -> None:
    async with box(tmp_path, furnace_profile(**staged())) as one:
        w = one.watched
        one.watched.twins.fault("silence", link="gas")
        pending = Pending(1, moment_now(), after)
        verdicts = await one.opening._drive_later(w.rig, w.conductor, w.monitor, pending)
        assert str(verdicts["purge.flow"].verdict) == "unreachable"
        assert w.tripped == tripped
        assert any("purge.flow could not be" in words for words in w.monitor.forbidding().values())
        one.watched.twins.fault("silence", link="gas", active=False)
        await trio.sleep(10)
        assert any("purge.flow could not be" in words for words in w.monitor.forbidding().values())
        await one.opening._drive_later(w.rig, w.conductor, w.monitor, pending)
        assert not any("purge.flow" in words for words in w.monitor.forbidding().values())


async def at_once(work: Callable[..., object], *given: object, **_named: object) -> object:
    """Stand in for a thread: virtual time can't wait for one."""
    await trio.lowlevel.checkpoint()
    return work(*given)


async def test_a_rig_that_is_open_is_watched_over_and_one_that_is_closed_no_longer(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def as_it_is(*given: object, **_named: object) -> AsyncIterator[object]:
        yield given[0]

    async with box(tmp_path) as one:
        parts, hearts = one.bench.parts, one.service.heartbeats
        monkeypatch.setattr(one.opening, "_real_or_twin", as_it_is)
        monkeypatch.setattr("capad.opening.open_parts", lambda *_, **__: as_it_is(one.watched.rig))
        monkeypatch.setattr("capad.opening.make_conductor", lambda *_, **__: one.watched.conductor)
        monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
        long_ago = trio.current_time() + 1000.0
        async with one.opening.opened(parts):
            missed = hearts.stale(long_ago)
            assert {"poll:furnace", "poll:mfc", "poll:balance", "safety monitor"} <= missed.keys()
        assert hearts.stale(long_ago) == {}


async def test_what_capa_run_latched_before_it_gave_the_rig_up_is_latched_here_too(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    async with box(tmp_path) as one:
        one.service.safety.trips = Trips(log=quiet_log())
        await one.service.safety.load()
        foreground = RigLock(tmp_path / "run")
        foreground.acquire()
        monkeypatch.setattr("capa.runtime.rig_lock.PATIENCE_S", 0.0)
        await one.opening._guarded(one.bench.parts)
        assert "another program drives this rig" in one.said
        latched = Trips(log=quiet_log())
        latched.latch("heater.pv", "too hot")
        latched.save(TripStore(tmp_path))
        foreground.release()
        await one.opening._guarded(one.bench.parts)  # e.g. by SIGHUP
        assert one.service.guarding.trouble is None
        assert one.service.safety.trips.text == "too hot"
        assert one.service.blocked()


async def test_a_rig_that_another_program_drives_is_waited_for_by_name(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr("capa.runtime.rig_lock.PATIENCE_S", 0.0)
    foreground, taken = RigLock(tmp_path / "run"), list[bool]()
    foreground.acquire()

    async with box(tmp_path) as one, trio.open_nursery() as nursery:

        async def take() -> None:
            taken.append(await one.opening.take())

        nursery.start_soon(take)
        await trio.sleep(100)
        assert taken == []
        words = f"waiting for the rig: another program drives this rig (pid {os.getpid()} holds"
        assert one.said.count(words) == 1
        assert "waiting for the rig: another program" in one.service.status()
        one.service.stopping = "SIGTERM"
        one.service.wake()
        await until(lambda: taken == [False])
        one.service.stopping = ""
        foreground.release()
        await take()
        assert taken == [False, True]


async def test_who_is_told_to_end_while_he_waits_says_that_nothing_was_sent(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    async with box(tmp_path) as one:
        looked = list[str]()

        def take() -> str:
            looked.append(one.service.doing)
            if len(looked) == 2:
                one.service.stopping = "SIGTERM"  # in the middle of the look
                one.service.enter("STOPPING", one.opening.busy)
            return "another program drives this rig (pid 7)"

        monkeypatch.setattr(one.service.guarding, "take", take)
        assert not await one.opening.take()
        assert one.service.phase == "STOPPING"
        assert looked[1:] == [
            "waiting for the rig: another program drives this rig (pid 7)",
            "another program drives the rig; nothing was sent",
        ]
        assert one.service.doing == looked[2]
        assert one.said.count("nothing was sent to the rig: another program drives this rig") == 1


@pytest.mark.parametrize("free", [1, 2])
async def test_a_rig_that_is_free_once_more_is_taken_by_who_is_told_to_end(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    async with box(tmp_path) as one:
        looks = list[str]()

        def take() -> str:
            one.service.stopping = "SIGTERM"
            looks.append("")
            return "" if len(looks) == free else "another program drives this rig (pid 7)"

        monkeypatch.setattr(one.service.guarding, "take", take)
        assert await one.opening.take()
        assert one.opening.busy == ""
        assert one.opening.waited is (free > 1)


async def test_one_shot_does_not_wait_for_the_rig(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr("capa.runtime.rig_lock.PATIENCE_S", 0.0)
    foreground, ended = RigLock(tmp_path / "run"), list[str]()
    foreground.acquire()
    async with box(tmp_path) as one:
        one.service.options = Options(once=True)
        one.opening._terminate = ended.append
        assert not await one.opening.take()
        assert one.service.code == 2
        assert "another program drives this rig" in ended[0]
    foreground.release()
