"""Before READY=1: the rig is open, safe and proven, or it is said by name what is missing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from capa.config.hardware import HardwareProfile
from capa.runtime.safe_state import Verdict
from capad.heartbeats import Heartbeats
from tests.support.box import Box, box
from tests.support.cooling import outcome
from tests.support.engine import method, profile, request
from tests.support.watched import furnace_profile, until

LONG = method(
    {"kind": "hold", "target": {"name": "heater.setpoint"}, "value": 100.0, "duration_s": 14_400.0}
)


def optional_gas() -> HardwareProfile:
    devices = [device.model_dump() for device in profile().devices]
    for device in devices:
        device["required"] = device["name"] != "mfc"
    return furnace_profile(devices=devices)


class Ready:
    """Whether ``become_safe`` has come back, and with what."""

    answer: bool | None = None

    async def wait(self, one: Box) -> None:
        self.answer = await one.safing.become_safe(one.bench)


async def test_a_rig_that_was_left_hot_is_safe_and_proven_before_it_is_ready(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.watched.conductor.run, request(LONG))
            await until(lambda: one.watched.outputs()["furnace.setpoint"] > 99)
            nursery.cancel_scope.cancel()
        left_hot(one, 300.0)
        assert await one.safing.become_safe(one.bench)
        assert one.watched.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
        assert one.service.safe is not None
        found = {name: str(v.verdict) for name, v in one.service.safe.verdicts.items()}
        assert found == {"heater.setpoint": "proven", "purge.flow": "proven"}


def left_hot(one: Box, value: float) -> None:
    """Have the furnace hold a setpoint that nobody here has commanded."""
    from adapters.watlow.codec import SETPOINT

    (line,) = (line for name, line in one.watched.twins._rig.lines.items() if name == "oven")
    (device,) = line.devices
    device._values[SETPOINT] = value  # type: ignore[attr-defined]  # behind the twin's back


async def test_a_device_that_does_not_answer_is_named_and_waited_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one, trio.open_nursery() as nursery:
        one.watched.twins.fault("silence", link="oven")
        await trio.sleep(5)
        ready = Ready()
        nursery.start_soon(ready.wait, one)
        await trio.sleep(20)
        assert ready.answer is None
        assert "waiting for furnace (" in one.said
        assert one.service.phase == "STARTING"
        assert "waiting for furnace (" in one.service.status()
        left_hot(one, 300.0)  # it comes back with a setpoint of its own
        one.watched.twins.fault("silence", link="oven", active=False)
        await until(lambda: ready.answer)
        assert one.watched.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)


async def test_a_device_that_answers_but_is_not_proven_safe_keeps_the_rig_from_being_ready(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one, trio.open_nursery() as nursery:
        stubborn(one)
        ready = Ready()
        nursery.start_soon(ready.wait, one)
        await trio.sleep(20)
        assert ready.answer is None
        assert "furnace" in one.service.status()
        nursery.cancel_scope.cancel()


def stubborn(one: Box) -> None:
    """Have the furnace accept every setpoint, and keep its own."""
    from adapters.watlow.codec import SETPOINT

    (line,) = (line for name, line in one.watched.twins._rig.lines.items() if name == "oven")
    (device,) = line.devices

    class Kept(dict[object, float]):
        def __setitem__(self, key: object, value: float) -> None:
            super().__setitem__(key, 300.0 if key == SETPOINT else value)

    device._values = Kept(device._values)  # type: ignore[attr-defined]  # behind the twin's back


async def test_a_start_that_is_told_to_end_gives_up_waiting(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one, trio.open_nursery() as nursery:
        one.watched.twins.fault("silence", link="oven")
        await trio.sleep(5)
        ready = Ready()
        nursery.start_soon(ready.wait, one)
        await trio.sleep(20)
        one.service.stopping = "SIGTERM"
        one.service.wake()
        await until(lambda: ready.answer is not None, within_s=10)
        assert ready.answer is False


async def test_a_device_that_may_be_missing_is_named_and_nothing_is_armed_while_it_can_be_commanded(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path, optional_gas()) as one:
        one.watched.twins.fault("silence", link="gas")
        await trio.sleep(5)
        assert await one.safing.become_safe(one.bench)
        assert "mfc does not answer" in one.said
        assert "it may be missing (required = false)" in one.said
        one.service.enter("IDLE", "")
        assert one.service.silent() == ("mfc",)
        assert one.service.blocked()
        assert "no answer from mfc" in one.service.status()
        one.watched.twins.fault("silence", link="gas", active=False)
        await until(lambda: one.bench.rig.answers("mfc"))
        assert one.service.blocked()  # it answers, and is not known to be safe
        await until(lambda: not one.watched.monitor.forbidding())
        one.opening.made_safe(outcome(one.bench.parts.profile.safe_state[0]))
        assert not one.service.blocked()


async def test_a_balance_that_is_required_is_waited_for_though_nothing_has_to_be_driven_on_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one, trio.open_nursery() as nursery:
        one.watched.twins.fault("silence", link="scale")
        await trio.sleep(10)
        ready = Ready()
        nursery.start_soon(ready.wait, one)
        await trio.sleep(20)
        assert ready.answer is None
        assert "waiting for balance (" in one.said
        nursery.cancel_scope.cancel()


async def test_a_commandable_device_that_falls_silent_once_it_was_safe_blocks_arming_too(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path, optional_gas()) as one:
        assert await one.safing.become_safe(one.bench)
        assert one.service.silent() == ()
        one.watched.twins.fault("silence", link="gas")
        await until(lambda: not one.bench.rig.answers("mfc"))
        assert one.service.silent() == ("mfc",)
        assert one.service.blocked()


async def test_a_device_that_answers_and_is_not_known_to_be_safe_blocks_arming(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one:
        assert await one.safing.become_safe(one.bench)
        assert not one.service.blocked()
        stage = one.bench.parts.profile.safe_state[0]
        one.opening.made_safe(outcome(stage, Verdict.UNREACHABLE))
        assert one.service.silent() == ("furnace", "mfc")
        assert one.service.blocked()


# --- whose life the watchdog hangs on -----------------------------------------------------------


async def test_each_vital_loop_is_heard_and_one_that_stops_is_missed(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box(tmp_path) as one, trio.open_nursery() as nursery:
        hearts = Heartbeats()
        hearts.watch(one.opening._beats)
        nursery.start_soon(one.watched.conductor.run, request(LONG))
        await until(lambda: one.watched.conductor.recorder_beat_at_s is not None)
        wanted = {"poll:furnace", "poll:mfc", "poll:balance", "safety monitor", "recorder"}
        assert set(one.opening._beats()) == wanted
        for _ in range(30):
            await trio.sleep(1)
            assert hearts.stale(trio.current_time()) == {}
        stuck: Any = SimpleNamespace(beat_at_s=one.watched.monitor.beat_at_s)
        one.bench.monitor = stuck
        monkeypatch.setattr(one.bench.rig.devices["furnace"], "poll", trio.sleep_forever)
        await trio.sleep(15)
        assert set(hearts.stale(trio.current_time())) == {"safety monitor", "poll:furnace"}
        nursery.cancel_scope.cancel()


async def test_a_spool_that_is_not_looked_through_any_more_is_missed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with box(tmp_path) as one:
        scanned = trio.Event()
        spool: Any = SimpleNamespace(scanned=scanned, beat_at_s=trio.current_time())
        one.service.spool = spool
        await trio.sleep(300)
        assert "spool" not in one.opening._beats()  # its first look may take its time
        scanned.set()
        hearts = Heartbeats()
        hearts.watch(one.opening._beats)
        assert "spool" in hearts.stale(trio.current_time())
        spool.beat_at_s = trio.current_time()
        assert "spool" not in hearts.stale(trio.current_time())
