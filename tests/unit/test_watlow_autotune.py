"""Auto-tune of the simulated EZ-ZONE, on the simulated furnace."""

import pytest

from adapters.modbus.codec import Query, ReadRegisters, Registers, WriteRegister
from adapters.modbus.words import float_at
from adapters.twin.plant import Plant
from adapters.watlow.twin import WatlowTwin
from capa.devices.spec import DeviceSpec

AUTO, MANUAL, YES, NO = 10, 54, 106, 59
IDLE, RUNNING, COMPLETE, TIMEOUT = 62, 119, 18, 118


class Bench:
    def __init__(self, setpoint_degC: float = 350.0) -> None:
        self.plant = Plant({})
        registers = {2160: setpoint_degC, 2172: setpoint_degC}
        spec = DeviceSpec(
            name="heater", adapter="watlow", link="bus", twin={"registers": registers}
        )
        self.twin = WatlowTwin(spec, self.plant)
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.plant.advance_to(self.now_s)

    def read(self, address: int) -> Registers:
        query = Query(ReadRegisters(1, address, 2))
        (reply,) = self.twin.receive(query.frame)
        seen = query.collector().feed(reply.data)
        assert isinstance(seen, Registers)
        return seen

    def code(self, address: int) -> int:
        return self.read(address).words()[0]

    def number(self, address: int) -> float:
        return float_at(self.read(address).data, 0, "low_high")

    def write(self, address: int, code: int) -> None:
        self.twin.receive(Query(WriteRegister(1, address, code)).frame)


def test_a_tune_rewrites_band_integral_and_derivative_and_the_loop_then_holds() -> None:
    bench = Bench()
    before = [bench.number(address) for address in (1890, 1894, 1896)]
    assert bench.code(1932) == IDLE
    bench.write(1920, YES)
    assert bench.code(1932) == RUNNING
    assert bench.code(1920) == YES
    while bench.code(1932) == RUNNING:
        bench.advance(10.0)
    assert bench.code(1932) == COMPLETE
    assert bench.code(1920) == NO
    after = [bench.number(address) for address in (1890, 1894, 1896)]
    assert all(new != old for new, old in zip(after, before, strict=True))
    assert after[1] == pytest.approx(4.0 * after[2])
    bench.advance(900.0)
    assert bench.plant.get("furnace.pv_degC") == pytest.approx(350.0, abs=2.0)


def test_a_tune_swings_about_a_share_of_the_setpoint() -> None:
    bench = Bench()
    bench.write(1920, YES)
    hottest = 0.0
    while bench.code(1932) == RUNNING:
        bench.advance(5.0)
        hottest = max(hottest, bench.plant.get("furnace.pv_degC"))
    assert 315.0 < hottest < 350.0


@pytest.mark.parametrize("how", ["mode", "no", "sensor"])
def test_a_tune_is_given_up(how: str) -> None:
    bench = Bench()
    bench.write(1920, YES)
    bench.advance(10.0)
    match how:
        case "mode":
            bench.write(1880, MANUAL)
        case "no":
            bench.write(1920, NO)
        case _:
            bench.twin.fault("sensor_break", active=True)
    assert (bench.code(1932), bench.code(1920)) == (IDLE, NO)
    assert bench.number(1894) == 180.0


def test_a_controller_that_does_not_control_does_not_tune() -> None:
    bench = Bench()
    bench.write(1880, MANUAL)
    bench.write(1920, YES)
    assert (bench.code(1932), bench.code(1920)) == (IDLE, NO)


def test_a_tune_that_gets_nowhere_times_out() -> None:
    bench = Bench(setpoint_degC=2000.0)
    bench.write(1920, YES)
    bench.advance(3700.0)
    assert (bench.code(1932), bench.code(1920)) == (TIMEOUT, NO)
