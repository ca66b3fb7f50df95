"""Faults of a simulated line, in virtual time: what the link makes of each, and what is logged."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.alicat import FAMILY as ALICAT
from adapters.links.link import StreamLink
from adapters.modbus import FAMILY as MODBUS
from adapters.sartorius import FAMILY as SARTORIUS
from adapters.twin.memory import TwinHandle, twin_connectors
from adapters.watlow import FAMILY as WATLOW
from capa.devices.adapter import AdapterFamily, DeviceAdapter, FieldWrite
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import CapaError, FrameError, LinkError, LinkTimeoutError

Expected = type[Exception] | tuple[type[Exception], ...]
FAMILIES: dict[str, AdapterFamily] = {
    "watlow": WATLOW,
    "alicat": ALICAT,
    "modbus": MODBUS,
    "sartorius": SARTORIUS,
}


@dataclass
class Profile:
    links: list[LinkSpec]
    devices: list[DeviceSpec]
    twin: dict[str, Any] = field(default_factory=dict)


def bench(**twin: Any) -> Profile:  # noqa: ANN401 - a table of settings
    return Profile(
        links=[LinkSpec(name="heat", port="x"), LinkSpec(name="gas", port="y", baud=19200)],
        devices=[
            DeviceSpec(name="heater", adapter="watlow", link="heat", address=1),
            DeviceSpec(name="other", adapter="watlow", link="heat", address=2),
            DeviceSpec(name="purge", adapter="alicat", link="gas", address="A"),
        ],
        twin=twin,
    )


@dataclass
class Rig:
    twins: TwinHandle
    links: dict[str, StreamLink]
    adapters: dict[str, DeviceAdapter]

    async def set(self, device: str, value: float) -> None:
        await self.adapters[device].write(FieldWrite("setpoint", value), priority=Priority.COMMAND)


async def opened(nursery: trio.Nursery, profile: Profile) -> Rig:
    connectors, twins = twin_connectors(profile, FAMILIES)
    links = {spec.name: StreamLink(spec, connectors[spec.name]) for spec in profile.links}
    for link in links.values():
        await nursery.start(link.run)
    adapters: dict[str, DeviceAdapter] = {}
    for spec in profile.devices:
        adapters[spec.name] = FAMILIES[spec.adapter].create(spec, links[spec.link])
        await adapters[spec.name].open()
    return Rig(twins, links, adapters)


@pytest.mark.parametrize(
    ("kind", "value", "expected", "obeyed"),
    [
        ("silence", None, LinkTimeoutError, False),
        ("mute", None, LinkTimeoutError, True),
        ("delay", 0.8, LinkTimeoutError, True),
        ("truncate", None, LinkTimeoutError, True),
        ("crc", None, (FrameError, LinkTimeoutError), True),
        ("wrong_address", None, (FrameError, LinkTimeoutError), True),
        ("noise", 3.0, (FrameError, LinkTimeoutError), True),
    ],
)
async def test_every_fault_of_a_line_is_an_error_and_its_end_is_the_end_of_it(
    autojump_clock: MockClock, kind: str, value: float | None, expected: Expected, obeyed: bool
) -> None:
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, bench())
        rig.twins.fault(kind, device="heater", value=value)
        with pytest.raises(expected):
            await rig.set("heater", 300.0)
        assert (rig.twins.outputs()["heater.setpoint"] == pytest.approx(300.0)) is obeyed
        rig.twins.fault(kind, device="heater", active=False)
        await rig.set("heater", 310.0)
        assert rig.twins.outputs()["heater.setpoint"] == pytest.approx(310.0)
        faults = [each for each in rig.twins.wire if each["event"] == "fault"]
        assert [(each["device"], each["field"], each["active"]) for each in faults] == [
            ("heater", kind, True),
            ("heater", kind, False),
        ]
        nursery.cancel_scope.cancel()


async def test_a_fault_of_one_device_leaves_its_neighbour_on_the_line_alone(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, bench())
        rig.twins.fault("silence", device="heater")
        await rig.set("other", 55.0)
        with pytest.raises(LinkError):
            await rig.adapters["heater"].poll()
        assert rig.twins.outputs()["other.setpoint"] == pytest.approx(55.0)
        nursery.cancel_scope.cancel()


async def test_what_is_said_to_one_family_on_a_line_does_not_deafen_another(
    autojump_clock: MockClock,
) -> None:
    heater, other, purge = bench().devices
    purge = purge.model_copy(update={"link": "heat"})
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, Profile(bench().links, [purge, heater, other]))
        for device in ("heater", "other"):
            await rig.adapters[device].poll()
        nursery.cancel_scope.cancel()


async def test_a_doubled_reply_is_heard_out_and_never_a_wrong_reading(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, bench())
        for device in ("heater", "purge"):
            rig.twins.fault("doubled", device=device)
            with pytest.raises(FrameError) as caught:
                await rig.adapters[device].poll()
            assert caught.value.fault == "doubled"
            rig.twins.fault("doubled", device=device, active=False)
            await rig.adapters[device].poll()
        nursery.cancel_scope.cancel()


async def test_a_fault_of_the_line_is_every_devices(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, bench())
        rig.twins.fault("silence", link="heat")
        for device in ("heater", "other"):
            with pytest.raises(LinkError):
                await rig.adapters[device].poll()
        await rig.set("purge", 10.0)
        nursery.cancel_scope.cancel()


async def test_a_port_that_is_gone_takes_the_link_down_until_it_is_back(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, bench())
        rig.twins.fault("port_gone", link="gas")
        await trio.sleep(60)
        assert not rig.links["gas"].is_up
        assert rig.links["heat"].is_up
        rig.twins.fault("port_gone", link="gas", active=False)
        with trio.fail_after(rig.links["gas"].spec.reconnect_max_s + 0.1):
            await rig.links["gas"].up()
        await rig.set("purge", 10.0)
        nursery.cancel_scope.cancel()


async def test_with_wire_timing_a_reply_takes_as_long_as_its_bytes(
    autojump_clock: MockClock,
) -> None:
    async def poll_s(profile: Profile) -> float:
        async with trio.open_nursery() as nursery:
            rig = await opened(nursery, profile)
            await rig.adapters["purge"].poll()  # the first one asks for more than a frame
            begun_s = trio.current_time()
            await rig.adapters["purge"].poll()
            taken_s = trio.current_time() - begun_s
            nursery.cancel_scope.cancel()
        return taken_s

    slower_s = await poll_s(bench(wire_timing=True)) - await poll_s(bench(wire_timing=False))
    assert 0.02 < slower_s < 0.04  # about fifty characters of 10 bits at 19200 baud


async def test_an_output_is_logged_once_at_the_start_and_at_every_change(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, bench())
        for value in (5.0, 5.0, 7.0):
            await rig.set("purge", value)
        outputs = [
            each["value"]
            for each in rig.twins.wire
            if each["event"] == "output" and each["device"] == "purge"
        ]
        assert outputs == [0.0, 5.0, 7.0]
        nursery.cancel_scope.cancel()


async def test_a_fault_that_nobody_has_is_refused(autojump_clock: MockClock) -> None:
    _, twins = twin_connectors(bench(), FAMILIES)
    for kind, link, device, says in (
        ("fire", "heat", None, "heater, other has no fault 'fire'"),
        ("silence", "water", None, "no link 'water'"),
        ("silence", None, None, "of which link or device"),
        ("silence", None, "pump", "no device 'pump'"),
        ("silence", "gas", "heater", "no link 'gas' with device 'heater'"),
    ):
        with pytest.raises(CapaError, match=says):
            twins.fault(kind, link=link, device=device)


@pytest.mark.parametrize("value", [-1.0, 1e9, math.inf, math.nan])
@pytest.mark.parametrize(
    ("kind", "most"), [("noise", 1_000_000), ("exception", 999), ("sensor_break", 65535)]
)
async def test_a_fault_of_an_impossible_size_is_refused(
    kind: str, most: int, value: float, autojump_clock: MockClock
) -> None:
    _, twins = twin_connectors(bench(), FAMILIES)
    with pytest.raises(CapaError, match=f"{kind} is a number from 0 to {most}, not"):
        twins.fault(kind, device="heater", value=value)


async def test_an_exception_is_a_byte_where_the_device_speaks_modbus(
    autojump_clock: MockClock,
) -> None:
    options = {"fields": {"level": {"address": 0, "unit": "mm"}}}
    gauge = DeviceSpec(name="gauge", adapter="modbus", link="heat", address=3, options=options)
    profile = Profile(bench().links, [*bench().devices, gauge])
    _, twins = twin_connectors(profile, FAMILIES)
    for device in ("heater", "gauge"):
        twins.fault("exception", device=device, value=255)
        with pytest.raises(CapaError, match="from 0 to 255, not 256"):
            twins.fault("exception", device=device, value=256)


async def test_an_exception_is_a_number_of_three_digits_on_a_balances_display(
    autojump_clock: MockClock,
) -> None:
    balance = DeviceSpec(name="balance", adapter="sartorius", link="gas")
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, Profile(bench().links, [balance]))
        rig.twins.fault("exception", device="balance", value=999)
        (mass,) = [one for one in await rig.adapters["balance"].poll() if one.field == "mass"]
        assert "Err 999" in str(mass.native)
        with pytest.raises(CapaError, match="from 0 to 999, not 1000"):
            rig.twins.fault("exception", device="balance", value=1000)
        nursery.cancel_scope.cancel()


async def test_a_fault_of_a_device_whose_link_is_missing_names_that_link(
    autojump_clock: MockClock,
) -> None:
    _, twins = twin_connectors(Profile(bench().links[1:], bench().devices), FAMILIES)
    with pytest.raises(CapaError, match="no link 'heat' with device 'heater' on it; there are: ga"):
        twins.fault("frozen", device="heater")


async def test_a_family_that_is_not_installed_is_named(autojump_clock: MockClock) -> None:
    with pytest.raises(CapaError, match="no adapter 'alicat' is installed; there are: watlow"):
        twin_connectors(bench(), {"watlow": WATLOW})


async def test_a_usb_adapter_keeps_a_replys_end_until_its_next_tick(
    autojump_clock: MockClock,
) -> None:
    profile = bench(wire_timing=True, usb_latency_s=0.016)
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, profile)
        taken_ms = []
        for _ in range(20):
            await rig.adapters["purge"].poll()
            taken_ms.append(trio.current_time() * 1000)
            await trio.sleep(0.0123)
        nursery.cancel_scope.cancel()
    assert all(min(each % 16, 16 - each % 16) < 0.01 for each in taken_ms)


async def test_an_adapter_that_echoes_where_the_profile_says_nothing_of_it_is_noticed(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = await opened(nursery, bench())
        rig.twins.fault("echo", link="gas")
        with pytest.raises((FrameError, LinkTimeoutError)):
            await rig.adapters["purge"].poll()
        nursery.cancel_scope.cancel()
