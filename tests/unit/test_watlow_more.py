"""What an EZ-ZONE tells beside its process value: modes, ramps, alarms, saving; and over TCP."""

from typing import Any

import pytest
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.watlow import FAMILY
from adapters.watlow.adapter import WatlowAdapter
from adapters.watlow.twin import WatlowTwin
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant


class Bench:
    def __init__(self, options: dict[str, Any], twin: dict[str, Any] | None = None) -> None:
        self.plant = StillPlant()
        options = {"slow_hz": 10.0, **options}
        spec = DeviceSpec(
            name="heater", adapter="watlow", link="bus", options=options, twin=twin or {}
        )
        self.twin = WatlowTwin(spec, self.plant)
        self.link = DirectLink([self.twin])
        self.driver = WatlowAdapter(spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def set(self, field: str, value: float) -> WriteAck:
        return await self.driver.write(FieldWrite(field, value), priority=Priority.COMMAND)


@pytest.mark.parametrize("wire", ["degF", "degC"])
@pytest.mark.parametrize("order", ["low_high", "high_low"])
@pytest.mark.parametrize(
    ("group", "field", "value"),
    [
        ("mode", "mode", 54.0),
        ("ramp", "ramp_action", 85.0),
        ("ramp", "ramp_rate", 12.5),
        ("comms", "save", 0.0),
    ],
)
async def test_what_is_read_beside_can_be_written_and_reads_back(
    group: str, field: str, value: float, order: str, wire: str, autojump_clock: MockClock
) -> None:
    bench = Bench({"also_read": [group], "word_order": order, "wire_unit": wire})
    ack = await bench.set(field, value)
    assert ack.accepted, ack.detail
    assert ack.readback == pytest.approx(value)
    assert (await bench.readings())[field].value == pytest.approx(value)


async def test_a_ramp_set_in_hours_is_written_in_hours(autojump_clock: MockClock) -> None:
    bench = Bench({"also_read": ["ramp"]}, {"registers": {2188: 39}})
    assert (await bench.set("ramp_rate", 10.0)).readback == pytest.approx(10.0)
    assert bench.twin._values[2192] == pytest.approx(600.0)


@pytest.mark.parametrize(
    ("group", "field", "value"),
    [("mode", "mode", 1.0), ("ramp", "ramp_action", 0.0), ("ramp", "ramp_rate", -1.0)],
)
async def test_a_code_that_the_controller_does_not_have_never_reaches_it(
    group: str, field: str, value: float, autojump_clock: MockClock
) -> None:
    bench = Bench({"also_read": [group]})
    assert not (await bench.set(field, value)).accepted
    assert all(frame[1] == 3 for frame in bench.link.sent)


async def test_groups_are_read_in_turn_one_each_time(autojump_clock: MockClock) -> None:
    bench = Bench({"also_read": ["mode", "comms", "alarm1"]})
    base = {"pv", "input_error", "power", "output", "setpoint"}
    beside = [set(await bench.readings()) - base for _ in range(4)]
    assert beside == [{"mode", "mode_active"}, {"wire_units", "save"}, {"alarm1"}, beside[0]]


async def test_an_alarm_tells_which_side_it_is(autojump_clock: MockClock) -> None:
    twin = {"registers": {1508: 76, 1480: 100.0, 1482: 10.0}}
    bench = Bench({"also_read": ["alarm1"]}, twin)
    codes = []
    for pv in (25.0, 150.0, 5.0):
        bench.plant.quantities["furnace.pv_degC"] = pv
        codes.append((await bench.readings())["alarm1"].value)
    bench.twin.fault("sensor_break", active=True)
    codes.append((await bench.readings())["alarm1"].value)
    assert codes == [61, 7, 8, 28]


async def test_a_broken_sensor_is_told_by_its_code(autojump_clock: MockClock) -> None:
    bench = Bench({})
    bench.twin.fault("sensor_break", active=True, value=127)
    assert (await bench.readings())["input_error"].value == 127.0


async def test_a_controller_behind_modbus_tcp_is_read_and_set(autojump_clock: MockClock) -> None:
    bench = Bench({"framing": "tcp"})
    await bench.driver.open()
    assert (await bench.set("setpoint", 350.0)).readback == pytest.approx(350.0)
    assert bench.link.sent[-2][2:6] == bytes((0, 0, 0, 11))  # MBAP: protocol 0, length


async def test_registers_of_ones_own_take_the_place_of_map_1(autojump_clock: MockClock) -> None:
    places = {"process_value": 360, "heat_power": 1904, "setpoint": 2160, "control_mode": 1880}
    bench = Bench({"map": "custom", "registers": places})
    await bench.driver.open()
    assert (await bench.set("setpoint", 100.0)).readback == pytest.approx(100.0)
    assert FAMILY.settings(bench.driver._spec) == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"map": "custom"}, "go together"),
        ({"also_read": ["mode", "mode"]}, "twice"),
        ({"also_read": ["autotune"]}, "alarm1"),
    ],
)
def test_an_option_that_cannot_be_is_explained(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        FAMILY.fields(DeviceSpec(name="heater", adapter="watlow", link="bus", options=options))


def test_the_probes_of_the_family_only_read_and_recognise_its_twin() -> None:
    bench = Bench({})
    probe = FAMILY.probes()[0]
    reply = b"".join(one.data for one in bench.twin.receive(probe.request))
    assert probe.recognise(reply) == "EZ-ZONE PM"
    assert probe.recognise(reply[:-1]) is None
    assert probe.recognise(reply[:-1] + b"\0") is None
    assert {one.request[1] for one in FAMILY.probes()} == {3}


@pytest.mark.parametrize(
    ("groups", "registers"), [([], None), (["alarm1"], 3), (["alarm1", "loop", "comms"], 20)]
)
def test_the_poll_plan_reckons_with_the_longest_group(
    groups: list[str], registers: int | None
) -> None:
    spec = DeviceSpec(name="heater", adapter="watlow", link="bus", options={"also_read": groups})
    beside = FAMILY.poll_cost(spec)[3:]
    assert [cost.reply for cost in beside] == ([] if registers is None else [5 + 2 * registers])
