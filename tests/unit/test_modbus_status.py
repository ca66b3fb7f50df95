"""What a Modbus device says elsewhere of a value's worth, and the twin that says it."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.modbus import FAMILY
from adapters.modbus.codec import with_crc
from adapters.modbus.device import ModbusAdapter
from adapters.modbus.flags import Flagged, judged
from adapters.modbus.twin import ModbusTwin
from capa.channels.sample import Status
from capa.devices.adapter import Reading
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

FLAG = {"address": 9, "unit": "1"}
ALARM = {"address": 0, "register": "coil", "type": "bit", "unit": "1"}
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

    def busy_on(self, address: int) -> None:
        """Have reads from that address on refused with exception 06, and no others."""
        start = address.to_bytes(2, "big")
        busy = with_crc(bytes((1, 0x83, 6)))
        self.link.garble = lambda data: busy if self.link.sent[-1][2:4] == start else data


@pytest.mark.parametrize(
    ("flag", "level", "status"),
    [
        (0, 20.0, Status.OK),
        (1, 20.0, Status.SETTLING),
        (2, 20.0, Status.SENSOR_FAIL),
        (5, 20.0, Status.SENSOR_FAIL),
        (8, 20.0, Status.OK),
        (1, 101.0, Status.OVERLOAD),  # settling makes no measurement of what shows itself none
        (2, 101.0, Status.SENSOR_FAIL),  # an upscale burnout is a burnout
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


async def test_a_value_is_stale_while_the_register_that_speaks_for_it_is_not_to_be_read(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"map": "eurotherm-2400"}, {"pv": {"value": 300.0}, "sensor_break": {"value": 1}})
    bench.busy_on(258)
    seen = {one.field: one for one in await bench.driver.poll()}
    assert seen["pv"].status is Status.STALE
    assert math.isnan(seen["pv"].value)
    assert seen["pv"].native == "03:1=0bb800000000"  # what it said is kept
    assert seen["sensor_break"].status is Status.STALE
    assert seen["setpoint"].status is Status.OK
    bench.busy_on(0)
    assert (await bench.reading("pv")).status is Status.SENSOR_FAIL


async def test_a_flag_that_was_read_counts_though_the_value_was_not(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"map": "eurotherm-2400"}, {"sensor_break": {"value": 1}})
    bench.busy_on(1)
    assert (await bench.reading("pv")).status is Status.SENSOR_FAIL
    assert (await bench.reading("setpoint")).status is Status.STALE


@pytest.mark.parametrize(
    "worthless",
    [{"sensor_fail": [8]}, {"valid_max": 7.0}, {"valid_min": 9.0}],
)
async def test_a_flag_that_is_itself_no_measurement_vouches_for_nothing(
    worthless: dict[str, Any], autojump_clock: MockClock
) -> None:
    fields = {"flag": FLAG | worthless, "level": LEVEL}
    bench = Bench({"fields": fields}, {"flag": {"value": 8}, "level": {"value": 20.0}})
    reading = await bench.reading("level")
    assert reading.status is Status.SENSOR_FAIL
    assert math.isnan(reading.value)


CHAIN = {
    "alive": {"address": 20, "unit": "1"},
    "flag": FLAG | {"status_from": [{"field": "alive", "equals": 0, "status": "sensor_fail"}]},
    "level": LEVEL,
}


@pytest.mark.parametrize(
    ("alive", "status"), [(1, Status.OK), (0, Status.SENSOR_FAIL), (None, Status.STALE)]
)
async def test_what_speaks_for_the_field_that_speaks_is_read_and_believed_too(
    alive: int | None, status: Status, autojump_clock: MockClock
) -> None:
    play = {"alive": {"value": alive or 0}, "level": {"value": 20.0}}
    bench = Bench({"fields": CHAIN, "only": ["level"]}, play)
    if alive is None:
        bench.busy_on(20)
    assert (await bench.reading("level")).status is status
    assert set(bench.driver.fields) == {"level", "flag", "alive"}


async def test_what_makes_a_value_none_counts_before_what_calls_it_unsettled(
    autojump_clock: MockClock,
) -> None:
    rows = [
        {"field": "moving", "equals": 1, "status": "settling"},
        {"field": "flag", "equals": 1, "status": "sensor_fail"},
    ]
    fields = {
        "moving": {"address": 20, "unit": "1"},
        "flag": FLAG,
        "level": LEVEL | {"status_from": rows},
    }
    bench = Bench({"fields": fields}, {"moving": {"value": 1}, "flag": {"value": 1}})
    assert (await bench.reading("level")).status is Status.SENSOR_FAIL
    bench.busy_on(9)
    assert (await bench.reading("level")).status is Status.STALE


@pytest.mark.parametrize("only", [None, ["level"]])
def test_fields_that_speak_for_each_other_in_a_circle_are_refused_at_the_desk(
    only: list[str] | None,
) -> None:
    alive = CHAIN["alive"] | {"status_from": [{"field": "flag", "mask": 1, "status": "stale"}]}
    options: dict[str, Any] = {"fields": CHAIN | {"alive": alive}, "only": only}
    with pytest.raises(ValidationError, match=r"fields\.(alive|flag)\.status_from leads back to"):
        FAMILY.fields(spec(options))
    alone = {"flag": FLAG | {"status_from": [{"field": "flag", "equals": 1, "status": "stale"}]}}
    with pytest.raises(ValidationError, match="leads back to 'flag' itself"):
        FAMILY.fields(spec({"fields": alone}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"field": "nothing", "mask": 1}, "'nothing' is not in the map"),
        ({"field": "level", "mask": 1}, "'level' is no whole number"),
        ({"field": "flag"}, "give mask .* or equals"),
        ({"field": "flag", "mask": 1, "equals": 1}, "give mask .* or equals"),
        ({"field": "flag", "mask": 1, "status": "ok"}, "can't say ok"),
        ({"field": "flag", "mask": 0x18000}, "has 16 bits: mask = 0x18000 has more"),
        ({"field": "flag", "equals": -1}, "never equals -1: uint16 reads 0 to 65535"),
        ({"field": "alarm", "mask": 2}, "has 1 bit:"),
    ],
)
def test_a_rule_that_can_not_work_is_refused_at_the_desk(change: dict[str, Any], says: str) -> None:
    rule = {"status": "sensor_fail", **change}
    level = LEVEL | {"scale": 0.1, "status_from": [rule]}
    with pytest.raises(ValidationError, match=says):
        FAMILY.fields(spec({"fields": {"flag": FLAG, "alarm": ALARM, "level": level}}))


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
    with pytest.raises(DeviceError, match="to function 03; try again"):
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


STATUSES = st.sampled_from(list(Status))
FIELDS = "abc"


@st.composite
def polls(draw: st.DrawFn) -> tuple[dict[str, Reading], dict[str, list[Flagged]]]:
    """What one poll read, and rows by which a field is judged by fields before it."""
    readings, rules = {}, {}
    for index, name in enumerate(FIELDS):
        status = draw(st.sampled_from([Status.OK, Status.OK, *Status]))
        value = float(draw(st.integers(0, 3))) if status.usable else math.nan
        readings[name] = Reading(name, value, 1.0, status)
        rules[name] = [
            Flagged(field=other, equals=draw(st.integers(0, 3)), status=said)
            for other in FIELDS[:index]
            if (said := draw(STATUSES)) not in {Status.OK, Status.COMM_ERROR}
        ]
    return readings, rules


@given(polls())
def test_no_value_is_usable_that_anything_speaks_against(
    poll: tuple[dict[str, Reading], dict[str, list[Flagged]]],
) -> None:
    readings, rules = poll
    seen = {one.field: one for one in judged(readings, rules)}
    assert list(seen) == list(readings)
    for name, one in seen.items():
        assert math.isnan(one.value) is not one.status.usable
        rows = [(row, seen[row.field]) for row in rules[name]]
        against = any(not row.status.usable and row.holds(word.value) for row, word in rows)
        unknown = any(not word.status.usable for _, word in rows)
        assert one.status.usable is (readings[name].status.usable and not against and not unknown)
