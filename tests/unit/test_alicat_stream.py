"""An Alicat that somebody left streaming: told apart, and stopped where the profile says how."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.alicat import FAMILY
from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.stream import StreamingTwin, make_twin
from adapters.links.link import StreamLink
from adapters.twin.memory import TwinHandle, twin_connectors
from capa.channels.sample import Status
from capa.devices.adapter import DeviceAdapter
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import CapaError, FrameError, LinkTimeoutError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant


@dataclass
class Profile:
    links: list[LinkSpec]
    devices: list[DeviceSpec]
    twin: dict[str, Any] = field(default_factory=lambda: {"wire_timing": True})


def spec(options: dict[str, Any], twin: dict[str, Any]) -> DeviceSpec:
    return DeviceSpec(name="gas", adapter="alicat", link="bus", options=options, twin=twin)


@asynccontextmanager
async def rig(
    options: dict[str, Any], twin: dict[str, Any]
) -> AsyncIterator[tuple[DeviceAdapter, TwinHandle]]:
    line = LinkSpec(name="bus", port="x", baud=19200)
    profile = Profile([line], [spec(options, {"stream_s": 0.05, **twin})])
    connectors, twins = twin_connectors(profile, {"alicat": FAMILY})
    link = StreamLink(line, connectors["bus"])
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        yield FAMILY.create(profile.devices[0], link), twins
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("firmware", "how"), [("10v20", "@@ "), ("7v09", "@@=")])
async def test_a_stream_is_ended_and_the_device_is_read(
    firmware: str, how: str, autojump_clock: MockClock
) -> None:
    async with rig({"stop_stream": how}, {"firmware": firmware}) as (driver, twins):
        await trio.sleep(1.0)
        await driver.open()
        readings = await driver.poll()
        assert {one.status for one in readings} == {Status.OK}
        sent = sum(record["event"] == "tx" for record in twins.wire)
        await trio.sleep(1.0)
        assert sum(record["event"] == "tx" for record in twins.wire) == sent


@pytest.mark.parametrize("stream_s", [1.0, 3.0])
async def test_a_stream_slower_than_a_reply_may_take_is_ended(
    stream_s: float, autojump_clock: MockClock
) -> None:
    twin = {"firmware": "10v20", "stream_s": stream_s}
    async with rig({"stop_stream": "@@ "}, twin) as (driver, _):
        for _attempt in range(4):
            with suppress(FrameError, LinkTimeoutError):
                await driver.open()
                break
            await trio.sleep(2.0)  # as the rig waits between openings
        assert {one.status for one in await driver.poll()} == {Status.OK}


async def test_without_leave_nobody_is_renamed(autojump_clock: MockClock) -> None:
    async with rig({}, {}) as (driver, twins):
        await trio.sleep(1.0)
        with pytest.raises((FrameError, LinkTimeoutError)):
            await driver.open()
        heard = [bytes.fromhex(one["hex"]) for one in twins.wire if one["event"] == "rx"]
        assert all(line == b"A\r" for line in heard)


@pytest.mark.parametrize("fault", ["silence", "mute", "truncate"])
async def test_a_device_that_is_silent_is_not_told_to_stop(
    fault: str, autojump_clock: MockClock
) -> None:
    """It may be unplugged, and then whoever else streams on the line would take its letter."""
    async with rig({"stop_stream": "@@ "}, {"stream_s": None}) as (driver, twins):
        twins.fault(fault, device="gas", active=True)
        for _ in range(3):
            with pytest.raises(LinkTimeoutError):
                await driver.open()
        heard = [bytes.fromhex(one["hex"]) for one in twins.wire if one["event"] == "rx"]
        assert set(heard) == {b"A\r"}


class TimedPlant(StillPlant):
    """Its time is the test's."""

    def now_s(self) -> float:
        return trio.current_time()


@pytest.mark.parametrize("error", [FrameError("x"), LinkTimeoutError("x", fault="babble")])
async def test_a_device_is_left_alone_while_it_takes_its_letter(
    error: CapaError, autojump_clock: MockClock
) -> None:
    one = spec({"stop_stream": "@@ "}, {"stream_s": 0.05, "acknowledges_letter": True})
    link = DirectLink([make_twin(one, TimedPlant())])
    errors = [error]

    def spoil_first(data: bytes) -> bytes:
        if errors:
            raise errors.pop()
        return data

    link.garble = spoil_first
    await FAMILY.create(one, link).open()
    assert link.sent == [b"A\r", b"@@ A\r", b"A\r"]


async def test_a_device_that_does_not_stream_is_not_told_to_stop(
    autojump_clock: MockClock,
) -> None:
    async with rig({"stop_stream": "@@ "}, {"stream_s": None}) as (driver, twins):
        await driver.open()
        heard = [bytes.fromhex(one["hex"]) for one in twins.wire if one["event"] == "rx"]
        assert b"@@ A\r" not in heard


@pytest.mark.parametrize(
    ("firmware", "letter", "start", "stop"),
    [("10v20", b" ", b"A@ @\r", b"@@ A\r"), ("8v17", b"@", b"A@=@\r", b"@@=A\r")],
)
def test_the_simulated_stream_has_the_signs_of_its_firmware(
    firmware: str, letter: bytes, start: bytes, stop: bytes
) -> None:
    plant = StillPlant()
    twin = make_twin(spec({}, {"firmware": firmware, "stream_s": 0.05}), plant)
    assert isinstance(twin, StreamingTwin)

    def said() -> list[bytes]:
        plant.advance(0.1)
        return [reply.data for reply in twin.unasked()]

    assert [line[:1] for line in said()] == [letter]
    assert not twin.receive(b"A\r")
    assert not twin.receive(stop)
    assert said() == []
    assert not twin.receive(b"A\r")  # it takes its letter, and hears nothing meanwhile
    plant.advance(0.1)
    (reply,) = twin.receive(b"A\r")
    assert reply.data.startswith(b"A +014.62")
    assert not twin.receive(start)
    assert [line[:1] for line in said()] == [letter]


async def test_a_poll_into_a_stream_says_what_it_is(autojump_clock: MockClock) -> None:
    async with rig({}, {}) as (driver, _):
        assert isinstance(driver, AlicatAdapter)
        seen = []
        for _attempt in range(20):
            try:
                await driver.poll()
            except (FrameError, LinkTimeoutError) as error:
                seen.append(str(error))
        assert len(seen) == 20
        assert any("streaming" in one for one in seen)
