"""A mute device on a shared line leaves its neighbours at least four fifths of the line's time."""

from typing import Any

import trio
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from adapters.links.link import StreamLink
from adapters.twin.memory import twin_connectors
from capa.config.hardware import HardwareProfile
from capa.devices.registry import load_families
from capa.runtime.rig import Rig, open_rig
from tests.support.engine import quiet_log

WATCH_S = 300.0
SETTLE_S = 60.0
"""By then a silent device has been asked often enough to be left alone."""


def shared_line(devices: int, timeout_s: float) -> HardwareProfile:
    names = [f"heater{index}" for index in range(devices)]
    return HardwareProfile.model_validate(
        {
            "name": "shared",
            "twin": {"step_s": 1.0},
            "links": [{"name": "bus", "port": "memory", "reply_timeout_s": timeout_s}],
            "devices": [
                {"name": n, "adapter": "watlow", "link": "bus", "address": i + 1, "poll_hz": 2}
                for i, n in enumerate(names)
            ],
            "channels": [
                {"name": f"{n}.pv", "kind": "temperature", "unit": "degC", "device": n}
                | {"field": "pv"}
                for n in names
            ],
        }
    )


async def polls(profile: HardwareProfile, mute: set[str], live: str) -> int:
    families = load_families({"watlow"})
    connectors, twins = twin_connectors(profile, families)
    rig_parts: dict[str, Any] = {"families": families, "connectors": connectors}
    async with open_rig(profile, link_class=StreamLink, log=quiet_log(), **rig_parts) as rig:
        await rig.wait_answering(30)
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


def test_a_device_that_speaks_again_is_noticed_within_its_patience() -> None:
    async def back_after() -> float:
        profile = shared_line(2, 0.3)
        families = load_families({"watlow"})
        connectors, twins = twin_connectors(profile, families)
        parts: dict[str, Any] = {"families": families, "connectors": connectors}
        async with open_rig(profile, link_class=StreamLink, log=quiet_log(), **parts) as rig:
            await rig.wait_answering(30)
            twins.fault("silence", device="heater1")
            await trio.sleep(60)
            twins.fault("silence", device="heater1", active=False)
            begun_s = trio.current_time()
            while not rig.answers("heater1"):  # noqa: ASYNC110 - the rig offers no event
                await trio.sleep(0.1)
            return trio.current_time() - begun_s

    assert trio.run(back_after, clock=MockClock(autojump_threshold=0)) < 0.8 / 0.15 + 1
