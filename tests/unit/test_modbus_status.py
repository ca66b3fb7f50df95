"""What a Modbus device says elsewhere of a value's worth, and the twin that says it."""

import math
from typing import Any

import pytest
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.modbus import FAMILY
from adapters.modbus.device import ModbusAdapter
from adapters.modbus.twin import ModbusTwin
from capa.channels.sample import Status
from capa.devices.adapter import Reading
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

FLAG = {"address": 9, "unit": "1"}
LEVEL = {
    "address": 1,
    "type": "int16",
    "unit": "mm",
    "valid_max": 100.0,
    "status_from": [
        {"field": "flag", "mask": 6, "status": "sensor_fail"},
        {"field": "flag", "equals": 1, "status": "settling"},
    ],
}


def spec(options: dict[str, Any], twin: dict[str, Any] | None = None) -> DeviceSpec:
    return DeviceSpec(
        name="box",
        adapter="modbus",
        link="bus",
        address=1,
        options=options,
        twin={"fields": twin or {}},
    )


class Bench:
    def __init__(self, options: dict[str, Any], twin: dict[str, Any] | None = None) -> None:
        given = spec(options, twin)
        self.twin = ModbusTwin(given, StillPlant())
        self.link = DirectLink([self.twin])
        self.driver = ModbusAdapter(given, self.link)

    async def reading(self, field: str) -> Reading:
        return next(one for one in await self.driver.poll() if one.field == field)


@pytest.mark.parametrize(
    ("flag", "level", "status"),
    [
        (0, 20.0, Status.OK),
        (1, 20.0, Status.SETTLING),
        (2, 20.0, Status.SENSOR_FAIL),
        (5, 20.0, Status.SENSOR_FAIL),
        (8, 20.0, Status.OK),
        (1, 101.0, Status.OVERLOAD),  # what it shows itself goes first
    ],
)
async def test_another_field_says_what_a_value_is_worth(
    flag: int, level: float, status: Status, autojump_clock: MockClock
) -> None:
    fields = {"flag": FLAG, "level": LEVEL}
    bench = Bench({"fields": fields}, {"flag": {"value": flag}, "level": {"value": level}})
    reading = await bench.reading("level")
    assert reading.status is status
    assert math.isnan(reading.value) is not status.usable


async def test_the_field_that_says_it_is_read_though_only_does_not_name_it(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"map": "eurotherm-2400", "only": ["pv"]}, {"sensor_break": {"value": 1}})
    assert (await bench.reading("pv")).status is Status.SENSOR_FAIL


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"field": "nothing", "mask": 1}, "'nothing' is not in the map"),
        ({"field": "level", "mask": 1}, "'level' is no whole number"),
        ({"field": "flag"}, "give mask .* or equals"),
        ({"field": "flag", "mask": 1, "equals": 1}, "give mask .* or equals"),
        ({"field": "flag", "mask": 1, "status": "ok"}, "can't say ok"),
    ],
)
def test_a_rule_that_can_not_work_is_refused_at_the_desk(change: dict[str, Any], says: str) -> None:
    rule = {"status": "sensor_fail", **change}
    level = LEVEL | {"scale": 0.1, "status_from": [rule]}
    with pytest.raises(ValidationError, match=says):
        FAMILY.fields(spec({"fields": {"flag": FLAG, "level": level}}))


@pytest.mark.parametrize(
    ("name", "field", "fault", "status"),
    [
        ("eurotherm-2400", "pv", "sensor_break", Status.SENSOR_FAIL),
        ("alicat-modbus", "flow", "sensor_break", Status.SENSOR_FAIL),
        ("alicat-modbus", "flow", "overload", Status.OVERLOAD),
        ("alicat-modbus", "volumetric", "underrange", Status.UNDERRANGE),
        ("alicat-modbus", "temperature", "underrange", Status.UNDERRANGE),
        ("alicat-modbus", "pressure", "overload", Status.OVERLOAD),
        ("bronkhorst", "measure_pct", "overload", Status.OVERLOAD),
    ],
)
async def test_a_status_is_provoked_in_the_simulator_and_ends_again(
    name: str, field: str, fault: str, status: Status, autojump_clock: MockClock
) -> None:
    bench = Bench({"map": name})
    assert bench.twin.fault(fault, active=True)
    reading = await bench.reading(field)
    assert reading.status is status
    assert math.isnan(reading.value)
    assert bench.twin.fault(fault, active=False)
    assert (await bench.reading(field)).status is Status.OK


async def test_an_alicat_in_exhaust_or_hold_still_measures(autojump_clock: MockClock) -> None:
    bench = Bench({"map": "alicat-modbus"}, {"status": {"value": 0x0500}})
    assert (await bench.reading("flow")).status is Status.OK


def test_a_map_without_words_for_a_status_has_no_such_fault() -> None:
    bench = Bench({"fields": {"level": {"address": 1, "unit": "mm"}}})
    assert not bench.twin.fault("overload", active=True)
    assert not bench.twin.fault("stale", active=True)


@pytest.mark.parametrize("code", [5.0, 6.0])
async def test_a_device_that_is_busy_has_no_new_values(
    code: float, autojump_clock: MockClock
) -> None:
    bench = Bench({"map": "bronkhorst", "only": ["flow"]})
    assert bench.twin.fault("exception", active=True, value=code)
    reading = await bench.reading("flow")
    assert reading.status is Status.STALE
    assert math.isnan(reading.value)
    assert bench.driver.counters == {"busy": 1}
    with pytest.raises(DeviceError):
        await bench.driver.open()


async def test_any_other_exception_fails_the_poll(autojump_clock: MockClock) -> None:
    bench = Bench({"map": "bronkhorst", "only": ["flow"]})
    bench.twin.fault("exception", active=True, value=2.0)
    with pytest.raises(DeviceError):
        await bench.driver.poll()


async def test_an_alicats_flow_and_its_status_cost_one_request(autojump_clock: MockClock) -> None:
    bench = Bench({"map": "alicat-modbus", "only": ["flow"]})
    assert (await bench.reading("flow")).status is Status.OK
    (sent,) = bench.link.sent
    assert sent == bytes.fromhex("01 03 04 B0 00 0A C5 1A")  # as the manual's registers lie
