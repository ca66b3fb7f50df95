"""Faults of the simulated EZ-ZONE, one upon the other, and over a power cut."""

import pytest

from adapters.modbus.codec import (
    Query,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    WriteRegister,
    WriteRegisters,
)
from adapters.modbus.words import float_at, float_words
from adapters.watlow.twin import WatlowTwin
from capa.devices.spec import DeviceSpec
from tests.support.still_plant import StillPlant

NONE, OPEN, SHORTED = 61, 65, 127
OFF, AUTO, MANUAL = 62, 10, 54
YES, NO = 106, 59


class Bench:
    def __init__(self, registers: dict[int, float] | None = None, max_read: int = 125) -> None:
        self.plant = StillPlant()
        twin = {"registers": registers or {}, "max_read": max_read}
        spec = DeviceSpec(name="heater", adapter="watlow", link="bus", twin=twin)
        self.twin = WatlowTwin(spec, self.plant)

    def ask(self, request: Request) -> Reply:
        (reply,) = self.twin.receive(Query(request).frame)
        answer = Query(request).collector().feed(reply.data)
        assert answer is not None
        return answer

    def _read(self, address: int) -> Registers:
        reply = self.ask(ReadRegisters(1, address, 2))
        assert isinstance(reply, Registers)
        return reply

    def code(self, address: int) -> int:
        return self._read(address).words()[0]

    def number(self, address: int) -> float:
        return round(float_at(self._read(address).data, 0, "low_high"), 2)

    def put(self, address: int, value: float) -> None:
        self.ask(WriteRegisters(1, address, float_words(value, "low_high")))

    def put_code(self, address: int, code: int) -> None:
        self.ask(WriteRegister(1, address, code))

    def at(self, pv_degC: float) -> float:
        """Return what the process value reads, in degF, at this temperature."""
        self.plant.quantities["furnace.pv_degC"] = pv_degC
        return self.number(360)

    def saved(self) -> None:
        self.plant.advance(6.0)


def test_a_power_cut_mends_no_sensor() -> None:
    bench = Bench()
    bench.at(100.0)
    bench.twin.fault("sensor_break", active=True, value=SHORTED)
    bench.twin.fault("power_cycle", active=True)
    assert (bench.code(362), bench.code(1882)) == (SHORTED, MANUAL)
    assert bench.at(200.0) == 212.0
    bench.twin.fault("sensor_break", active=False)
    assert (bench.code(362), bench.code(1882), bench.at(200.0)) == (NONE, AUTO, 392.0)


def test_what_was_saved_while_the_sensor_was_broken_breaks_none_that_is_mended() -> None:
    bench = Bench()
    bench.twin.fault("sensor_break", active=True)
    bench.put(2160, 212.0)
    bench.saved()
    bench.twin.fault("sensor_break", active=False)
    bench.twin.fault("power_cycle", active=True)
    assert (bench.code(362), bench.code(1882), bench.number(2160)) == (NONE, AUTO, 212.0)


@pytest.mark.parametrize(("saves", "after"), [(YES, 100.0), (NO, 212.0)])
def test_the_unit_of_the_wire_comes_back_as_it_was_saved(saves: int, after: float) -> None:
    bench = Bench()
    bench.put(2160, 212.0)
    bench.saved()
    bench.put_code(2494, saves)
    bench.put_code(2490, 15)
    bench.saved()
    assert bench.number(2160) == 100.0
    bench.twin.fault("power_cycle", active=True)
    assert (bench.number(2160), bench.code(2490)) == (after, 15 if saves == YES else 30)


def test_a_controller_that_was_just_switched_on_holds_no_power_from_before() -> None:
    bench = Bench({2184: 14})  # without a sensor it goes on as it did
    bench.put(2160, 900.0)
    bench.saved()
    assert bench.number(1904) == 100.0
    bench.put(2162, 5.0)
    bench.saved()
    bench.twin.fault("power_cycle", active=True)
    bench.twin.fault("sensor_break", active=True)
    bench.plant.advance(1.0)
    assert bench.number(1904) == 0.0


def test_the_end_of_a_power_cut_is_not_another_one() -> None:
    bench = Bench()
    bench.twin.fault("power_cycle", active=True)
    bench.put(2160, 400.0)
    bench.put(2160, 500.0)  # within the five seconds, so not saved as yet
    bench.twin.fault("power_cycle", active=False)
    assert bench.number(2160) == 500.0


@pytest.mark.parametrize(
    ("on", "off", "reads"),
    [
        ("tc_short", "tc_reversed", 77.0),
        ("tc_reversed", "tc_short", -103.0),
        ("frozen", "sensor_break", 212.0),
        ("sensor_break", "frozen", 212.0),
        ("frozen", "tc_short", 212.0),
    ],
)
def test_a_fault_that_is_not_on_ends_no_other(on: str, off: str, reads: float) -> None:
    bench = Bench({366: 25.0})
    bench.at(100.0)
    bench.twin.fault(on, active=True)
    bench.twin.fault(off, active=False)
    assert bench.at(125.0) == reads


def test_an_input_that_is_frozen_stays_so_when_its_sensor_is_mended() -> None:
    bench = Bench()
    bench.at(100.0)
    bench.twin.fault("sensor_break", active=True)
    bench.twin.fault("frozen", active=True)
    bench.twin.fault("sensor_break", active=False)
    assert (bench.code(362), bench.at(200.0)) == (NONE, 212.0)
    bench.twin.fault("frozen", active=False)
    assert bench.at(200.0) == 392.0


def test_a_tune_goes_on_when_a_sensor_that_is_not_broken_is_mended() -> None:
    bench = Bench()
    bench.put_code(1920, YES)
    bench.twin.fault("sensor_break", active=False)
    assert bench.code(1920) == YES


def test_a_controller_that_is_off_is_off_without_a_sensor_too() -> None:
    bench = Bench()
    bench.put_code(1880, OFF)
    bench.twin.fault("sensor_break", active=True)
    assert bench.code(1882) == OFF


@pytest.mark.parametrize("address", [40, 200])
def test_no_read_is_longer_than_the_controller_takes_not_even_of_the_memory_block(
    address: int,
) -> None:
    bench = Bench(max_read=32)
    bench.ask(WriteRegisters(1, 40, (360,) * 80))
    assert isinstance(bench.ask(ReadRegisters(1, address, 32)), Registers)
    assert bench.ask(ReadRegisters(1, address, 33)) == Refusal(3, 3)
    assert bench.ask(ReadRegisters(1, address, 80)) == Refusal(3, 3)


def test_latching_of_input_errors_can_be_read_and_set() -> None:
    bench = Bench()
    assert bench.code(414) == OFF
    bench.put_code(414, 63)
    reply = bench.ask(ReadRegisters(1, 414, 4))
    assert isinstance(reply, Registers)
    assert list(reply.words()) == [63, 0, 255, 0]
    assert bench.ask(WriteRegister(1, 414, 1)) == Refusal(6, 3)
