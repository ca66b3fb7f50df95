"""A device of any make behind a register map: driver and simulator, without a wire between."""

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.modbus import FAMILY
from adapters.modbus.blocks import blocks_of
from adapters.modbus.fields import FieldType, RegisterField, decode, encode
from adapters.modbus.twin import ModbusTwin
from adapters.modbus.words import WordOrder
from adapters.twin.plant import Plant
from capa.channels.sample import Status
from capa.devices.adapter import DeviceAdapter, FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.safe_plan import RegisterNumber
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError
from tests.support.direct_link import DirectLink

FLUX = {"address": 0, "register": "input", "type": "float32", "unit": "kW/m^2"}
STATUS = {"address": 2, "register": "input", "type": "bit", "bit": 3, "unit": "1"}
BODY = {"address": 3, "register": "input", "type": "int16", "scale": 0.1, "unit": "degC"}
LIMIT = {
    "address": 10,
    "type": "int32",
    "scale": 0.01,
    "unit": "kW/m^2",
    "access": "rw",
    "command": "set_limit",
    "min": 0.0,
    "max": 120.0,
}
FIELDS = {"flux": FLUX, "alarm": STATUS, "body": BODY, "limit": LIMIT}
PLAYS: dict[str, Any] = {"flux": {"quantity": "furnace.heat_flux_kW_m2"}, "alarm": {"value": 1.0}}


def spec(fields: dict[str, Any] | None = None, plays: dict[str, Any] | None = None) -> DeviceSpec:
    return DeviceSpec(
        name="gauge",
        adapter="modbus",
        link="bus",
        address=7,
        options={"fields": FIELDS if fields is None else fields},
        twin={"fields": plays or (PLAYS if fields is None else {})},
    )


class Bench:
    def __init__(self, of: DeviceSpec | None = None, *, chunk: int = 0) -> None:
        self.plant = Plant({})
        of = spec() if of is None else of
        self.twin = FAMILY.twin(of, self.plant)
        self.link = DirectLink([self.twin], chunk=chunk)
        self.driver: DeviceAdapter = FAMILY.create(of, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def write(self, field: str, value: float) -> WriteAck:
        return await self.driver.write(FieldWrite(field, value), priority=Priority.COMMAND)


async def test_neighbouring_registers_are_read_in_one_request(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.plant.set("furnace.temperature_degC", 747.0)
    seen = await bench.readings()
    assert len(bench.link.sent) == 2  # the four input registers together, the holding pair alone
    assert seen["flux"].value == pytest.approx(49.96, abs=0.01)
    assert seen["alarm"].value == 1.0
    assert seen["body"].value == 0.0


@pytest.mark.parametrize("chunk", [1, 3])
async def test_a_chopped_line_changes_nothing(chunk: int, autojump_clock: MockClock) -> None:
    bench = Bench(chunk=chunk)
    bench.plant.set("furnace.temperature_degC", 500.0)
    assert (await bench.readings())["flux"].value == pytest.approx(16.49, abs=0.01)


async def test_a_written_value_is_read_back(autojump_clock: MockClock) -> None:
    bench = Bench()
    ack = await bench.write("limit", 75.256)
    assert ack.accepted
    assert ack.readback == pytest.approx(75.26)
    assert bench.twin.outputs() == {"limit": pytest.approx(75.26)}
    assert (await bench.readings())["limit"].value == pytest.approx(75.26)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("limit", 121.0, r"above max = 120 of the register map"),
        ("limit", -1.0, r"below min = 0"),
        ("limit", math.nan, "not a finite number"),
        ("flux", 3.0, r"gauge.flux cannot be written"),
        ("colour", 3.0, r"gauge.colour cannot be written"),
    ],
)
async def test_what_the_map_does_not_allow_never_reaches_the_wire(
    field: str, value: float, says: str, autojump_clock: MockClock
) -> None:
    bench = Bench()
    ack = await bench.write(field, value)
    assert not ack.accepted
    assert says in ack.detail
    assert bench.link.sent == []


async def test_an_int_too_large_for_its_register_is_refused_with_what_fits(
    autojump_clock: MockClock,
) -> None:
    rw = {"address": 0, "type": "int16", "unit": "V", "access": "rw", "command": "set_level"}
    ack = await Bench(spec({"level": rw})).write("level", 40000.0)
    assert not ack.accepted
    assert "-32768 to 32767 fit" in ack.detail


async def test_a_valve_in_a_register_that_did_not_move_is_not_proven(
    autojump_clock: MockClock,
) -> None:
    rw = {"address": 0, "unit": "1", "access": "rw", "command": "open_valve"}
    bench = Bench(spec({"valve": rw}, {"valve": {"value": 1.0}}))
    bench.twin.fault("frozen", active=True)
    ack = await bench.write("valve", 0.0)
    assert ack.readback == 1.0
    assert abs(ack.readback - 0.0) > bench.driver.fields["valve"].resolution


@pytest.mark.parametrize(
    ("kind", "scale", "most", "value"),
    [
        ("int16", 0.1, 30.0, 0.25),
        ("int16", 0.1, 30.0, -12.35),
        ("int16", 0.1, 0.3, 0.3),  # 0.1 * 3 is a little more
        ("int16", 0.1, 20.26, 20.26),
        ("float32", 1.0, 0.1, 0.1),  # so is 0.1 as float32
        ("float32", 1.0, 2000.3, 2000.3),
    ],
)
async def test_what_is_rounded_on_its_way_is_taken_and_proven(
    kind: str, scale: float, most: float, value: float, autojump_clock: MockClock
) -> None:
    table = {"address": 0, "unit": "V", "access": "rw", "command": "set_level", "max": most}
    bench = Bench(spec({"level": table | {"type": kind, "scale": scale}}))
    ack = await bench.write("level", value)
    assert ack.readback is not None, ack.detail
    assert abs(ack.readback - value) <= bench.driver.fields["level"].resolution


async def test_a_write_may_drive_the_plant(autojump_clock: MockClock) -> None:
    power = {"address": 0, "unit": "%", "scale": 0.1, "access": "rw", "command": "set_power"}
    play = {"power": {"quantity": "furnace.power_pct"}}
    bench = Bench(spec({"power": power}, play))
    assert (await bench.write("power", 42.5)).readback == pytest.approx(42.5)
    assert bench.plant.get("furnace.power_pct") == pytest.approx(42.5)


async def test_a_map_with_a_register_that_is_not_there_is_named_at_the_first_look(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    wrong = spec({"flux": {**FLUX, "address": 40}})
    with pytest.raises(DeviceError, match=r"reading flux .*illegal address.*compare the map"):
        await FAMILY.create(wrong, bench.link).open()


async def test_a_broken_sensor_is_no_reading_in_a_float(autojump_clock: MockClock) -> None:
    bench = Bench()
    assert bench.twin.fault("sensor_break", active=True)
    flux = (await bench.readings())["flux"]
    assert flux.status is Status.SENSOR_FAIL
    assert math.isnan(flux.value)
    bench.twin.fault("sensor_break", active=False)
    assert (await bench.readings())["flux"].status is Status.OK


async def test_a_device_may_refuse_everything_or_stand_still(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.twin.fault("exception", active=True, value=4)
    with pytest.raises(DeviceError, match="exception 04"):
        await bench.driver.poll()
    bench.twin.fault("exception", active=False)
    bench.twin.fault("frozen", active=True)
    bench.plant.set("furnace.temperature_degC", 800.0)
    assert (await bench.readings())["flux"].value == pytest.approx(0.0, abs=1e-6)
    assert not bench.twin.fault("on_fire", active=True)


async def test_noise_lies_about_the_truth_and_is_the_same_at_every_run(
    autojump_clock: MockClock,
) -> None:
    noisy = {"flux": {"quantity": "furnace.heat_flux_kW_m2", "noise": 0.5}}
    runs = []
    for _ in range(2):
        bench = Bench(spec({"flux": FLUX}, noisy))
        bench.plant.set("furnace.temperature_degC", 747.0)
        runs.append([(await bench.readings())["flux"].value for _ in range(200)])
    assert runs[0] == runs[1]
    assert sum(runs[0]) / 200 == pytest.approx(49.96, abs=0.2)
    assert max(runs[0]) > 50.5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale": 0.0}, "scale is 0"),
        ({"access": "rw"}, "go together"),
        ({"command": "set_flux"}, "go together"),
        (
            {"access": "rw", "command": "set_flux"},
            "input registers, discrete inputs and single bits",
        ),
        ({"address": 65535}, "past 65535"),
        ({"adress": 3}, "Extra inputs"),
        ({"type": "float64"}, "float32"),
        ({"sensor_fail": [3.5e38]}, r"3.5e\+38 is never read from float32"),
        ({"type": "int16", "sensor_fail": [65536]}, "65536 is never read from int16"),
        ({"type": "int32", "sensor_fail": [0.5]}, "0.5 is never read from int32"),
        ({"type": "int16", "bit": 3}, 'bit goes with type = "bit"'),
        ({"type": "bit", "register": "discrete", "bit": 3}, "of a holding or an input register"),
        ({"type": "bit", "scale": -1.0, "offset": 1.0}, "no scale and no offset"),
        ({"type": "uint32", "negative_from": 41943}, 'goes with type = "uint16"'),
    ],
)
def test_a_map_that_can_not_work_is_refused_at_the_desk(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        FAMILY.fields(spec({"flux": {**FLUX, **change}}))


def test_two_fields_may_not_share_a_command() -> None:
    with pytest.raises(ValidationError, match="'set_limit' is given to two fields"):
        FAMILY.fields(spec({"one": LIMIT, "other": {**LIMIT, "address": 20}}))


def test_the_simulator_plays_only_fields_of_the_map() -> None:
    with pytest.raises(ValueError, match=r"twin.fields.flix\] is not in the register map"):
        ModbusTwin(spec({"flux": FLUX}, {"flix": {"value": 1.0}}), Plant({}))


def test_registers_are_batched_up_to_a_bridge_and_a_longest_read() -> None:
    fields = {str(at): RegisterField(address=at, unit="1") for at in (0, 1, 3, 9, 10, 11, 12)}
    counts = [block.count for block in blocks_of(fields, bridge=1, max_read=3)]
    assert counts == [2, 1, 3, 1]
    assert [block.count for block in blocks_of(fields, bridge=5, max_read=125)] == [13]


@given(
    st.sampled_from(["int16", "uint16", "int32", "float32"]),
    st.sampled_from(["low_high", "high_low"]),
    st.floats(-300.0, 300.0),
    st.sampled_from([0.01, 0.1, 1.0, -2.5]),
)
def test_what_is_encoded_is_decoded_within_the_resolution(
    kind: FieldType, order: WordOrder, value: float, scale: float
) -> None:
    field = RegisterField(address=0, type=kind, unit="V", scale=scale, min=-300.0, max=300.0)
    try:
        words = encode(field, value, order)
    except ValueError as error:
        assert "fit" in str(error)  # noqa: PT017 - either outcome is right
        return
    data = b"".join(word.to_bytes(2, "big") for word in words)
    slack = field.info("x").resolution
    assert decode(field, data, 0, order) == pytest.approx(value, abs=slack)


@given(st.floats(0.0, 20.0))
def test_a_float32_far_from_its_offset_is_proven_by_what_it_can_show(value: float) -> None:
    field = RegisterField(
        address=0, type="float32", unit="degF", scale=1.8, offset=-459.67, min=0.0, max=20.0
    )
    data = b"".join(word.to_bytes(2, "big") for word in encode(field, value, "high_low"))
    slack = field.info("x").resolution
    assert slack < 0.001
    assert decode(field, data, 0, "high_low") == pytest.approx(value, abs=slack)


@pytest.mark.parametrize(
    ("negative_from", "raw"),
    [
        (0x8000, -50), (0x8000, 50), (0x8000, -0x8000), (0x8000, 0x7FFF),
        (41943, -50), (41943, 0), (41943, 41942), (41943, -23593),
        (30000, -50), (30000, 50), (30000, 29999),
    ],
)  # fmt: skip
def test_the_guardian_reads_a_uint16_with_a_sign_as_the_driver_does(
    negative_from: int, raw: int
) -> None:
    field = {**LIMIT, "type": "uint16", "negative_from": negative_from, "scale": 0.1}
    device = spec({"limit": {**field, "offset": 2.0, "min": None, "max": None}})
    write = FAMILY.safe_write(device, FieldWrite("limit", 0.1 * raw + 2.0))
    twin = ModbusTwin(device, Plant({}))
    twin.receive(write.request)
    read = write.read_back
    assert read is not None
    (reply,) = twin.receive(read.request)
    assert isinstance(read.number, RegisterNumber)
    kind = {"int16": ">h", "uint16": ">H"}[read.number.type]
    (number,) = struct.unpack_from(kind, reply.data, read.number.at)
    assert read.gain * number + read.offset == pytest.approx(0.1 * raw + 2.0)


def test_a_negative_number_without_the_sign_bit_is_commanded_and_not_proven() -> None:
    field = {**LIMIT, "type": "uint16", "negative_from": 30000, "scale": 1.0}
    device = spec({"limit": {**field, "min": None, "max": None}})
    assert FAMILY.safe_write(device, FieldWrite("limit", -35536.0)).read_back is None
