"""Every state in which an MT-SICS balance may answer: the twin says it, the driver reads it."""

import math
import statistics
from typing import Any

import pytest
from trio.testing import MockClock

from adapters.mettler.adapter import MettlerAdapter
from adapters.mettler.codec import SicsStatus, decode_reply, encode_command
from adapters.mettler.twin import MettlerTwin
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError, FrameError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

LOAD = "sample.mass_g"


class Bench:
    def __init__(self, load_g: float = 0.5, twin: dict[str, Any] | None = None) -> None:
        self.plant = StillPlant()
        self.plant.quantities[LOAD] = load_g
        spec = DeviceSpec(name="balance", adapter="mettler", link="com", twin=twin or {})
        self.twin = MettlerTwin(spec, self.plant)
        self.driver = MettlerAdapter(spec, DirectLink([self.twin]))

    def load(self, mass_g: float, *, wait_s: float = 5.0) -> None:
        self.plant.quantities[LOAD] = mass_g
        self.plant.advance(wait_s)

    def said(self, command: str = "", *parameters: str) -> list[bytes]:
        """Send a command, if there is one; return what the balance says, unasked lines too."""
        replies = list(self.twin.receive(encode_command(command, *parameters)) if command else [])
        return [reply.data.rstrip() for reply in [*replies, *self.twin.unasked()]]

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}


@pytest.mark.parametrize(
    ("load_g", "wait_s", "fault", "status"),
    [
        (10.0, 5.0, None, Status.OK),
        (10.0, 0.1, None, Status.SETTLING),
        (230.0, 5.0, None, Status.OVERLOAD),
        (-5.0, 5.0, None, Status.UNDERRANGE),
        (10.0, 5.0, "sensor_break", Status.SENSOR_FAIL),
        (10.0, 5.0, "busy", Status.STALE),
    ],
)
async def test_a_status_is_provoked_and_read(
    load_g: float, wait_s: float, fault: str | None, status: Status, autojump_clock: MockClock
) -> None:
    bench = Bench()
    bench.load(load_g, wait_s=wait_s)
    assert fault is None or bench.twin.fault(fault, active=True)
    reading = (await bench.readings())["mass"]
    assert reading.status is status
    assert math.isnan(reading.value) is not status.usable
    bench.load(10.0)
    assert fault is None or bench.twin.fault(fault, active=False)
    assert (await bench.readings())["mass"].status is Status.OK


@pytest.mark.parametrize(
    ("fault", "code"), [("exception", "ES"), ("et", "ET"), ("el", "EL"), ("ei", "EI")]
)
async def test_a_general_error_fails_the_poll_and_is_counted_by_its_letters(
    fault: str, code: str, autojump_clock: MockClock
) -> None:
    bench = Bench()
    assert bench.twin.fault(fault, active=True)
    with pytest.raises(DeviceError, match=f"answered SI with {code}"):
        await bench.driver.poll()
    assert bench.driver.counters == {code: 1}
    bench.twin.fault(fault, active=False)
    assert (await bench.readings())["mass"].status is Status.OK


@pytest.mark.parametrize("command", ["S", "SI", "SIR", "SR", "T", "TI", "TA", "TAC", "Z", "ZI"])
@pytest.mark.parametrize("ids", ["long", "short"])
def test_a_busy_balance_says_so_under_the_right_name(command: str, ids: str) -> None:
    bench = Bench(twin={"id_of_immediate": ids})
    bench.twin.fault("busy", active=True)
    (line,) = bench.said(command)
    assert decode_reply(command, line).status is SicsStatus.NOT_NOW  # type: ignore[union-attr]


def test_a_weight_asked_for_while_another_command_waits_is_s_i() -> None:
    bench = Bench()
    bench.load(100.0, wait_s=0.1)
    assert bench.said("T") == []
    assert bench.said("SI") == [b"S I"]


@pytest.mark.parametrize(
    ("command", "load_g", "line"),
    [
        ("T", 230.0, b"T +"),
        ("T", -1.0, b"T -"),
        ("TI", 230.0, b"TI +"),
        ("Z", 10.0, b"Z +"),
        ("Z", -10.0, b"Z -"),
        ("ZI", 10.0, b"ZI +"),
        ("Z", 1.0, b"Z A"),
        ("ZI", 1.0, b"ZI S"),
        ("T", 1.0, b"T S    1.00000 g"),
        ("TAC", 1.0, b"TAC A"),
        ("S", 230.0, b"S +"),
        ("S", -10.0, b"S -"),
    ],
)
def test_a_command_is_answered_with_where_the_load_is(
    command: str, load_g: float, line: bytes
) -> None:
    bench = Bench(0.0)
    bench.load(load_g)
    assert bench.said(command) == [line]


@pytest.mark.parametrize(
    ("key", "load_g", "says"),
    [("tare", 230.0, "above the range"), ("tare", -1.0, "below"), ("zero", 10.0, "above")],
)
async def test_a_key_that_does_not_work_there_says_why(
    key: str, load_g: float, says: str, autojump_clock: MockClock
) -> None:
    bench = Bench(0.0)
    bench.load(load_g)
    ack = await bench.driver.write(FieldWrite(key, 1.0), priority=Priority.COMMAND)
    assert not ack.accepted
    assert says in ack.detail


def test_weight_on_change_begins_with_a_stable_weight() -> None:
    bench = Bench()
    bench.load(10.0, wait_s=0.1)
    assert bench.said("SR") == []
    bench.plant.advance(5.0)
    assert bench.said() == [b"S S   10.00000 g"]
    bench.plant.advance(1.0)
    assert bench.said() == []


def test_weight_on_change_takes_a_step_of_the_hosts_own() -> None:
    bench = Bench()
    bench.load(10.0)
    assert bench.said("SR", "0.5", "g") == [b"S S   10.00000 g"]
    bench.load(10.4)
    assert bench.said() == []
    bench.load(10.6)
    assert bench.said() == [b"S S   10.60000 g"]
    assert bench.said("SR", "half", "g") == [b"S L"]


def test_a_stream_comes_as_often_as_it_is_set_to() -> None:
    bench = Bench(twin={"stream_hz": 2.0})
    bench.plant.advance(5.0)
    assert bench.said("SIR") == [b"S S    0.50000 g"]
    lines = []
    for _ in range(20):
        bench.plant.advance(0.1)
        lines += bench.said()
    assert len(lines) in {3, 4}
    assert bench.said("SI") == [b"S S    0.50000 g"]
    bench.plant.advance(2.0)
    assert bench.said() == []


@pytest.mark.parametrize("command", ["T", "Z"])
def test_a_stream_keeps_the_hosts_own_step_whatever_key_is_pressed(command: str) -> None:
    bench = Bench(0.0)
    assert bench.said("SR", "10", "g") == [b"S S    0.00000 g"]
    assert len(bench.said(command)) == 1
    bench.load(5.0)
    assert bench.said() == []
    bench.load(11.0)
    assert bench.said() == [b"S S   11.00000 g"]


def test_a_power_cut_loses_tare_and_zero_and_the_balance_says_its_number() -> None:
    bench = Bench(0.0)
    bench.load(1.0)
    bench.said("T")
    bench.twin.fault("power_cycle", active=True)
    assert bench.said() == [b'I4 A "B000000001"']
    assert bench.said() == []
    assert bench.said("SI") == [b"S S    1.00000 g"]


@pytest.mark.parametrize(("answers", "counted"), [(True, "doubled"), (False, "foreign")])
async def test_what_a_balance_says_when_it_starts_is_no_reading(
    answers: bool, counted: str, autojump_clock: MockClock
) -> None:
    bench = Bench()
    bench.twin.fault("power_cycle", active=True)
    (unasked,) = bench.twin.unasked()
    link = bench.driver._link
    assert isinstance(link, DirectLink)
    link.garble = lambda data: unasked.data + data * answers
    with pytest.raises(FrameError):
        await bench.driver.poll()
    assert bench.driver.counters == {counted: 1}


def test_a_display_may_flicker_and_creep_and_does_so_alike_at_every_run() -> None:
    def shown(twin: dict[str, Any]) -> list[float]:
        bench = Bench(twin=twin)
        bench.plant.advance(3600.0, step_s=10.0)
        lines = [line for _ in range(200) for line in bench.said("SI")]
        return [float(line[4:14]) for line in lines]

    noisy = shown({"noise_digits": 1.0})
    assert noisy == shown({"noise_digits": 1.0})
    digit = 1e-5
    assert 0.7 * digit < statistics.pstdev(noisy) < 1.4 * digit
    assert statistics.mean(noisy) == pytest.approx(0.5, abs=0.3 * digit)
    assert shown({"drift_digits_per_h": 3.0}) == pytest.approx([0.5 + 3 * digit] * 200)


async def test_a_stream_that_only_a_weight_asked_for_ends_does_not_keep_a_balance_from_opening(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    link = bench.driver._link
    assert isinstance(link, DirectLink)
    streamed = b"S S    0.50000 g\r\n"
    link.garble = lambda data: data if b"SI\r\n" in link.sent else streamed + data
    assert (await bench.driver.open()).model.startswith("TWIN205")


@pytest.mark.parametrize("key", ["zero", "zero_now", "tare", "tare_now"])
@pytest.mark.parametrize("drift", [3.0, -3.0])
async def test_a_key_takes_out_what_the_display_has_crept_away(
    key: str, drift: float, autojump_clock: MockClock
) -> None:
    bench = Bench(1.0, {"drift_digits_per_h": drift})
    bench.plant.advance(5 * 3600.0, step_s=10.0)
    assert bench.said("SI") == [b"S S    1.00015 g" if drift > 0 else b"S S    0.99985 g"]
    assert (await bench.driver.write(FieldWrite(key, 1.0), priority=Priority.COMMAND)).accepted
    assert bench.said("SI") == [b"S S    0.00000 g"]
    bench.plant.advance(3600.0, step_s=10.0)
    (line,) = bench.said("SI")
    assert float(line[4:14]) == pytest.approx(drift * 1e-5)


def test_one_fault_may_end_while_another_goes_on() -> None:
    bench = Bench()
    bench.twin.fault("et", active=True)
    bench.twin.fault("ei", active=True)
    for ended in ("el", "exception", "ei"):
        bench.twin.fault(ended, active=False)
    assert bench.said("SI") == [b"ET"]
    bench.twin.fault("et", active=False)
    assert bench.said("SI") == [b"S S    0.50000 g"]


def test_a_power_cut_is_over_at_once_and_its_end_is_no_second_one() -> None:
    bench = Bench()
    bench.twin.fault("power_cycle", active=True)
    bench.said("T")
    bench.twin.fault("power_cycle", active=False)
    assert bench.said("SI") == [b"S S    0.00000 g"]
