"""A Mettler-Toledo balance and its simulator, on a line without wires, in virtual time."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.links.link import StreamLink
from adapters.mettler import FAMILY
from adapters.mettler.adapter import MettlerAdapter
from adapters.mettler.codec import (
    Answer,
    GeneralError,
    ModuleFault,
    SicsStatus,
    Weight,
    decode_command,
    decode_reply,
    encode_answer,
    encode_command,
    encode_weight,
)
from adapters.mettler.twin import MettlerTwin
from adapters.twin.line import TwinLine
from adapters.twin.memory import MemoryPort
from adapters.twin.plant import TwinSettings
from adapters.twin.wirelog import WireLog
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import DeviceError, FrameError, LinkTimeoutError
from tests.support.still_plant import StillPlant


class ClockedPlant(StillPlant):
    """A still plant whose time is trio's."""

    def __init__(self) -> None:
        super().__init__()
        self._began_s = trio.current_time()
        self._catching_up = False

    def get(self, quantity: str) -> float:
        behind_s = trio.current_time() - self._began_s - self.now_s()
        if not self._catching_up and behind_s > 0.05:
            self._catching_up = True
            self.advance(behind_s, step_s=0.05)
            self._catching_up = False
        return super().get(quantity)


class Bench:
    def __init__(self, spec: DeviceSpec) -> None:
        self.plant = ClockedPlant()
        self.twin = MettlerTwin(spec, self.plant)
        self.wire: list[dict[str, Any]] = []
        line_spec = LinkSpec(name="com", port="memory")
        log = WireLog(self.wire.append, lambda: 0)
        line = TwinLine(line_spec, [self.twin], log=log, settings=TwinSettings())
        self.link = StreamLink(line_spec, MemoryPort(line).connect)
        self.driver = MettlerAdapter(spec, self.link)

    async def load(self, mass_g: float, *, wait_s: float = 5.0) -> None:
        self.plant.quantities["sample.mass_g"] = mass_g
        await trio.sleep(wait_s)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def mass(self) -> tuple[float, Status]:
        reading = (await self.readings())["mass"]
        return reading.value, reading.status

    def said(self) -> list[bytes]:
        sent = [record for record in self.wire if record["event"] == "tx"]
        return [bytes.fromhex(record["hex"]) for record in sent]

    async def press(self, key: str, value: float = 1.0) -> WriteAck:
        return await self.driver.write(FieldWrite(key, value), priority=Priority.COMMAND)


@asynccontextmanager
async def bench(
    options: dict[str, Any] | None = None,
    **twin: Any,  # noqa: ANN401 - passed on
) -> AsyncIterator[Bench]:
    spec = DeviceSpec(
        name="balance", adapter="mettler", link="com", options=options or {}, twin=twin
    )
    one = Bench(spec)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.link.run)
        yield one
        nursery.cancel_scope.cancel()


# --- lines from manuals and captures -----------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "hexadecimal", "reply"),
    [
        (
            "SI",
            "53 20 53 20 20 20 20 30 2E 30 30 30 30 38 20 67",
            Answer("S", SicsStatus.STABLE, "   0.00008 g", Weight(0.00008, "g")),
        ),
        (
            "S",
            "53 20 53 20 20 20 2D 30 2E 30 30 31 30 32 20 67",
            Answer("S", SicsStatus.STABLE, "  -0.00102 g", Weight(-0.00102, "g")),
        ),
        (
            "TA",
            "54 41 20 41 20 20 20 20 30 2E 30 30 30 30 30 20 67",
            Answer("TA", SicsStatus.DONE, "   0.00000 g", Weight(0.0, "g")),
        ),
        (
            "T",
            "54 20 53 20 20 20 20 30 2E 30 30 30 30 30 20 67",
            Answer("T", SicsStatus.STABLE, "   0.00000 g", Weight(0.0, "g")),
        ),
        ("Z", "5A 20 41", Answer("Z", SicsStatus.DONE)),
        ("ZI", "5A 49 20 53", Answer("ZI", SicsStatus.STABLE)),
        ("TAC", "54 41 43 20 41", Answer("TAC", SicsStatus.DONE)),
        ("D", "45 53", GeneralError("ES")),
        (
            "@",
            "49 34 20 41 20 22 42 32 30 37 36 39 36 38 33 38 22",
            Answer("I4", SicsStatus.DONE, '"B207696838"'),
        ),
        (
            "SI",
            "53 20 53 20 20 20 20 20 31 30 30 2E 30 30 20 67",
            Answer("S", SicsStatus.STABLE, "    100.00 g", Weight(100.0, "g")),
        ),
    ],
)
def test_a_line_from_a_manual_or_a_capture_is_read(
    command: str, hexadecimal: str, reply: object
) -> None:
    assert decode_reply(command, bytes.fromhex(hexadecimal)) == reply


@pytest.mark.parametrize("line", [b"S S Error 10b", b"S S    Error 10b"])
def test_a_fault_of_the_weigh_module_is_not_taken_for_a_stable_weight(line: bytes) -> None:
    reply = decode_reply("SI", line)
    assert isinstance(reply, Answer)
    assert reply.value == ModuleFault(10, "b")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("SI", b"ZI S"),
        ("SI", b'I4 A "B207696838"'),
        ("T", b"S S    0.00000 g"),
        ("I2", b'I4 A "B207696838"'),
    ],
)
def test_an_answer_to_another_command_is_foreign(command: str, line: bytes) -> None:
    with pytest.raises(FrameError, match="no answer to") as raised:
        decode_reply(command, line)
    assert raised.value.fault == "foreign"


@pytest.mark.parametrize(
    "line",
    [b"", b"S", b"S X", b"S S 1.0 g", b"S S    0.0000x g", b"S S   0.00008 g", b"s s    0.00008 g",
     b"S S    0.00008", b"S D", b"\xd3 S    0.00008 g", b"S S    0.00008 g extra"],
)  # fmt: skip
def test_what_is_not_a_whole_line_of_its_grammar_is_an_error(line: bytes) -> None:
    with pytest.raises(FrameError):
        decode_reply("SI", line)


def test_the_ids_under_which_some_models_answer_are_taken() -> None:
    assert decode_reply("ZI", b"Z S") == Answer("Z", SicsStatus.STABLE)
    reply = decode_reply("TI", b"T D    0.10000 g")
    assert isinstance(reply, Answer)
    assert reply.value == Weight(0.1, "g")


def test_the_balances_half_writes_what_was_captured() -> None:
    assert encode_answer("S", SicsStatus.STABLE, encode_weight(-0.00102, "g", 5)) == bytes.fromhex(
        "53 20 53 20 20 20 2D 30 2E 30 30 31 30 32 20 67 0D 0A"
    )
    assert decode_command(encode_command("TA", "10.00", "g").rstrip()) == ("TA", "10.00 g")
    with pytest.raises(ValueError, match="does not fit"):
        encode_weight(1e9, "g", 5)


# --- the driver and the simulated balance ------------------------------------------------------


async def test_who_answers_is_known_by_type_firmware_and_serial(autojump_clock: MockClock) -> None:
    async with bench(serial="B207696838") as one:
        identity = await one.driver.open()
        assert identity.model.startswith("TWIN205")
        assert (identity.serial, identity.firmware) == ("B207696838", "1.10 18.6.4.1361.772")


async def test_a_moving_weight_is_settling_and_a_resting_one_is_stable(
    autojump_clock: MockClock,
) -> None:
    async with bench() as one:
        await one.load(12.5)
        readings = await one.readings()
        assert readings["mass"].value == pytest.approx(12.5, abs=1e-5)
        assert (readings["mass"].status, readings["stable"].value) == (Status.OK, 1.0)
        await one.load(20.0, wait_s=0.1)
        readings = await one.readings()
        assert (readings["mass"].status, readings["stable"].value) == (Status.SETTLING, 0.0)
        assert readings["mass"].native.startswith("S D ")


@pytest.mark.parametrize(
    ("load_g", "status"), [(230.0, Status.OVERLOAD), (-5.0, Status.UNDERRANGE)]
)
async def test_beyond_the_range_there_is_no_weight(
    autojump_clock: MockClock, load_g: float, status: Status
) -> None:
    async with bench() as one:
        await one.load(load_g)
        value, found = await one.mass()
        assert math.isnan(value)
        assert found is status


async def test_a_broken_weigh_module_is_a_failed_sensor_and_refuses_to_open(
    autojump_clock: MockClock,
) -> None:
    async with bench() as one:
        one.twin.fault("sensor_break", active=True)
        value, status = await one.mass()
        assert math.isnan(value)
        assert status is Status.SENSOR_FAIL
        assert one.driver.counters == {"module_fault": 1}
        with pytest.raises(DeviceError, match="Error 10b, in the weigh module"):
            await one.driver.open()


async def test_a_command_that_is_not_known_says_so_in_words(autojump_clock: MockClock) -> None:
    async with bench() as one:
        one.twin.fault("exception", active=True)
        with pytest.raises(DeviceError, match="ES: the balance does not know this command"):
            await one.driver.poll()
        ack = await one.press("tare")
        assert not ack.accepted
        assert "ES" in ack.detail


async def test_tare_waits_for_rest_and_the_mass_is_net_then(autojump_clock: MockClock) -> None:
    async with bench() as one:
        await one.load(50.0, wait_s=0.1)
        begun_s = trio.current_time()
        assert (await one.press("tare")).accepted
        assert trio.current_time() - begun_s > 0.5
        value, status = await one.mass()
        assert value == pytest.approx(0.0, abs=1e-5)
        assert status is Status.OK
        assert (await one.readings())["tare"].value == 1.0
        assert (await one.press("clear_tare")).accepted
        assert (await one.mass())[0] == pytest.approx(50.0, abs=1e-4)


async def test_a_weight_that_never_rests_is_not_tared_and_the_balance_says_why(
    autojump_clock: MockClock,
) -> None:
    async with bench(stability_s=1e6) as one:
        await one.load(5.0)
        begun_s = trio.current_time()
        ack = await one.press("tare")
        assert not ack.accepted
        assert "the weight did not come to rest" in ack.detail
        assert trio.current_time() - begun_s > 29.0
        assert (await one.press("tare_now")).accepted


async def test_a_driver_less_patient_than_the_balance_gives_up_by_its_own_deadline(
    autojump_clock: MockClock,
) -> None:
    async with bench({"stability_timeout_s": 5.0}, stability_s=1e6) as one:
        await one.load(5.0)
        with pytest.raises(LinkTimeoutError):
            await one.press("tare")


@pytest.mark.parametrize("ids", ["long", "short"])
async def test_zero_and_tare_at_once_are_understood_under_either_id(
    autojump_clock: MockClock, ids: str
) -> None:
    async with bench(id_of_immediate=ids) as one:
        await one.load(1.0)
        assert (await one.press("zero_now")).accepted
        assert (await one.mass())[0] == pytest.approx(0.0, abs=1e-5)
        await one.load(3.0)
        assert (await one.press("tare_now")).accepted
        assert (await one.mass())[0] == pytest.approx(0.0, abs=1e-5)


async def test_zero_beyond_its_range_is_refused(autojump_clock: MockClock) -> None:
    async with bench() as one:
        await one.load(100.0)
        ack = await one.press("zero")
        assert not ack.accepted
        assert "above the range" in ack.detail


async def test_a_preset_tare_is_read_back_and_a_wrong_one_refused(
    autojump_clock: MockClock,
) -> None:
    async with bench() as one:
        await one.load(12.0)
        ack = await one.press("tare_preset", 2.0)
        assert (ack.accepted, ack.readback) == (True, 2.0)
        assert (await one.mass())[0] == pytest.approx(10.0, abs=1e-4)
        ack = await one.press("tare_preset", 1e5)
        assert not ack.accepted
        assert "does not take this value" in ack.detail


async def test_a_key_is_pressed_by_1_and_by_nothing_else(autojump_clock: MockClock) -> None:
    async with bench() as one:
        ack = await one.press("zero", 2.0)
        assert not ack.accepted
        assert "1 presses it" in ack.detail
        assert not (await one.press("mass")).accepted
        assert not any(record["event"] == "rx" for record in one.wire)


async def test_another_unit_than_the_profiles_is_an_error_with_both(
    autojump_clock: MockClock,
) -> None:
    async with bench({"unit": "g"}, unit="mg", decimals=2) as one:
        with pytest.raises(DeviceError, match=r'shows mg, the profile says unit = "g"'):
            await one.driver.open()
    async with bench(unit="mg", decimals=2) as one:
        await one.load(0.5)
        assert (await one.mass())[0] == pytest.approx(0.5, abs=1e-5)


async def test_a_stream_that_somebody_left_on_ends_with_the_first_poll_and_is_no_reading(
    autojump_clock: MockClock,
) -> None:
    async with bench() as one:
        await one.load(5.0)
        await one.link.exchange(
            encode_command("SIR"), lambda chunk: chunk or None, priority=Priority.POLL
        )
        await trio.sleep(2.0)  # twenty lines that nobody asked for
        masses = []
        for _ in range(5):
            try:
                masses.append((await one.mass())[0])
            except FrameError:
                await trio.sleep(0.1)
        assert len(masses) >= 4
        assert masses[-1] == pytest.approx(5.0, abs=1e-5)


async def test_a_change_of_weight_is_told_by_sr_and_rest_is_not(autojump_clock: MockClock) -> None:
    async with bench() as one:
        await one.load(10.0)
        one.twin.receive(encode_command("SR"))
        await trio.sleep(1.0)
        assert not one.said()
        one.plant.quantities["sample.mass_g"] = 20.0
        await trio.sleep(1.0)
        assert one.said()[0].startswith(b"S D")
        assert 1 <= len(one.said()) <= 6  # while it moves by more than an eighth


async def test_the_list_of_commands_ends_with_a_line_that_says_so(
    autojump_clock: MockClock,
) -> None:
    async with bench() as one:
        lines = [reply.data for reply in one.twin.receive(encode_command("I0"))]
        assert [line[3:4] for line in lines] == [b"B"] * (len(lines) - 1) + [b"A"]
        assert any(b'"SIR"' in line for line in lines)


def test_an_address_or_an_unknown_option_is_refused_when_the_profile_is_loaded() -> None:
    spec = DeviceSpec(name="b", adapter="mettler", link="com", address=1)
    with pytest.raises(ValueError, match="alone on its line"):
        FAMILY.fields(spec)
    with pytest.raises(ValidationError, match="units"):
        FAMILY.fields(DeviceSpec(name="b", adapter="mettler", link="com", options={"units": "g"}))


def test_a_balance_is_recognised_by_its_type() -> None:
    probe = FAMILY.probes()[0]
    assert probe.request == b"I2\r\n"
    assert probe.recognise(b'I2 A "WXS205SDU WXA-Bridge 220.00900 g"\r\n') == (
        "WXS205SDU WXA-Bridge 220.00900 g"
    )
    assert probe.recognise(b"I2 A") is None
    assert probe.recognise(b"noise\r\n") is None
