"""The rig alive: polling on its ticks, losing devices and finding them again."""

import itertools
import math

import pytest
import structlog
import structlog.testing
import trio
from trio.testing import MockClock

from capa.channels.sample import Status
from capa.devices.adapter import Health, Identity
from capa.devices.link import Priority
from capa.errors import DeviceError
from tests.support.engine import bench_rig, profile


async def test_every_channel_gets_a_value_and_a_derived_one_too(
    autojump_clock: MockClock,
) -> None:
    async with bench_rig() as (rig, _):
        rig.start_run()
        await trio.sleep(1)
        latest = {name: rig.bus.latest(name) for name in rig.registry.names}
        assert all(sample is not None and sample.usable for sample in latest.values())
        assert rig.identities.keys() == {"furnace", "mfc", "balance"}


async def test_a_channel_is_published_once_per_tick_without_drift(
    autojump_clock: MockClock,
) -> None:
    async with bench_rig() as (rig, _):
        at_s: list[float] = []
        rig.bus.add_tap(
            lambda samples: at_s.extend(s.at_s for s in samples if s.channel == "purge.flow")
        )
        await trio.sleep(100.05)
        assert len(at_s) == pytest.approx(500, abs=1)
        steps = [b - a for a, b in itertools.pairwise(at_s)]
        assert sum(steps) / len(steps) == pytest.approx(0.2, rel=1e-4)


async def test_a_device_slower_than_its_ticks_skips_them(autojump_clock: MockClock) -> None:
    table = profile().model_dump()
    table["devices"][1]["poll_hz"] = 10.0
    table["devices"][1]["twin"] = {"reply_delay_s": 0.25}
    async with bench_rig(profile(devices=table["devices"])) as (rig, _):
        before = rig.health("mfc").polls
        await trio.sleep(30)
        assert rig.health("mfc").polls - before == pytest.approx(100, abs=2)


async def test_a_mute_device_is_a_comm_error_on_its_channels_and_no_others(
    autojump_clock: MockClock,
) -> None:
    async with bench_rig() as (rig, twins):
        twins.fault("silence", link="oven")
        await trio.sleep(10)
        for channel in ("heater.setpoint", "heater.pv"):
            sample = rig.bus.latest(channel)
            assert sample is not None
            assert sample.status is Status.COMM_ERROR
            assert math.isnan(sample.value)
        flow = rig.bus.latest("purge.flow")
        assert flow is not None
        assert flow.usable
        assert rig.health("furnace").state is Health.DOWN
        assert rig.health("mfc").state is Health.OK
        assert await rig.wait_answering(0.1) == {"furnace": False, "mfc": True, "balance": True}


async def test_a_mute_device_is_asked_less_often(autojump_clock: MockClock) -> None:
    async with bench_rig() as (rig, twins):
        twins.fault("silence", link="oven")
        await trio.sleep(10)
        before = rig.health("furnace").polls
        await trio.sleep(60)
        assert rig.health("furnace").polls - before <= 61


@pytest.mark.parametrize("fault", ["silence", "port_gone"])
async def test_a_device_that_comes_back_is_opened_and_answers_again(
    autojump_clock: MockClock, fault: str
) -> None:
    async with bench_rig() as (rig, twins):
        twins.fault(fault, link="oven")
        await trio.sleep(20)
        assert not rig.answers("furnace")
        twins.fault(fault, link="oven", active=False)
        await trio.sleep(8)
        assert rig.answers("furnace")
        sample = rig.bus.latest("heater.pv")
        assert sample is not None
        assert sample.usable


async def test_a_port_that_vanishes_and_returns_is_in_the_log_and_a_rig_that_closes_is_not(
    autojump_clock: MockClock,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with bench_rig(log=structlog.get_logger()) as (rig, twins):
            twins.fault("silence", link="oven")  # a device in trouble before is no reason
            await trio.sleep(20)
            twins.fault("port_gone", link="oven")
            await trio.sleep(20)
            assert rig.trouble("furnace").startswith("link oven: ")
            twins.fault("port_gone", link="oven", active=False)
            await trio.sleep(8)
    told = [(one["event"], one["link"]) for one in logs if one["event"].startswith("link.")]
    assert told == [("link.lost", "oven"), ("link.back", "oven")]
    (lost,) = (one for one in logs if one["event"] == "link.lost")
    assert "check the cable" in lost["message"]


async def test_heartbeats_go_on_while_devices_are_mute_or_gone(
    autojump_clock: MockClock,
) -> None:
    async with bench_rig() as (rig, twins):
        twins.fault("silence", link="oven")
        twins.fault("port_gone", link="gas")
        for _ in range(60):
            await trio.sleep(1)
            oldest_s = trio.current_time() - min(rig.heartbeats().values())
            assert oldest_s < 2.5


async def test_a_driver_with_a_bug_takes_down_its_device_and_not_the_rig(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_rig() as (rig, _):

        async def bug() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(rig.devices["mfc"], "poll", bug)
        await trio.sleep(10)
        assert rig.health("mfc").state is Health.DOWN
        assert "ZeroDivisionError" in rig.health("mfc").detail
        assert rig.answers("furnace")


async def test_cancelling_what_is_inside_leaves_the_links_up(autojump_clock: MockClock) -> None:
    async with bench_rig() as (rig, _):
        with trio.move_on_after(5):
            await trio.sleep_forever()
        assert all(link.is_up for link in rig.links.values())
        ack = await rig.write("heater.setpoint", 100.0, priority=Priority.SAFE)
        assert ack.readback == pytest.approx(100.0, abs=0.1)


@pytest.mark.parametrize("channel", ["heater.pv", "loss"])
async def test_what_takes_no_command_is_not_written(
    autojump_clock: MockClock, channel: str
) -> None:
    async with bench_rig() as (rig, _):
        with pytest.raises(DeviceError, match=channel):
            await rig.write(channel, 1.0, priority=Priority.COMMAND)


async def test_a_device_whose_cable_was_out_between_two_polls_is_opened_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = profile().model_dump()
    table["devices"][0]["poll_hz"] = 0.1
    async with bench_rig(profile(devices=table["devices"])) as (rig, twins):
        furnace, opened = rig.devices["furnace"], []
        really_open = furnace.open

        async def counted_open() -> Identity:
            opened.append(trio.current_time())
            return await really_open()

        monkeypatch.setattr(furnace, "open", counted_open)
        twins.fault("port_gone", link="oven")
        await trio.sleep(0.5)
        assert not rig.answers("furnace")
        twins.fault("port_gone", link="oven", active=False)
        await trio.sleep(15)
        assert len(opened) == 1
        assert rig.answers("furnace")


async def test_a_rig_that_is_closed_in_the_middle_of_a_question_has_lost_no_device(
    autojump_clock: MockClock,
) -> None:
    table = profile().model_dump()
    for device in table["devices"]:
        device["twin"] = {"reply_delay_s": 0.09}  # of every tick of 0.1 s
    async with bench_rig(profile(devices=table["devices"])) as (rig, _):
        await trio.sleep(3.05)
        before = {name: rig.health(name).failures for name in ("furnace", "mfc", "balance")}
    assert {name: rig.health(name).failures for name in before} == before
