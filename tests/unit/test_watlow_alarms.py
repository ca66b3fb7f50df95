"""Alarms and open-loop detection of the simulated EZ-ZONE, and what the driver reads of them."""

import math
from typing import Any

import pytest
from trio.testing import MockClock

from adapters.modbus.codec import Query, ReadRegisters, Registers, WriteRegister
from adapters.watlow.adapter import WatlowAdapter
from adapters.watlow.codec import InputError
from adapters.watlow.twin import WatlowTwin
from capa.channels.sample import Status
from capa.devices.adapter import Reading
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

PROCESS, DEVIATION = 76, 24
NONE, HIGH, LOW, BLOCKED = 61, 7, 8, 12
YES, NO = 106, 59


class Bench:
    def __init__(
        self, registers: dict[int, float] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        self.plant = StillPlant()
        given = {"slow_hz": 10.0, **(options or {})}
        twin = {"registers": registers or {}}
        spec = DeviceSpec(name="heater", adapter="watlow", link="bus", options=given, twin=twin)
        self.twin = WatlowTwin(spec, self.plant)
        self.link = DirectLink([self.twin])
        self.driver = WatlowAdapter(spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    def register(self, address: int) -> int:
        query = Query(ReadRegisters(1, address, 2))
        (reply,) = self.twin.receive(query.frame)
        seen = query.collector().feed(reply.data)
        assert isinstance(seen, Registers)
        return seen.words()[0]

    def write(self, address: int, code: int) -> None:
        self.twin.receive(Query(WriteRegister(1, address, code)).frame)

    def at(self, pv_degC: float) -> int:
        """Return the state of alarm 1 at a process value."""
        self.plant.quantities["furnace.pv_degC"] = pv_degC
        return self.register(1496)


def test_an_alarm_ends_only_beyond_its_hysteresis() -> None:
    bench = Bench({1508: PROCESS, 1480: 100.0, 1482: 10.0, 1484: 5.0})
    assert [bench.at(pv) for pv in (99.0, 101.0, 96.0, 94.0)] == [NONE, HIGH, HIGH, NONE]
    assert [bench.at(pv) for pv in (9.0, 14.0, 16.0)] == [LOW, LOW, NONE]


def test_a_latched_alarm_stays_until_it_is_over_and_cleared() -> None:
    bench = Bench({1508: PROCESS, 1480: 100.0, 1492: 49})
    assert bench.at(150.0) == HIGH
    assert (bench.register(1498), bench.register(1502)) == (YES, NO)
    bench.write(1504, 0)  # not over yet
    assert bench.at(150.0) == HIGH
    assert bench.at(50.0) == HIGH
    assert bench.register(1502) == YES
    bench.write(1504, 0)
    assert bench.at(50.0) == NONE
    assert bench.twin.nv_writes == 0


def test_a_blocked_alarm_waits_until_all_was_well_once() -> None:
    bench = Bench({1508: PROCESS, 1480: 100.0, 1482: 30.0, 1494: 88})
    assert [bench.at(pv) for pv in (20.0, 25.0, 50.0, 20.0)] == [BLOCKED, BLOCKED, NONE, LOW]


def test_a_deviation_alarm_follows_the_setpoint() -> None:
    deviation = {1508: DEVIATION, 1480: 10.0, 1482: -10.0, 2160: 200.0, 2172: 200.0}
    bench = Bench(deviation)
    assert [bench.at(pv) for pv in (195.0, 211.0, 189.0)] == [NONE, HIGH, LOW]
    words = Registers(bench.twin.receive(Query(ReadRegisters(1, 1480, 2)).frame)[0].data[3:7])
    assert words.words()[1] == 0x4190  # 18 degF: a difference has no offset of 32


@pytest.mark.parametrize(("pv_degC", "code"), [(25.0, 1274.0), (14.0, 1275.0)])
async def test_a_heater_that_does_not_heat_is_found_by_open_loop_detection(
    pv_degC: float, code: float, autojump_clock: MockClock
) -> None:
    bench = Bench({1922: YES, 1924: 60.0, 1926: 5.0, 2160: 300.0}, {"also_read": ["loop"]})
    bench.plant.advance(1.0)
    assert (await bench.readings())["loop_error"].value == NONE
    bench.plant.quantities["furnace.pv_degC"] = pv_degC
    bench.plant.advance(61.0)
    assert (await bench.readings())["loop_error"].value == code
    bench.plant.advance(1.0)
    assert bench.plant.quantities["furnace.power_pct"] == 0.0
    bench.write(1930, 129)
    bench.plant.advance(1.0)
    assert (await bench.readings())["loop_error"].value == NONE
    assert bench.plant.quantities["furnace.power_pct"] == 100.0


def test_a_heater_that_heats_is_none_of_its_business() -> None:
    bench = Bench({1922: YES, 1924: 60.0, 1926: 5.0, 2160: 900.0})
    for degrees in range(25, 600, 10):
        bench.plant.quantities["furnace.pv_degC"] = float(degrees)
        bench.plant.advance(50.0, step_s=1.0)
    assert bench.register(1928) == NONE


async def test_a_late_reply_to_one_group_passes_for_no_other(autojump_clock: MockClock) -> None:
    groups = ["mode", "ramp", "comms", "loop", "alarm1", "alarm2", "alarm3", "alarm4"]
    bench = Bench(options={"also_read": groups})
    await bench.driver.open()
    for _ in groups:
        await bench.readings()
    settings = bench.driver.settings
    await settings.read(set(settings.known), priority=Priority.POLL)
    reads = {frame[2:6] for frame in bench.link.sent}
    counts = [read[2:4] for read in reads]
    assert len(counts) == len(set(counts))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_each_alarm_is_read_from_its_own_registers(
    number: int, autojump_clock: MockClock
) -> None:
    base = 1480 + 50 * (number - 1)
    bench = Bench({base + 28: PROCESS, base: 20.0}, {"also_read": [f"alarm{number}"]})
    assert (await bench.readings())[f"alarm{number}"].value == HIGH


@pytest.mark.parametrize("code", [code for code in InputError if code is not InputError.NONE])
async def test_every_input_error_is_a_failed_sensor(
    code: InputError, autojump_clock: MockClock
) -> None:
    bench = Bench()
    bench.twin.fault("sensor_break", active=True, value=code)
    readings = await bench.readings()
    assert readings["pv"].status is Status.SENSOR_FAIL
    assert readings["input_error"].value == code
    assert readings["setpoint"].status is Status.OK


async def test_without_an_input_the_process_value_may_be_anything(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    bench.plant.quantities["furnace.pv_degC"] = math.nan
    bench.twin.fault("sensor_break", active=True)
    assert (await bench.readings())["pv"].status is Status.SENSOR_FAIL


async def test_a_float_that_is_no_number_is_no_reading(autojump_clock: MockClock) -> None:
    bench = Bench(options={"also_read": ["ramp"]})
    bench.twin._values[2192] = math.nan
    assert (await bench.readings())["ramp_rate"].status is Status.SENSOR_FAIL


@pytest.mark.parametrize("wire_unit", ["degF", "degC"])
async def test_the_second_port_has_registers_of_its_own(
    wire_unit: str, autojump_clock: MockClock
) -> None:
    bench = Bench(options={"port": 2, "wire_unit": wire_unit, "also_read": ["comms"]})
    await bench.driver.open()
    readings = await bench.readings()
    assert readings["pv"].value == pytest.approx(25.0)
    assert readings["save"].value == 1.0
    bench.write(2514, NO)
    assert (await bench.readings())["save"].value == 0.0
    assert bench.register(2494) == YES


@pytest.mark.parametrize(("fault", "shown"), [("tc_short", 25.0), ("tc_reversed", -250.0)])
async def test_a_thermocouple_that_is_miswired_is_believed(
    fault: str, shown: float, autojump_clock: MockClock
) -> None:
    bench = Bench({366: 25.0})
    bench.plant.quantities["furnace.pv_degC"] = 300.0
    bench.twin.fault(fault, active=True)
    pv = (await bench.readings())["pv"]
    assert pv.value == pytest.approx(shown, abs=0.01)
    assert pv.status is Status.OK
    bench.twin.fault(fault, active=False)
    assert (await bench.readings())["pv"].value == pytest.approx(300.0, abs=0.01)


@pytest.mark.parametrize(("fault", "code"), [("tc_short", 1274), ("tc_reversed", 1275)])
def test_open_loop_detection_finds_a_miswired_thermocouple(fault: str, code: int) -> None:
    bench = Bench({1922: YES, 1924: 60.0, 1926: 5.0, 2160: 300.0})
    bench.twin.fault(fault, active=True)
    for seconds in range(70):
        bench.plant.quantities["furnace.pv_degC"] = 25.0 + 0.2 * seconds
        bench.plant.advance(1.0)
    assert bench.register(1928) == code


async def test_a_group_that_the_controller_does_not_have_is_named_when_it_is_opened(
    autojump_clock: MockClock,
) -> None:
    twin = {"max_read": 18}
    spec = DeviceSpec(
        name="heater", adapter="watlow", link="bus", options={"also_read": ["loop"]}, twin=twin
    )
    driver = WatlowAdapter(spec, DirectLink([WatlowTwin(spec, StillPlant())]))
    with pytest.raises(DeviceError, match="1910"):
        await driver.open()
