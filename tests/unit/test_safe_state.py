"""Driving the safe state: every output gets a verdict, and no verdict is assumed."""

import math
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from capa.devices.adapter import WriteAck
from capa.devices.link import Priority
from capa.errors import DeviceError, LinkTimeoutError
from capa.runtime.rig import Rig
from capa.runtime.safe_state import Verdict, all_proven, drive_safe_state
from tests.support.engine import SAFE, bench_rig, profile

HEATER, PURGE = "heater.setpoint", "purge.flow"
THREE = {HEATER: 20.0, PURGE: 0.0, "vent": 1.0}


@dataclass
class FakeRig:
    """Answers writes from a script; channels on links of their own unless ``one_link``."""

    answers: dict[str, object] = field(default_factory=dict)
    one_link: bool = False
    writes: list[tuple[float, str, Priority]] = field(default_factory=list)

    @property
    def profile(self) -> object:
        return profile(safe_state=[{"set": THREE}])

    def link_of(self, channel: str) -> str:
        return "bus" if self.one_link else channel

    def tolerance(self, _channel: str) -> float:
        return 0.1

    async def write(self, channel: str, value: float, *, priority: Priority) -> WriteAck:
        self.writes.append((trio.current_time(), channel, priority))
        await trio.sleep(0.01)
        answer = self.answers.get(channel, WriteAck(True, readback=value))
        if answer == "mute":
            await trio.sleep(0.5)
            raise LinkTimeoutError(f"{channel}: no reply")
        if answer == "hangs":
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return cast("WriteAck", answer)


def as_rig(rig: FakeRig) -> Rig:
    return cast("Rig", rig)


async def test_outputs_that_read_back_are_proven_and_written_first_in_the_queue(
    autojump_clock: MockClock,
) -> None:
    rig = FakeRig()
    verdicts = await drive_safe_state(as_rig(rig), budget_s=5)
    assert all_proven(verdicts)
    assert {name: one.readback for name, one in verdicts.items()} == THREE
    assert {priority for _, _, priority in rig.writes} == {Priority.SAFE}
    assert trio.current_time() < 0.1


TROUBLES = {
    "refused": WriteAck(False, "key locked"),
    "mute": "mute",
    "hanging driver": "hangs",
    "device fault": DeviceError("fault"),
    "driver bug": KeyError("bug"),
    "mismatch": WriteAck(True, readback=600.0),
    "rubbish": WriteAck(True, readback=math.nan),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
@pytest.mark.parametrize("one_link", [True, False])
async def test_whatever_ails_one_output_the_others_are_proven_and_it_is_not(
    autojump_clock: MockClock, trouble: object, one_link: bool
) -> None:
    rig = FakeRig({HEATER: trouble}, one_link)
    verdicts = await drive_safe_state(as_rig(rig), budget_s=5)
    assert verdicts[HEATER].verdict is Verdict.UNREACHABLE
    assert verdicts[HEATER].detail
    assert verdicts[PURGE].verdict is Verdict.PROVEN
    assert verdicts["vent"].verdict is Verdict.PROVEN
    assert trio.current_time() == pytest.approx(5, abs=0.001)


async def test_a_mismatch_says_what_was_read_back(autojump_clock: MockClock) -> None:
    rig = FakeRig({HEATER: WriteAck(True, readback=600.0)})
    verdict = (await drive_safe_state(as_rig(rig), budget_s=1))[HEATER]
    assert verdict.readback == 600.0
    assert "reads back 600, not 20" in verdict.detail


async def test_an_output_that_cannot_be_read_back_is_only_commanded(
    autojump_clock: MockClock,
) -> None:
    verdicts = await drive_safe_state(
        as_rig(FakeRig({HEATER: WriteAck(True, readback=None)})), budget_s=5
    )
    assert verdicts[HEATER].verdict is Verdict.COMMANDED
    assert not all_proven(verdicts)


async def test_a_device_that_recovers_within_the_budget_is_proven(
    autojump_clock: MockClock,
) -> None:
    rig = FakeRig({HEATER: "mute"})
    async with trio.open_nursery() as nursery:

        async def mend() -> None:
            await trio.sleep(3)
            del rig.answers[HEATER]

        nursery.start_soon(mend)
        verdicts = await drive_safe_state(as_rig(rig), budget_s=5)
    assert all_proven(verdicts)
    assert trio.current_time() < 4


async def test_a_safing_is_not_stopped_by_a_cancellation_from_above(
    autojump_clock: MockClock,
) -> None:
    verdicts = {}
    with trio.CancelScope() as above:
        above.cancel()
        verdicts.update(await drive_safe_state(as_rig(FakeRig()), budget_s=5))
    assert all_proven(verdicts)
    assert len(verdicts) == 3


async def test_a_safing_ends_by_itself_however_deaf_the_rig(autojump_clock: MockClock) -> None:
    rig = FakeRig(dict.fromkeys(THREE, "hangs"))
    verdicts = await drive_safe_state(as_rig(rig), budget_s=2)
    assert trio.current_time() == pytest.approx(2)
    assert {one.verdict for one in verdicts.values()} == {Verdict.UNREACHABLE}


# --- on the twins -------------------------------------------------------------------------------


async def test_the_twins_outputs_are_driven_and_proven(autojump_clock: MockClock) -> None:
    async with bench_rig() as (rig, twins):
        await rig.write(HEATER, 500.0, priority=Priority.COMMAND)
        verdicts = await drive_safe_state(rig, budget_s=5)
        assert all_proven(verdicts)
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(SAFE[HEATER], abs=0.1)


async def test_a_mute_furnace_does_not_keep_the_purge_from_its_safe_value(
    autojump_clock: MockClock,
) -> None:
    async with bench_rig() as (rig, twins):
        await rig.write(PURGE, 100.0, priority=Priority.COMMAND)
        twins.fault("silence", link="oven")
        verdicts = await drive_safe_state(rig, budget_s=3)
        assert verdicts[HEATER].verdict is Verdict.UNREACHABLE
        assert verdicts[PURGE].verdict is Verdict.PROVEN
        assert twins.outputs()["mfc.setpoint"] == 0.0


async def test_a_dead_port_is_unreachable_and_said_so(autojump_clock: MockClock) -> None:
    async with bench_rig() as (rig, twins):
        twins.fault("port_gone", link="oven")
        verdicts = await drive_safe_state(rig, budget_s=3)
        assert verdicts[HEATER].verdict is Verdict.UNREACHABLE
        assert "oven" in verdicts[HEATER].detail
        assert verdicts[PURGE].verdict is Verdict.PROVEN


async def test_an_mfc_that_ignores_the_wire_is_never_called_proven(
    autojump_clock: MockClock,
) -> None:
    table = profile().model_dump()
    table["devices"][1]["twin"] = {"setpoint_source": "analog", "analog_setpoint": 120.0}
    async with bench_rig(profile(devices=table["devices"])) as (rig, _):
        verdicts = await drive_safe_state(rig, budget_s=1)
        assert verdicts[PURGE].verdict is Verdict.UNREACHABLE
        assert verdicts[PURGE].readback == pytest.approx(120.0)
