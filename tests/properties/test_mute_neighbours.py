"""A mute device on a shared line leaves its neighbours at least four fifths of the line's time."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from adapters.links.link import StreamLink
from adapters.twin.memory import TwinHandle, twin_connectors
from capa.config.hardware import HardwareProfile
from capa.devices.link import late_s
from capa.devices.registry import load_families
from capa.runtime.rig import Rig, open_rig
from tests.support.engine import quiet_log

WATCH_S = 300.0
SETTLE_S = 60.0
"""By then a silent device has been asked often enough to be left alone."""


def shared_line(devices: int, timeout_s: float, poll_hz: float = 2) -> HardwareProfile:
    names = [f"heater{index}" for index in range(devices)]
    return HardwareProfile.model_validate(
        {
            "name": "shared",
            "twin": {"step_s": 1.0},
            "links": [{"name": "bus", "port": "memory", "reply_timeout_s": timeout_s}],
            "devices": [
                {"name": n, "adapter": "watlow", "link": "bus", "address": i + 1}
                | {"poll_hz": poll_hz}
                for i, n in enumerate(names)
            ],
            "channels": [
                {"name": f"{n}.pv", "kind": "temperature", "unit": "degC", "device": n}
                | {"field": "pv"}
                for n in names
            ],
        }
    )


@asynccontextmanager
async def answering(profile: HardwareProfile) -> AsyncGenerator[tuple[Rig, TwinHandle]]:
    """Open the rig on its twins, each of which answers."""
    families = load_families({"watlow"})
    connectors, twins = twin_connectors(profile, families)
    parts: dict[str, Any] = {"families": families, "connectors": connectors}
    async with open_rig(profile, link_class=StreamLink, log=quiet_log(), **parts) as rig:
        await rig.wait_answering(30)
        yield rig, twins


async def polls(profile: HardwareProfile, mute: set[str], live: str) -> int:
    async with answering(profile) as (rig, twins):
        for name in mute:
            twins.fault("silence", device=name)
        await trio.sleep(SETTLE_S)
        before = good(rig, live)
        await trio.sleep(WATCH_S)
        return good(rig, live) - before


def good(rig: Rig, device: str) -> int:
    return rig.health(device).polls - rig.health(device).failures


@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate])
@example(devices=5, mutes=4, timeout_s=1.0)
@example(devices=2, mutes=1, timeout_s=0.5)
@given(
    devices=st.integers(2, 5),
    mutes=st.integers(1, 4),
    timeout_s=st.sampled_from([0.1, 0.3, 0.5, 1.0]),
)
def test_whichever_devices_fall_mute_their_neighbour_keeps_four_fifths_of_its_polls(
    devices: int, mutes: int, timeout_s: float
) -> None:
    mute = {f"heater{index}" for index in range(1, min(mutes, devices - 1) + 1)}
    profile = shared_line(devices, timeout_s)
    clock = MockClock(autojump_threshold=0)
    seen = trio.run(polls, profile, mute, "heater0", clock=clock)
    assert seen >= 0.8 * WATCH_S * 2


OLDEST_S = 2.0
"""``stale_after_s`` of the profiles that ship: one reply that is lost is to abort no run."""
POLL_S = 0.25
"""What the exchanges of each device may take at 9600 baud, before and after the lost replies."""
BURST_POLL_S = 0.15
"""The same at the speed of characters that take no time."""
FIELDS = {"pv": 0.1, "setpoint": 0.5, "power": 0.5}
"""How often the answering device is asked for them."""


def beside_a_furnace(devices: int, timeout_s: float) -> HardwareProfile:
    """Return a line, slow as they leave the factory, on which the first device has channels."""
    profile = shared_line(devices, timeout_s, poll_hz=10).model_dump(exclude_unset=True)
    profile["twin"]["wire_timing"] = True
    profile["links"][0]["baud"] = 9600
    for each in profile["devices"]:
        each["twin"] = {"reply_delay_s": 0.02}
    kinds = {"pv": "temperature", "setpoint": "temperature", "power": "power"}
    profile["channels"] = [
        {"name": name, "kind": kind, "unit": "%" if name == "power" else "degC"}
        | {"device": "heater0", "field": name}
        for name, kind in kinds.items()
    ]
    return HardwareProfile.model_validate(profile)


async def oldest_ages(profile: HardwareProfile, mute: int, after_s: float) -> dict[str, float]:
    """The oldest that the values of the answering device grew after its neighbours fell mute."""
    oldest_s = dict.fromkeys(FIELDS, 0.0)
    async with answering(profile) as (rig, twins):
        await trio.sleep(2 + after_s)
        for index in range(mute):
            twins.fault("silence", device=f"heater{index + 1}")
        for _ in range(WATCHED):
            await trio.sleep(0.04)
            for name in FIELDS:
                sample = rig.bus.latest(name)
                assert sample is not None
                oldest_s[name] = max(oldest_s[name], trio.current_time() - sample.at_s)
    return oldest_s


WATCHED = 300
"""Twelve seconds: until the mute devices are silent and asked more and more rarely."""


@pytest.mark.parametrize(
    ("devices", "mute", "timeout_s"),
    [(2, 1, 0.3), (2, 1, 0.5), (2, 1, 1.0), (3, 1, 0.3), (3, 1, 0.5), (3, 2, 0.3), (3, 2, 0.5)],
)
def test_no_value_of_a_neighbour_grows_older_than_a_lost_reply_of_each_mute_device_makes_it(
    devices: int, mute: int, timeout_s: float
) -> None:
    profile = beside_a_furnace(devices, timeout_s)
    lost_s, polls_s = timeout_s + late_s(timeout_s), devices * POLL_S
    for after_s in (0.0, 0.25, 0.5, 0.75):
        clock = MockClock(autojump_threshold=0)
        ages_s = trio.run(oldest_ages, profile, mute, after_s, clock=clock)
        for name, period_s in FIELDS.items():
            assert ages_s[name] < period_s + mute * lost_s + polls_s, name
        if timeout_s <= 0.3:  # as the profiles that ship have it
            assert max(ages_s.values()) < OLDEST_S * mute


def test_a_device_alone_on_its_line_is_asked_again_at_once_when_a_reply_was_lost() -> None:
    async def asked_again_after() -> float:
        async with answering(shared_line(1, 0.3)) as (rig, twins):
            twins.fault("silence", device="heater0")
            while not rig.health("heater0").failures:  # noqa: ASYNC110 - the rig offers no event
                await trio.sleep(0.01)
            begun_s = trio.current_time()
            twins.fault("silence", device="heater0", active=False)
            while rig.health("heater0").consecutive_failures:  # noqa: ASYNC110 - the same
                await trio.sleep(0.01)
            return trio.current_time() - begun_s

    assert trio.run(asked_again_after, clock=MockClock(autojump_threshold=0)) < 0.8


def test_a_device_that_speaks_again_is_noticed_within_its_patience() -> None:
    async def back_after() -> float:
        async with answering(shared_line(2, 0.3)) as (rig, twins):
            twins.fault("silence", device="heater1")
            await trio.sleep(60)
            twins.fault("silence", device="heater1", active=False)
            begun_s = trio.current_time()
            while not rig.answers("heater1"):  # noqa: ASYNC110 - the rig offers no event
                await trio.sleep(0.1)
            return trio.current_time() - begun_s

    assert trio.run(back_after, clock=MockClock(autojump_threshold=0)) < 0.8 / 0.15 + 1


async def oldest_after_lost_replies(profile: HardwareProfile, losing: int) -> float:
    """The oldest that any value grew while the next reply of each of some devices was lost."""
    oldest_s = 0.0
    async with answering(profile) as (rig, twins):
        await trio.sleep(3)
        failures = {f"heater{index}": 0 for index in range(losing)}
        for name in failures:
            twins.fault("silence", device=name)
        for _ in range(500):
            await trio.sleep(0.01)
            for name, before in failures.items():
                twins.fault("silence", device=name, active=rig.health(name).failures == before)
            oldest_s = max(oldest_s, *(age_s(rig, device.name) for device in profile.devices))
        assert all(rig.health(name).failures == 1 for name in failures)
    return oldest_s


def age_s(rig: Rig, device: str) -> float:
    return trio.current_time() - (rig.health(device).last_ok_at_s or 0)


@pytest.mark.parametrize(
    ("devices", "losing", "timeout_s"), [(3, 1, 0.5), (3, 2, 0.3), (2, 2, 0.3), (3, 3, 0.05)]
)
def test_a_burst_of_noise_that_costs_each_device_a_reply_makes_no_value_older_than_these_together(
    devices: int, losing: int, timeout_s: float
) -> None:
    profile = shared_line(devices, timeout_s, poll_hz=10)
    clock = MockClock(autojump_threshold=0)
    lost_s, polls_s = timeout_s + late_s(timeout_s), devices * BURST_POLL_S
    oldest_s = trio.run(oldest_after_lost_replies, profile, losing, clock=clock)
    assert oldest_s < 0.1 + losing * lost_s + polls_s


async def beside_a_flaky_one(profile: HardwareProfile) -> tuple[float, int]:
    """What the neighbour of a device that loses every second reply has in 20 s."""
    oldest_s = 0.0
    async with answering(profile) as (rig, twins):
        await trio.sleep(3)
        before = good(rig, "heater0")
        for _ in range(2000):
            await trio.sleep(0.01)
            answered = not rig.health("heater1").consecutive_failures
            twins.fault("silence", device="heater1", active=answered)
            oldest_s = max(oldest_s, age_s(rig, "heater0"))
        return oldest_s, good(rig, "heater0") - before


def test_a_device_that_loses_every_second_reply_does_not_starve_its_neighbour() -> None:
    clock = MockClock(autojump_threshold=0)
    oldest_s, polls = trio.run(beside_a_flaky_one, shared_line(2, 0.3, poll_hz=10), clock=clock)
    assert oldest_s < OLDEST_S
    assert polls > 20 * 10 / 4
