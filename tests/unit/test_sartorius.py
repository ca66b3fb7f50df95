"""A Sartorius balance and its simulator, without a wire between them."""

import math
from typing import Any

import pytest
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.sartorius import FAMILY
from adapters.sartorius.adapter import SartoriusAdapter
from adapters.sartorius.codec import (
    Line,
    Overload,
    StatusLine,
    Underload,
    Weight,
    decode_line,
    encode_line,
)
from adapters.sartorius.twin import SartoriusTwin
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError, FrameError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant


class Bench:
    """One balance on a bench: driver, link, simulator, plant."""

    def __init__(
        self,
        *,
        options: dict[str, Any] | None = None,
        twin: dict[str, Any] | None = None,
        chunk: int = 0,
    ) -> None:
        self.plant = StillPlant()
        spec = DeviceSpec(
            name="balance", adapter="sartorius", link="com", options=options or {}, twin=twin or {}
        )
        self.twin = SartoriusTwin(spec, self.plant)
        self.link = DirectLink([self.twin], chunk=chunk)
        self.driver = SartoriusAdapter(spec, self.link)

    def load(self, mass_g: float, *, wait_s: float = 5.0) -> None:
        self.plant.quantities["sample.mass_g"] = mass_g
        self.plant.advance(wait_s)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}


# --- lines from manuals and captures -----------------------------------------------------------


@pytest.mark.parametrize(
    ("hexadecimal", "line"),
    [
        ("2B 20 20 20 31 32 33 2E 35 36 20 67 20 20", Weight(123.56, "g")),
        ("2B 20 20 20 31 32 33 2E 35 36 20 20 20 20", Weight(123.56, None)),
        ("2D 20 20 20 30 2E 30 30 30 34 20 67 20 20", Weight(-0.0004, "g")),
        ("4E 20 20 20 20 20 2B 20 20 20 20 30 2E 30 33 31 20 20 20 20", Weight(0.031, None, "N")),
        ("4E 20 20 20 20 20 2B 20 20 20 20 30 2E 30 30 36 20 67 20 20", Weight(0.006, "g", "N")),
        ("47 20 20 20 20 20 2B 20 20 20 31 30 30 2E 30 30 20 6B 67 20", Weight(100.0, "kg", "G")),
    ],
)
def test_a_line_from_a_manual_or_a_capture_is_read(hexadecimal: str, line: Line) -> None:
    assert decode_line(bytes.fromhex(hexadecimal)) == line


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (b"      High    ", Overload()),
        (b"      Low     ", Underload()),
        (b"Stat        High    ", Overload()),
        (b"Stat        H       ", Overload()),
        (b"Stat        LL      ", Underload()),
        (b"Stat       OFF      ", StatusLine("OFF")),
        (b"Stat     Cal.Int.   ", StatusLine("Cal.Int.")),
        (b"Stat     Err  54    ", StatusLine("Err  54")),
        (b"   Err 054    ", StatusLine("Err 054")),
        (b"   ERR 054    ", StatusLine("ERR 054")),
        (b"   APP.ERR    ", StatusLine("APP.ERR")),
        (b"      --      ", StatusLine("--")),
        (b"+  12,345 g   ", None),
        (b"+   12,345 g  ", Weight(12.345, "g")),
    ],
)
def test_a_special_line_is_told_from_a_weight(line: bytes, meaning: Line | None) -> None:
    if meaning is None:
        with pytest.raises(FrameError):
            decode_line(line)
    else:
        assert decode_line(line) == meaning


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"+   123.56 g ",
        b"+   123.56 g   ",
        b"+   12 .56 g  ",
        b"+   123.56xg  ",
        b"+   123.56 \x00  ",
        b"*   123.56 g  ",
        b"MSE1203S-100-DR     ",
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(FrameError, match=r"line|unit"):
        decode_line(line)


@pytest.mark.parametrize(
    ("line", "width", "expected"),
    [
        (Weight(123.56, "g"), 16, b"+   123.56 g  \r\n"),
        (Weight(0.03, None, "N"), 22, b"N     +     0.03    \r\n"),
        (Overload(), 16, b"      High    \r\n"),
        (StatusLine("OFF"), 22, b"Stat       OFF      \r\n"),
        (StatusLine("Err 054"), 22, b"Stat     Err 054    \r\n"),
    ],
)
def test_the_simulators_lines_are_those_of_the_manual(
    line: Line, width: int, expected: bytes
) -> None:
    assert encode_line(line, decimals=2, width=width) == expected


# --- driver and simulator ----------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [0, 1, 5])
@pytest.mark.parametrize("width", [16, 22])
@pytest.mark.parametrize("unit", ["g", "mg", "kg"])
async def test_a_load_is_weighed_in_gram_whatever_the_display_shows(
    unit: str, width: int, chunk: int, autojump_clock: MockClock
) -> None:
    twin = {"line": width, "unit": unit, "decimals": {"mg": 1, "g": 4, "kg": 6}[unit]}
    bench = Bench(twin=twin, chunk=chunk)
    await bench.driver.open()
    bench.load(1.2345)
    readings = await bench.readings()
    assert readings["mass"].value == pytest.approx(1.2345, abs=0.001)
    assert readings["mass"].status is Status.OK
    assert readings["stable"].value == 1.0


async def test_a_moving_load_is_settling_and_keeps_the_last_seen_unit(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(twin={"unit": "mg", "decimals": 1})
    await bench.driver.open()
    bench.load(0.4, wait_s=0.2)
    readings = await bench.readings()
    assert readings["stable"].value == 0.0
    assert readings["mass"].status is Status.SETTLING
    assert 0.4 < readings["mass"].value < 0.5


async def test_a_steady_loss_of_mass_is_settling_and_usable(autojump_clock: MockClock) -> None:
    bench = Bench(options={"unit": "g"})
    for step in range(100):
        bench.load(0.5 - 0.001 * step, wait_s=0.1)
    mass = (await bench.readings())["mass"]
    assert mass.status is Status.SETTLING
    assert mass.value == pytest.approx(0.401, abs=0.006)


async def test_an_unstable_weight_before_any_stable_one_is_not_taken_for_gram(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    bench.load(0.4, wait_s=0.2)
    await bench.driver.open()
    assert math.isnan((await bench.readings())["mass"].value)


async def test_an_asserted_unit_is_used_at_once_and_checked_later(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(options={"unit": "g"}, twin={"unit": "mg", "decimals": 1})
    bench.load(0.4, wait_s=0.2)
    await bench.driver.open()
    bench.plant.advance(5.0)
    with pytest.raises(DeviceError, match='shows mg, the profile says unit = "g"'):
        await bench.driver.poll()


async def test_a_reopened_balance_has_to_show_its_unit_again(autojump_clock: MockClock) -> None:
    bench = Bench()
    await bench.driver.open()
    bench.load(0.4, wait_s=0.2)
    await bench.driver.open()
    assert math.isnan((await bench.readings())["mass"].value)


@pytest.mark.parametrize(
    ("mass_g", "status"), [(250.0, Status.OVERLOAD), (-5.0, Status.UNDERRANGE)]
)
async def test_more_or_less_than_the_balance_can_weigh_is_no_value(
    mass_g: float, status: Status, autojump_clock: MockClock
) -> None:
    bench = Bench()
    await bench.driver.open()
    bench.load(mass_g)
    readings = await bench.readings()
    assert readings["mass"].status is status
    assert math.isnan(readings["mass"].value)
    assert readings["stable"].value == 0.0


@pytest.mark.parametrize("kind", ["exception", "sensor_break"])
async def test_an_error_line_is_a_failed_sensor_and_does_not_open(
    kind: str, autojump_clock: MockClock
) -> None:
    bench = Bench()
    await bench.driver.open()
    bench.twin.fault(kind, active=True)
    assert (await bench.readings())["mass"].status is Status.SENSOR_FAIL
    with pytest.raises(DeviceError, match=r'shows "(Err 054|OFF)"'):
        await bench.driver.open()
    bench.twin.fault(kind, active=False)
    assert (await bench.readings())["mass"].status is Status.OK


async def test_a_frozen_balance_keeps_its_value(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.twin.fault("frozen", active=True)
    bench.load(0.1)
    assert (await bench.readings())["mass"].value == 0.5


async def test_a_balance_takes_no_setpoint(autojump_clock: MockClock) -> None:
    bench = Bench()
    ack = await bench.driver.write(FieldWrite("mass", 1.0), priority=Priority.COMMAND)
    assert not ack.accepted
    assert bench.link.sent == []


@pytest.mark.parametrize(("cr_lf", "request_"), [(False, b"\x1bP"), (True, b"\x1bP\r\n")])
async def test_a_print_command_may_end_with_cr_lf(
    cr_lf: bool, request_: bytes, autojump_clock: MockClock
) -> None:
    bench = Bench(options={"end_with_cr_lf": cr_lf})
    await bench.driver.poll()
    assert set(bench.link.sent) == {request_}


def test_a_tare_is_silent_and_brings_the_display_to_zero() -> None:
    bench = Bench()
    assert bench.twin.receive(b"\x1bT") == []
    line = bench.twin.receive(b"\x1bP")[0].data
    assert line == b"N     +   0.0000 g  \r\n"


def test_zero_is_refused_far_from_zero() -> None:
    bench = Bench()
    bench.load(50.0, wait_s=20.0)
    bench.twin.receive(b"\x1bV")
    assert decode_line(bench.twin.receive(b"\x1bP")[0].data[:-2]) == Weight(50.0, "g", "N")


@pytest.mark.parametrize("data", [b"P", b"\x1bO", b"\x1bf9_", b"\x04\x01\x09\x71\x7f", b"\x1b"])
def test_an_unknown_command_gets_silence(data: bytes) -> None:
    assert Bench().twin.receive(data) == []


def test_a_balance_tells_its_model() -> None:
    assert Bench().twin.receive(b"\x1bx1_\r\n")[0].data.endswith(b"\r\n")


def test_an_address_is_refused_since_a_balance_has_none() -> None:
    spec = DeviceSpec(name="balance", adapter="sartorius", link="com", address=1)
    with pytest.raises(ValueError, match="alone on its line"):
        FAMILY.fields(spec)


def test_an_option_that_does_not_exist_is_named() -> None:
    spec = DeviceSpec(name="balance", adapter="sartorius", link="com", options={"units": "g"})
    with pytest.raises(ValidationError):
        FAMILY.fields(spec)
