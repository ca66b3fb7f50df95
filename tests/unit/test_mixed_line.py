"""An Alicat that speaks ASCII among Modbus devices, on one line."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.alicat import FAMILY
from adapters.links.link import StreamLink
from adapters.twin.memory import twin_connectors
from capa.config.hardware import HardwareProfile
from capa.devices.adapter import FieldWrite
from capa.devices.registry import load_families
from capa.devices.spec import DeviceSpec
from capa.runtime.rig import open_rig
from tests.support.engine import quiet_log

DEVICES = ("furnace", "oven", "purge")


def profile(*, begin_with_cr: bool) -> HardwareProfile:
    heaters = [
        {"name": name, "adapter": "watlow", "link": "bus", "address": address, "poll_hz": 2}
        for address, name in enumerate(DEVICES[:2], 1)
    ]
    purge = {"name": "purge", "adapter": "alicat", "link": "bus", "address": "A", "poll_hz": 2}
    return HardwareProfile.model_validate(
        {
            "name": "mixed",
            "links": [{"name": "bus", "port": "memory", "baud": 19200}],
            "devices": [*heaters, purge | {"options": {"begin_with_cr": begin_with_cr}}],
            "channels": [
                {"name": f"{name}.pv", "kind": "temperature", "unit": "degC", "device": name}
                | {"field": "pv"}
                for name in DEVICES[:2]
            ],
        }
    )


async def polled(mixed: HardwareProfile) -> dict[str, tuple[int, int]]:
    """How often each device was polled in a minute, and how often in vain."""
    families = load_families({"watlow", "alicat"})
    connectors, _twins = twin_connectors(mixed, families)
    parts: dict[str, Any] = {"families": families, "connectors": connectors}
    async with open_rig(mixed, link_class=StreamLink, log=quiet_log(), **parts) as rig:
        await trio.sleep(60)
        return {name: (rig.health(name).polls, rig.health(name).failures) for name in DEVICES}


def test_an_alicat_whose_requests_begin_with_a_cr_shares_a_line_with_modbus_devices() -> None:
    mixed = profile(begin_with_cr=True)
    found = trio.run(polled, mixed, clock=MockClock(autojump_threshold=0))
    for polls, failures in found.values():
        assert failures == 0
        assert polls > 100


def test_without_it_the_line_does_not_work() -> None:
    mixed = profile(begin_with_cr=False)
    polls, failures = trio.run(polled, mixed, clock=MockClock(autojump_threshold=0))["purge"]
    assert failures > polls / 2


@pytest.mark.parametrize("begin_with_cr", [True, False])
def test_the_guardian_begins_its_requests_as_the_driver_does(begin_with_cr: bool) -> None:
    spec = DeviceSpec(
        name="purge",
        adapter="alicat",
        link="bus",
        address="A",
        options={"begin_with_cr": begin_with_cr},
    )
    safe = FAMILY.safe_write(spec, FieldWrite("setpoint", 50.0))
    lead = b"\r" if begin_with_cr else b""
    assert safe.request == lead + b"AS 50.00\r"
    assert safe.read_back is not None
    assert safe.read_back.request == lead + b"A\r"
