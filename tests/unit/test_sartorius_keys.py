"""A Sartorius balance that is tared and set to zero, prints by itself, or is misheard."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.links.link import StreamLink
from adapters.sartorius import FAMILY
from adapters.sartorius.adapter import SartoriusAdapter
from adapters.sartorius.codec import Weight
from adapters.sartorius.newest import NewestLine
from adapters.sartorius.twin import SartoriusTwin
from adapters.twin.memory import twin_connectors
from capa.channels.sample import Status
from capa.config.hardware import HardwareProfile
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import FrameError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

LINE = b"N     +    0.031    \r\n"
STABLE = b"N     +    0.032 g  \r\n"


class Bench:
    def __init__(
        self, options: dict[str, Any] | None = None, twin: dict[str, Any] | None = None
    ) -> None:
        self.plant = StillPlant()
        spec = DeviceSpec(
            name="balance", adapter="sartorius", link="com", options=options or {}, twin=twin or {}
        )
        self.twin = SartoriusTwin(spec, self.plant)
        self.link = DirectLink([self.twin])
        self.driver = SartoriusAdapter(spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def press(self, key: str, value: float = 1.0) -> WriteAck:
        return await self.driver.write(FieldWrite(key, value), priority=Priority.COMMAND)


@pytest.mark.parametrize("width", [16, 22])
@pytest.mark.parametrize("command", ["T", "U", "f4_"])
async def test_a_tare_is_believed_once_the_display_is_at_nothing(
    command: str, width: int, autojump_clock: MockClock
) -> None:
    bench = Bench({"tare_command": command}, {"line": width})
    assert (await bench.readings())["mass"].value == 0.5
    assert await bench.press("tare") == WriteAck(True)
    assert bench.link.sent[-1] == b"\x1b" + command.encode() + b"\x1bP"
    readings = await bench.readings()
    assert readings["mass"].value == 0.0
    assert readings["tare"].value == 1.0


@pytest.mark.parametrize("key", ["tare", "zero"])
async def test_a_key_takes_out_what_the_display_has_crept_away(
    key: str, autojump_clock: MockClock
) -> None:
    bench = Bench({"zero_command": "V"}, {"drift_digits_per_h": 3.0})
    bench.plant.advance(4 * 3600.0, step_s=10.0)
    assert (await bench.readings())["mass"].value == pytest.approx(0.5012)
    assert await bench.press(key) == WriteAck(True)
    assert (await bench.readings())["mass"].value == 0.0
    bench.plant.advance(3600.0, step_s=10.0)
    assert (await bench.readings())["mass"].value == pytest.approx(0.0003)


async def test_a_balance_that_does_not_tare_is_told_by_what_it_still_shows(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"zero_command": "V"})
    bench.plant.quantities["sample.mass_g"] = 50.0  # beyond the range in which it sets zero
    bench.plant.advance(15.0)
    ack = await bench.press("zero")
    assert not ack.accepted
    assert "it still shows 'N     +  50.0000 g' after 4 s" in ack.detail


async def test_zero_is_not_offered_unless_the_profile_says_which_key_it_is(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    assert bench.driver.capabilities == {"tare"}
    assert not (await bench.press("zero")).accepted
    assert not (await bench.press("mass")).accepted
    assert not (await bench.press("tare", 2.0)).accepted
    assert bench.link.sent == []


# --- lines that nobody asked for ---------------------------------------------------------------


def test_the_newest_of_several_lines_is_taken_and_the_others_are_counted() -> None:
    newest = NewestLine()
    assert newest.feed(LINE + STABLE[:9]) is None
    found = newest.feed(STABLE[9:])
    assert found == (Weight(0.032, "g", "N"), STABLE[:-2].decode())
    assert newest.unasked == 1


def test_a_fragment_is_dropped_if_a_whole_line_follows() -> None:
    assert NewestLine().feed(LINE[13:] + STABLE) is not None
    listening = NewestLine(midstream=True)
    assert listening.feed(LINE[13:]) is None
    assert listening.feed(STABLE) is not None


@pytest.mark.parametrize("data", [LINE[13:], LINE + b"nonsense\r\n", b"x" * 600])
def test_what_is_no_line_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        NewestLine().feed(data)


@pytest.mark.parametrize("hz", [2.0, 10.0, 60.0])
async def test_a_balance_that_prints_by_itself_is_asked_all_the_same(
    hz: float, autojump_clock: MockClock
) -> None:
    profile = HardwareProfile.model_validate(
        {
            "name": "bench",
            "links": [{"name": "com", "port": "x", "baud": 19200, "parity": "O"}],
            "devices": [
                {
                    "name": "balance",
                    "adapter": "sartorius",
                    "link": "com",
                    "twin": {"auto_print_hz": hz},
                }
            ],
            "channels": [
                {"name": "m", "kind": "mass", "unit": "g", "device": "balance", "field": "mass"}
            ],
            "twin": {"wire_timing": True},
        }
    )
    connectors, _ = twin_connectors(profile, {"sartorius": FAMILY})
    link = StreamLink(profile.links[0], connectors["com"])
    driver = FAMILY.create(profile.devices[0], link)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        await trio.sleep(0.5)
        await driver.open()
        readings = [{r.field: r for r in await driver.poll()} for _ in range(5)]
        nursery.cancel_scope.cancel()
    assert all(reading["mass"].status.usable for reading in readings)


# --- a line without a check sum ----------------------------------------------------------------


def once(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    left = [True]

    def change(data: bytes) -> bytes:
        if not left:
            return data
        left.pop()
        return data.replace(before, after)

    return change


async def test_a_digit_that_changed_on_the_wire_is_never_a_weight_and_is_counted(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    await bench.driver.open()
    await bench.driver.poll()
    bench.link.garble = once(b"0.5000", b"0.7000")
    assert (await bench.readings())["mass"].value == 0.5
    assert bench.driver.counters == {"implausible": 1}


async def test_a_sample_put_on_the_pan_is_weighed_at_once(autojump_clock: MockClock) -> None:
    bench = Bench()
    await bench.driver.open()
    await bench.driver.poll()
    bench.plant.quantities["sample.mass_g"] = 12.0
    bench.plant.advance(15.0)
    readings = await bench.readings()
    assert (readings["mass"].value, readings["mass"].status) == (12.0, Status.OK)
    assert bench.driver.counters == {}


def test_the_probes_of_the_family_recognise_its_twin() -> None:
    probe = FAMILY.probes()[0]
    reply = b"".join(one.data for one in Bench().twin.receive(probe.request))
    assert probe.recognise(reply) == "SBI balance, 22 characters"
    assert probe.recognise(reply[:-1]) is None
    assert probe.recognise(b"S S    0.00008 g\r\n") is None
