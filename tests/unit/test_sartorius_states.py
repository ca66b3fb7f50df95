"""Every line an SBI balance may show: the simulator prints it, the driver says what it is worth."""

import math
import statistics
from typing import Any

import pytest
from trio.testing import MockClock

from adapters.sartorius.adapter import SartoriusAdapter
from adapters.sartorius.codec import StatusLine, decode_line
from adapters.sartorius.newest import TextLine
from adapters.sartorius.twin import make_twin
from capa.channels.sample import Status
from capa.devices.adapter import Identity, Reading
from capa.devices.spec import DeviceSpec
from capa.devices.twin import SpeaksUnasked
from capa.errors import FrameError, LinkTimeoutError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

LOAD = "sample.mass_g"


class Bench:
    def __init__(
        self, twin: dict[str, Any] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        self.plant = StillPlant()
        spec = DeviceSpec(
            name="balance",
            adapter="sartorius",
            link="com",
            options={"unit": "g", **(options or {})},
            twin=twin or {},
        )
        self.twin = make_twin(spec, self.plant)
        self.link = DirectLink([self.twin])
        self.driver = SartoriusAdapter(spec, self.link)

    def load(self, mass_g: float, *, wait_s: float = 8.0) -> None:
        self.plant.quantities[LOAD] = mass_g
        self.plant.advance(wait_s)

    def said(self, data: bytes = b"") -> list[bytes]:
        """Send bytes; return what the balance prints, asked or not."""
        replies = list(self.twin.receive(data))
        if isinstance(self.twin, SpeaksUnasked):
            replies += self.twin.unasked()
        return [reply.data for reply in replies]

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}


@pytest.mark.parametrize("width", [16, 22])
@pytest.mark.parametrize(
    ("load_g", "wait_s", "fault", "status"),
    [
        (10.0, 8.0, None, Status.OK),
        (10.0, 0.1, None, Status.SETTLING),
        (230.0, 8.0, None, Status.OVERLOAD),
        (-5.0, 8.0, None, Status.UNDERRANGE),
        (10.0, 8.0, "sensor_break", Status.SENSOR_FAIL),
        (10.0, 8.0, "exception", Status.SENSOR_FAIL),
        (10.0, 8.0, "calibration", Status.SENSOR_FAIL),
        (10.0, 8.0, "blank", Status.SENSOR_FAIL),
    ],
)
async def test_a_status_is_provoked_and_read_in_either_format(
    load_g: float,
    wait_s: float,
    fault: str | None,
    status: Status,
    width: int,
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"line": width})
    bench.load(load_g, wait_s=wait_s)
    assert fault is None or bench.twin.fault(fault, active=True)
    reading = (await bench.readings())["mass"]
    assert reading.status is status
    assert len(reading.native) == width - 2
    assert math.isnan(reading.value) is not status.usable
    bench.load(10.0)
    assert fault is None or bench.twin.fault(fault, active=False)
    assert (await bench.readings())["mass"].status is Status.OK


@pytest.mark.parametrize(
    ("fault", "width", "line"),
    [
        ("sensor_break", 22, b"Stat       OFF      \r\n"),
        ("calibration", 22, b"Stat     Cal.Int.   \r\n"),
        ("exception", 22, b"Stat     Err 054    \r\n"),
        ("blank", 16, b"      --      \r\n"),
    ],
)
def test_a_status_line_has_its_columns(fault: str, width: int, line: bytes) -> None:
    bench = Bench({"line": width})
    bench.twin.fault(fault, active=True)
    assert bench.said(b"\x1bP") == [line]
    assert isinstance(decode_line(line.rstrip(b"\r\n")), StatusLine)


def test_a_balance_that_adjusts_itself_says_so_until_it_is_done() -> None:
    bench = Bench({"calibration_s": 5.0})
    assert bench.said(b"\x1bZ") == []
    lines = []
    for _ in range(100):
        bench.plant.advance(0.1)
        lines += bench.said()
    assert lines == [b"Stat     Cal.Int.   \r\n"] * len(lines)
    assert 4 <= len(lines) <= 5
    assert bench.said(b"\x1bP") == [b"N     +   0.5000 g  \r\n"]


def test_one_that_cannot_adjust_itself_is_silent_about_it() -> None:
    bench = Bench()
    assert bench.said(b"\x1bZ\x1bP") == [b"N     +   0.5000 g  \r\n"]


@pytest.mark.parametrize("key", [b"\x1bT", b"\x1bV", b"\x1bf4_"])
def test_what_prints_by_itself_stops_when_asked_and_goes_on_with_a_key(key: bytes) -> None:
    bench = Bench({"auto_print_hz": 10.0})
    bench.plant.advance(1.0)
    assert len(bench.said()) == 1
    assert len(bench.said(b"\x1bP")) == 1
    bench.plant.advance(1.0)
    assert bench.said() == []
    assert bench.said(key) == []
    bench.plant.advance(1.0)
    assert len(bench.said()) == 1


async def test_a_balance_that_waits_for_rest_lets_the_poll_time_out(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"print_when_stable": True})
    assert (await bench.readings())["mass"].status is Status.OK
    bench.load(50.0, wait_s=0.1)
    with pytest.raises(LinkTimeoutError):
        await bench.driver.poll()
    assert bench.said() == []
    bench.plant.advance(8.0)
    assert bench.said() == [b"N     +  50.0000 g  \r\n"]
    assert bench.said() == []


async def test_a_balance_that_is_asked_tells_who_it_is(autojump_clock: MockClock) -> None:
    told = await Bench(options={"identify": True}).driver.open()
    assert told == Identity("sartorius", "TWIN224-1S", "0029350001", "01-62-04")
    assert (await Bench().driver.open()).serial == ""


async def test_a_balance_that_does_not_know_the_question_opens_all_the_same(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"tells_model": False}, {"identify": True})
    assert await bench.driver.open() == Identity("sartorius", "SBI balance")


@pytest.mark.parametrize("instead", [b"01-\xff2-04\r\n", b"+" * 600])
async def test_a_balance_that_answers_the_question_with_no_text_opens_all_the_same(
    instead: bytes, autojump_clock: MockClock
) -> None:
    bench = Bench(options={"identify": True})
    bench.link.garble = lambda data: instead if b"01-62-04" in data else data
    told = await bench.driver.open()
    assert told == Identity("sartorius", "TWIN224-1S", "0029350001", "")
    assert bench.driver.counters == {"garbled": 1}


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_who_it_is_may_stand_between_lines_that_it_prints(chunk: int) -> None:
    data = b"N     +   0.5000 g  \r\nMSE1203S-100-DR     \r\nN     +   0.5000 g  \r\n"
    text = TextLine()
    found = [text.feed(data[at : at + chunk]) for at in range(0, len(data), chunk)]
    assert next(one for one in found if one is not None) == "MSE1203S-100-DR"


@pytest.mark.parametrize("data", [b"MSE\xff1203\r\n", b"+" * 600])
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        TextLine().feed(data)


def test_a_display_may_flicker_and_creep_and_does_so_alike_at_every_run() -> None:
    def shown(twin: dict[str, Any]) -> list[float]:
        bench = Bench(twin)
        bench.plant.advance(3600.0, step_s=10.0)
        lines = [line for _ in range(200) for line in bench.said(b"\x1bP")]
        return [float(line[8:16]) for line in lines]

    noisy = shown({"noise_digits": 1.0})
    assert noisy == shown({"noise_digits": 1.0})
    digit = 1e-4
    assert 0.7 * digit < statistics.pstdev(noisy) < 1.4 * digit
    assert statistics.mean(noisy) == pytest.approx(0.5, abs=0.3 * digit)
    assert shown({"drift_digits_per_h": 3.0}) == pytest.approx([0.5 + 3 * digit] * 200)


def test_one_fault_may_end_while_another_goes_on() -> None:
    bench = Bench()
    for kind in ("exception", "blank"):
        bench.twin.fault(kind, active=True)
    for ended in ("calibration", "sensor_break", "blank"):
        bench.twin.fault(ended, active=False)
    assert bench.said(b"\x1bP") == [b"Stat     Err 054    \r\n"]
    bench.twin.fault("exception", active=False)
    assert bench.said(b"\x1bP") == [b"N     +   0.5000 g  \r\n"]


def test_a_balance_in_stand_by_stays_so_when_a_fault_ends() -> None:
    bench = Bench({"standby": True})
    bench.twin.fault("calibration", active=True)
    bench.twin.fault("calibration", active=False)
    assert bench.said(b"\x1bP") == [b"Stat       OFF      \r\n"]
