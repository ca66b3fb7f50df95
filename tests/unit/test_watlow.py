"""A Watlow controller and its simulator, without a wire between them."""

import math
from typing import Any

import pytest
import trio
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.modbus.codec import (
    Query,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    WriteRegister,
    WriteRegisters,
    Written,
    encode_request,
)
from adapters.modbus.words import float_at, float_words
from adapters.watlow import FAMILY
from adapters.watlow.adapter import WatlowAdapter
from adapters.watlow.twin import WatlowTwin
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError, FrameError, LinkTimeoutError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant


class Bench:
    """One controller on a bench: driver, link, simulator, plant."""

    def __init__(
        self,
        *,
        options: dict[str, Any] | None = None,
        twin: dict[str, Any] | None = None,
        chunk: int = 0,
    ) -> None:
        self.plant = StillPlant()
        spec = DeviceSpec(
            name="heater", adapter="watlow", link="bus", options=options or {}, twin=twin or {}
        )
        self.twin = WatlowTwin(spec, self.plant)
        self.link = DirectLink([self.twin], chunk=chunk)
        self.driver = WatlowAdapter(spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def set(self, value: float) -> float | None:
        ack = await self.driver.write(FieldWrite("setpoint", value), priority=Priority.COMMAND)
        return ack.readback

    def ask(self, request: Request) -> Reply:
        """Ask the simulator directly, as somebody else's program would."""
        replies = self.twin.receive(encode_request(request))
        answer = Query(request).collector().feed(b"".join(reply.data for reply in replies))
        assert answer is not None
        return answer

    def number(self, address: int) -> float:
        reply = self.ask(ReadRegisters(1, address, 2))
        assert isinstance(reply, Registers)
        return float_at(reply.data, 0, "low_high")

    def put(self, address: int, value: float) -> Reply:
        return self.ask(WriteRegisters(1, address, float_words(value, "low_high")))


@pytest.mark.parametrize("chunk", [0, 1, 3])
@pytest.mark.parametrize("order", ["low_high", "high_low"])
@pytest.mark.parametrize("unit", ["degF", "degC"])
async def test_a_setpoint_is_written_read_back_and_polled(
    unit: str, order: str, chunk: int, autojump_clock: MockClock
) -> None:
    bench = Bench(options={"wire_unit": unit, "word_order": order}, chunk=chunk)
    await bench.driver.open()
    assert await bench.set(350.0) == pytest.approx(350.0, abs=1e-4)
    bench.plant.quantities["furnace.pv_degC"] = 123.4
    bench.plant.advance(1.0)
    readings = await bench.readings()
    assert readings["setpoint"].value == pytest.approx(350.0, abs=1e-4)
    assert readings["pv"].value == pytest.approx(123.4, abs=1e-4)
    assert readings["power"].value == 100.0
    assert {reading.status for reading in readings.values()} == {Status.OK}
    assert bench.twin.outputs() == {"setpoint": pytest.approx(350.0, abs=1e-4)}


async def test_350_degc_goes_over_the_wire_as_662_degf_in_one_write_of_both_halves(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    await bench.set(350.0)
    assert bench.link.sent[0] == bytes.fromhex("01 10 08 70 00 02 04 80 00 44 25 48 50")
    assert bench.link.sent[1] == bytes.fromhex("01 03 08 70 00 02 C7 B0")


async def test_opening_writes_nothing(autojump_clock: MockClock) -> None:
    bench = Bench()
    await bench.driver.open()
    assert {frame[1] for frame in bench.link.sent} == {3}


async def test_no_two_reads_of_a_controller_have_the_same_register_count(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    await bench.driver.open()
    await bench.driver.poll()
    reads = {frame for frame in bench.link.sent if frame[1] == 3}
    assert len({frame[4:6] for frame in reads}) == len(reads)


async def test_a_late_process_value_does_not_pass_for_a_setpoint(autojump_clock: MockClock) -> None:
    bench = Bench()
    late = b"".join(reply.data for reply in bench.twin.receive(bench.driver._talk.read_input.frame))
    bench.link.garble = lambda data: late + data
    with pytest.raises(FrameError):
        await bench.set(100.0)


async def test_a_broken_thermocouple_is_a_failed_sensor_and_not_the_last_good_value(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    bench.plant.quantities["furnace.pv_degC"] = 400.0
    bench.twin.fault("sensor_break", active=True)
    reading = (await bench.readings())["pv"]
    assert reading.status is Status.SENSOR_FAIL
    assert math.isnan(reading.value)
    assert bench.number(360) == pytest.approx(752.0)
    bench.twin.fault("sensor_break", active=False)
    assert (await bench.readings())["pv"].value == pytest.approx(400.0, abs=1e-4)


async def test_a_controller_without_a_sensor_heats_with_its_manual_power(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    await bench.set(500.0)
    bench.twin.fault("sensor_break", active=True)
    bench.plant.advance(1.0)
    assert bench.plant.quantities["furnace.power_pct"] == 0.0
    bench.put(2162, 30.0)
    bench.plant.advance(1.0)
    assert bench.plant.quantities["furnace.power_pct"] == 30.0


async def test_a_frozen_input_keeps_its_value(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.twin.fault("frozen", active=True)
    bench.plant.quantities["furnace.pv_degC"] = 300.0
    assert (await bench.readings())["pv"].value == pytest.approx(25.0, abs=1e-4)


async def test_a_refused_setpoint_is_not_accepted_and_says_why(autojump_clock: MockClock) -> None:
    bench = Bench(twin={"max_setpoint_degC": 600.0, "out_of_range": "exception"})
    ack = await bench.driver.write(FieldWrite("setpoint", 700.0), priority=Priority.COMMAND)
    assert not ack.accepted
    assert "exception 03" in ack.detail
    assert bench.twin.outputs() == {"setpoint": 24.0}


async def test_a_clamped_setpoint_shows_in_the_read_back(autojump_clock: MockClock) -> None:
    bench = Bench(twin={"max_setpoint_degC": 600.0})
    assert await bench.set(700.0) == pytest.approx(600.0, abs=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -5000.0, 1e30])
async def test_a_setpoint_that_no_controller_has_never_reaches_the_wire(
    value: float, autojump_clock: MockClock
) -> None:
    bench = Bench()
    ack = await bench.driver.write(FieldWrite("setpoint", value), priority=Priority.COMMAND)
    assert not ack.accepted
    assert bench.link.sent == []


async def test_only_the_setpoint_can_be_written(autojump_clock: MockClock) -> None:
    bench = Bench()
    ack = await bench.driver.write(FieldWrite("power", 100.0), priority=Priority.COMMAND)
    assert not ack.accepted
    assert bench.link.sent == []


async def test_a_safe_write_and_its_read_back_pass_first(autojump_clock: MockClock) -> None:
    bench = Bench()
    await bench.driver.write(FieldWrite("setpoint", 20.0), priority=Priority.SAFE)
    assert bench.link.priorities == [Priority.SAFE, Priority.SAFE]


async def test_a_device_in_trouble_raises_its_exception_by_name(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.twin.fault("exception", active=True)
    with pytest.raises(DeviceError, match=r"heater: .*exception 04 \(device failure\)"):
        await bench.driver.poll()


async def test_power_and_setpoint_are_polled_twice_a_second_and_in_turn(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    seen = [set(await bench.readings()) for _ in range(8)]
    pv, power = {"pv", "input_error"}, {"power", "output"}
    setpoint = {"setpoint"}
    assert seen[:5] == [pv | power | setpoint, pv, pv | setpoint, pv, pv]
    assert seen[5:] == [pv | power, pv, pv | setpoint]


async def test_everything_can_be_read_at_every_poll(autojump_clock: MockClock) -> None:
    bench = Bench(options={"slow_hz": 10.0})
    assert [len(await bench.readings()) for _ in range(4)] == [5, 5, 5, 5]


async def test_a_written_setpoint_is_read_at_the_next_poll(autojump_clock: MockClock) -> None:
    bench = Bench()
    for _ in range(4):
        await bench.driver.poll()
    await bench.set(200.0)
    assert (await bench.readings())["setpoint"].value == pytest.approx(200.0, abs=1e-4)


async def test_after_a_reconnection_everything_is_read_at_once(autojump_clock: MockClock) -> None:
    bench = Bench()
    for _ in range(3):
        await bench.driver.poll()
    await bench.driver.open()
    assert set(await bench.readings()) == {"pv", "input_error", "power", "output", "setpoint"}


@pytest.mark.parametrize(
    ("options", "twin", "words"),
    [
        ({"wire_unit": "degC"}, {"wire_unit": "degF"}, "deg_f .*deg_c"),
        ({}, {"wire_unit": "degC"}, "deg_c .*deg_f"),
        ({}, {"word_order": "high_low"}, "high_low .*low_high"),
    ],
)
async def test_a_controller_set_otherwise_than_the_profile_says_does_not_open(
    options: dict[str, Any], twin: dict[str, Any], words: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(DeviceError, match=words):
        await Bench(options=options, twin=twin).driver.open()


async def test_a_device_with_another_map_does_not_open(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.twin._values[1880] = 53
    with pytest.raises(DeviceError, match=r"1880 holds 53.*Map 1"):
        await bench.driver.open()


async def test_a_controller_that_has_no_modbus_is_silent(autojump_clock: MockClock) -> None:
    bench = Bench(twin={"speaks_modbus": False})
    with pytest.raises(LinkTimeoutError):
        await bench.driver.open()


async def test_two_controllers_share_a_line_by_address(autojump_clock: MockClock) -> None:
    plant = StillPlant()
    plant.quantities |= {"furnace2.pv_degC": 77.0, "furnace2.power_pct": 0.0}
    specs = [
        DeviceSpec(name="one", adapter="watlow", link="bus", address=1),
        DeviceSpec(name="two", adapter="watlow", link="bus", address=2, twin={"plant": "furnace2"}),
    ]
    link = DirectLink([FAMILY.twin(spec, plant) for spec in specs])
    drivers = [FAMILY.create(spec, link) for spec in specs]
    await drivers[1].write(FieldWrite("setpoint", 200.0), priority=Priority.COMMAND)
    first, second = [{r.field: r.value for r in await driver.poll()} for driver in drivers]
    assert (first["pv"], second["pv"]) == pytest.approx((25.0, 77.0), abs=1e-4)
    assert (first["setpoint"], second["setpoint"]) == pytest.approx((24.0, 200.0), abs=1e-4)


async def test_replies_take_5_to_20_ms_and_the_same_ones_at_every_run(
    autojump_clock: MockClock,
) -> None:
    async def durations() -> list[float]:
        bench, taken = Bench(), []
        for _ in range(20):
            began_s = trio.current_time()
            await bench.link.exchange(
                bench.driver._talk.read_input.frame,
                bench.driver._talk.read_input.collector().feed,
            )
            taken.append(trio.current_time() - began_s)
        return taken

    first = await durations()
    assert all(0.005 <= taken_s <= 0.0201 for taken_s in first)
    assert await durations() == pytest.approx(first, abs=1e-6)


# --- the simulator alone -----------------------------------------------------------------------


def test_a_ten_minute_ramp_costs_one_memory_write_in_five_seconds() -> None:
    bench = Bench()
    for second in range(600):
        bench.put(2160, 100.0 + second)
        bench.plant.advance(1.0)
    assert 119 <= bench.twin.nv_writes <= 121


def test_the_memory_is_not_written_when_nothing_changes_or_saving_is_off() -> None:
    bench = Bench()
    for _ in range(60):
        bench.put(2160, 212.0)
        bench.plant.advance(1.0)
    assert bench.twin.nv_writes == 1
    assert bench.ask(WriteRegister(1, 2494, 59)) == Written()
    bench.plant.advance(10.0)
    before = bench.twin.nv_writes
    for second in range(60):
        bench.put(2160, 300.0 + second)
        bench.plant.advance(1.0)
    assert bench.twin.nv_writes == before


def test_a_power_cut_brings_back_what_was_saved() -> None:
    bench = Bench()
    bench.put(2160, 212.0)
    bench.plant.advance(6.0)
    bench.ask(WriteRegister(1, 2494, 59))
    bench.plant.advance(6.0)
    bench.put(2160, 932.0)
    bench.plant.advance(6.0)
    bench.twin.fault("power_cycle", active=True)
    assert bench.number(2160) == pytest.approx(212.0, abs=1e-3)


def test_the_active_setpoint_ramps_while_the_setpoint_jumps() -> None:
    bench = Bench(twin={"ramp_degC_per_min": 60.0})
    bench.put(2160, 32.0 + 1.8 * 124.0)
    bench.plant.advance(50.0)
    assert bench.number(2160) == pytest.approx(32.0 + 1.8 * 124.0, abs=1e-3)
    assert bench.number(2172) == pytest.approx(32.0 + 1.8 * 74.0, abs=0.5)


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (ReadRegisters(1, 9000, 1), Refusal(3, 2)),
        (ReadRegisters(1, 1888, 4), Refusal(3, 2)),
        (WriteRegister(1, 360, 1), Refusal(6, 2)),
        (WriteRegister(1, 2160, 0), Refusal(6, 3)),
        (WriteRegister(1, 2161, 0), Refusal(6, 3)),
        (WriteRegister(1, 1880, 99), Refusal(6, 3)),
        (WriteRegister(1, 1880, 62), Written()),
    ],
)
def test_the_simulator_refuses_what_the_device_would(request_: Request, reply: Reply) -> None:
    assert Bench().ask(request_) == reply


def test_a_write_that_fails_in_one_register_changes_none() -> None:
    bench = Bench()
    reply = bench.ask(WriteRegisters(1, 2168, (0, 0, 0, 0, 0, 0)))
    assert reply == Refusal(16, 2)
    assert bench.number(2168) == -100.0


def test_units_on_the_wire_follow_register_2490_unless_it_is_only_a_label() -> None:
    bench = Bench()
    bench.put(2160, 212.0)
    assert bench.ask(WriteRegister(1, 2490, 15)) == Written()
    assert bench.number(2160) == pytest.approx(100.0, abs=1e-4)
    label = Bench(twin={"units_label_only": True})
    label.put(2160, 212.0)
    label.ask(WriteRegister(1, 2490, 15))
    assert label.number(2160) == pytest.approx(212.0, abs=1e-4)


@pytest.mark.parametrize(
    "frame", ["02 03 01 68 00 02 44 18", "01 03 01 68 00 02 44 2C", "55 FF 05"]
)
def test_what_is_addressed_elsewhere_or_garbled_gets_silence(frame: str) -> None:
    assert Bench().twin.receive(bytes.fromhex(frame)) == []


async def test_the_loop_holds_a_furnace_within_two_degrees(autojump_clock: MockClock) -> None:
    bench = Bench()
    await bench.set(300.0)
    temperature_degC, hottest_degC = 25.0, 25.0
    for _ in range(36000):
        bench.plant.quantities["furnace.pv_degC"] = temperature_degC
        bench.plant.advance(0.1)
        power_w = 8.0 * bench.plant.quantities["furnace.power_pct"]
        temperature_degC += 0.1 * (power_w - 0.5 * (temperature_degC - 25.0)) / 900.0
        hottest_degC = max(hottest_degC, temperature_degC)
    assert temperature_degC == pytest.approx(300.0, abs=2.0)
    assert hottest_degC < 315.0


@pytest.mark.parametrize("address", [0, 248, "A", -1])
def test_an_address_that_is_none_is_named(address: int | str) -> None:
    spec = DeviceSpec(name="heater", adapter="watlow", link="bus", address=address)
    with pytest.raises(ValueError, match=r"address = .*1 to 247"):
        FAMILY.fields(spec)


@pytest.mark.parametrize("options", [{"map": 2}, {"wire_unit": "K"}, {"wire_units": "degC"}])
def test_an_option_that_does_not_exist_is_named(options: dict[str, Any]) -> None:
    spec = DeviceSpec(name="heater", adapter="watlow", link="bus", options=options)
    with pytest.raises(ValidationError):
        FAMILY.fields(spec)


def test_a_field_that_is_not_read_at_every_poll_says_how_often_it_is() -> None:
    spec = DeviceSpec(
        name="furnace", adapter="watlow", link="com", address=1, poll_hz=10.0,
        options={"slow_hz": 2.0},
    )  # fmt: skip
    adapter = FAMILY.create(spec, DirectLink([]))
    periods = getattr(adapter, "periods_s")  # noqa: B009 - of the base class, not of the protocol
    assert periods["setpoint"] == periods["power"] == 0.5
    assert "pv" not in periods
