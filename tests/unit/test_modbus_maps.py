"""Register maps in files, bits and wide numbers, and Modbus TCP, without a wire."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.modbus import FAMILY
from adapters.modbus.codec import Query, ReadRegisters, Registers, TcpReplyCollector
from adapters.modbus.device import ModbusAdapter
from adapters.modbus.fields import FieldType, RegisterField, decode, status_of
from adapters.modbus.mapfile import MapError, load_map, shipped_maps
from adapters.modbus.twin import ModbusTwin
from adapters.modbus.words import as_float32
from capa.channels.sample import Status
from capa.config.beside import files_beside
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import FrameError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

IO_MAP = """
title = "A box of inputs and outputs"

[fields.lid]
register = "discrete"
address = 2
type = "bit"
unit = "1"

[fields.valve]
register = "coil"
address = 0
type = "bit"
unit = "1"
access = "rw"
command = "open_valve"

[fields.pump]
register = "coil"
address = 1
type = "bit"
unit = "1"

[fields.pulses]
address = 10
type = "uint32"
unit = "1"
word_order = "low_high"

[fields.level]
address = 12
type = "int16"
scale = 0.1
unit = "mm"
sensor_fail = [32767, -32768]
valid_min = 0.0
valid_max = 100.0
"""


def spec(options: dict[str, Any], twin: dict[str, Any] | None = None) -> DeviceSpec:
    return DeviceSpec(
        name="box", adapter="modbus", link="bus", address=3, options=options, twin=twin or {}
    )


class Bench:
    def __init__(self, options: dict[str, Any], twin: dict[str, Any] | None = None) -> None:
        self.spec = spec(options, {"fields": twin or {}, "reply_delay_s": 0.01})
        self.twin = ModbusTwin(self.spec, StillPlant())
        self.link = DirectLink([self.twin])
        self.driver = ModbusAdapter(self.spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def set(self, field: str, value: float) -> WriteAck:
        return await self.driver.write(FieldWrite(field, value), priority=Priority.COMMAND)


@pytest.fixture
def io_map(tmp_path: Path) -> str:
    path = tmp_path / "io.toml"
    path.write_text(IO_MAP, encoding="utf-8")
    return str(path)


async def test_bits_and_wide_numbers_are_read_together_with_their_neighbours(
    io_map: str, autojump_clock: MockClock
) -> None:
    twin = {"lid": {"value": 1}, "pulses": {"value": 70000}, "level": {"value": 12.5}}
    bench = Bench({"map": io_map, "bridge_registers": 1}, twin)
    values = {name: reading.value for name, reading in (await bench.readings()).items()}
    assert values == {"lid": 1, "valve": 0, "pump": 0, "pulses": 70000, "level": 12.5}
    assert len(bench.link.sent) == 3  # coils, discrete inputs, registers


@pytest.mark.parametrize("framing", ["rtu", "tcp"])
async def test_a_coil_is_written_and_read_back(
    framing: str, io_map: str, autojump_clock: MockClock
) -> None:
    bench = Bench({"map": io_map, "framing": framing})
    assert await bench.set("valve", 1) == WriteAck(True, readback=1.0)
    assert bench.twin.outputs() == {"valve": 1.0}
    refused = await bench.set("valve", 0.5)
    assert not refused.accepted
    assert "neither 0 nor 1" in refused.detail


@pytest.mark.parametrize(
    ("level", "status"),
    [
        (50.0, Status.OK),
        (-0.1, Status.UNDERRANGE),
        (100.1, Status.OVERLOAD),
        (3276.7, Status.SENSOR_FAIL),
        (-3276.8, Status.SENSOR_FAIL),
    ],
)
async def test_what_the_map_says_of_a_number_becomes_its_status(
    level: float, status: Status, io_map: str, autojump_clock: MockClock
) -> None:
    bench = Bench({"map": io_map, "only": ["level"]}, {"level": {"value": level}})
    (reading,) = await bench.driver.poll()
    assert reading.status is status
    assert math.isnan(reading.value) is (status is not Status.OK)
    assert reading.native == f"03:12={round(level * 10) & 0xFFFF:04x}"


@pytest.mark.parametrize(
    ("wrong", "line", "says"),
    [
        (IO_MAP.replace("address = 12", "address = -1"), 31, "fields.level.address"),
        (IO_MAP.replace('type = "uint32"', 'type = "uint64"'), 26, "fields.pulses.type"),
        (IO_MAP.replace("scale = 0.1", "skale = 0.1"), 33, "fields.level.skale: unknown key"),
        (IO_MAP.replace("address = 2\n", ""), 4, "fields.lid.address: Field required"),
        (IO_MAP.replace('command = "open_valve"', ""), 10, "fields.valve: access"),
        (IO_MAP.replace("title", "tittle"), 2, "tittle: unknown key"),
    ],
)
def test_a_mistake_in_a_map_is_named_with_its_file_its_line_and_its_field(
    wrong: str, line: int, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(MapError) as caught:
        load_map(str(path))
    assert f"{path}:{line}: {says}" in str(caught.value)
    with pytest.raises(ValidationError, match=r"wrong\.toml"):
        FAMILY.fields(spec({"map": str(path)}))


def test_a_map_that_is_not_there_is_named_with_the_nearest_one() -> None:
    with pytest.raises(MapError, match="did you mean 'bronkhorst'"):
        load_map("bronkhurst")
    with pytest.raises(MapError, match="No such file"):
        load_map("/nowhere/map.toml")


def test_a_map_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "torn.toml"
    path.write_text("title = ", encoding="utf-8")
    with pytest.raises(MapError, match=r"torn.toml: Invalid value"):
        load_map(str(path))


def test_a_map_beside_the_profile_is_found_from_anywhere(tmp_path: Path) -> None:
    data = {"devices": [{"options": {"map": "io.toml"}}, {"options": {"map": "bronkhorst"}}, 5]}
    found = files_beside(data, tmp_path)["devices"]
    assert found[0]["options"]["map"] == str(tmp_path / "io.toml")
    assert found[1:] == data["devices"][1:]


@pytest.mark.parametrize("name", shipped_maps())
def test_every_map_that_ships_is_whole_and_says_where_its_facts_come_from(name: str) -> None:
    found = load_map(name)
    assert found.source
    assert all(field.source for field in found.fields.values())
    fields = FAMILY.fields(spec({"map": name}))
    assert fields["setpoint"].command == "set_setpoint"
    for key, info in fields.items():
        assert ("unverified" in info.description) is not found.fields[key].verified


async def test_a_profile_changes_what_differs_from_the_map_and_keeps_the_rest(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(
        {
            "map": "bronkhorst",
            "only": ["flow", "setpoint"],
            "fields": {"setpoint": {"unit": "sccm", "max": 200.0}},
        }
    )
    assert bench.driver.fields["setpoint"].unit == "sccm"
    assert await bench.set("setpoint", 1.25) == WriteAck(True, readback=1.25)
    assert (
        bench.link.sent[0]
        == bytes.fromhex("03 10 A1 18 00 02 04 3F A0 00 00") + (bench.link.sent[0][-2:])
    )
    assert not (await bench.set("setpoint", 201.0)).accepted


async def test_a_bronkhorst_measure_beyond_131_percent_is_a_negative_one(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"map": "bronkhorst", "only": ["measure_pct"]}, {"measure_pct": {"value": -1.0}})
    (reading,) = await bench.driver.poll()
    assert reading.value == pytest.approx(-1.0)
    assert reading.status is Status.OK


@pytest.mark.parametrize(
    ("raw", "value", "status"),
    [
        (32000, 100.0, Status.OK),
        (41940, 131.0625, Status.OK),
        (41941, 131.065625, Status.OK),
        (41942, math.nan, Status.OVERLOAD),
        (41943, -73.728125, Status.OK),
        (65535, -0.003125, Status.OK),
    ],
)
def test_a_bronkhorst_measure_is_an_overload_from_the_most_it_can_show_on(
    raw: int, value: float, status: Status
) -> None:
    measure = load_map("bronkhorst").fields["measure_pct"]
    seen = decode(measure, raw.to_bytes(2, "big"), 0, "high_low")
    assert status_of(measure, seen) is status
    if status is Status.OK:
        assert seen == pytest.approx(value)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (-1, Status.UNDERRANGE),
        (0, Status.OK),
        (3, Status.OK),  # 0.1 * 3 is a little more than 0.3
        (4, Status.OVERLOAD),
    ],
)
def test_a_number_on_the_border_is_one_that_can_be_measured(raw: int, status: Status) -> None:
    field = RegisterField(
        address=0, type="int16", scale=0.1, unit="V", valid_min=0.0, valid_max=0.3
    )
    seen = decode(field, raw.to_bytes(2, "big", signed=True), 0, "high_low")
    assert status_of(field, seen) is status


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.1, 0.0), (-1.8, -459.67)])
def test_a_float32_on_the_border_is_one_that_can_be_measured(scale: float, offset: float) -> None:
    wrong = []
    for tenths in range(-1999, 2000, 7):
        bound = tenths / 10
        raw = as_float32((bound - offset) / scale)
        for side, sign, beyond in (
            ("valid_max", 1.0, Status.OVERLOAD),
            ("valid_min", -1.0, Status.UNDERRANGE),
        ):
            field = RegisterField.model_validate(
                {"address": 0, "type": "float32", "unit": "V", "scale": scale, "offset": offset}
                | {side: bound}
            )
            past = bound + sign * max(abs(bound - offset), 1.0) * 5e-7
            for value, status in ((scale * raw + offset, Status.OK), (past, beyond)):
                if status_of(field, value) is not status:
                    wrong.append((bound, side, status))
    assert wrong == []


@pytest.mark.parametrize(
    ("kind", "mark", "data"),
    [
        ("int16", 32767, "7fff"),
        ("int16", 0x8000, "8000"),  # as the manual writes it, and as the register reads
        ("int16", -32768, "8000"),
        ("uint16", -1, "ffff"),
        ("int32", 0x80000000, "80000000"),
        ("uint32", -1, "ffffffff"),
        ("float32", -999.9, "c479f99a"),  # no float32 is -999.9
        ("float32", 3.4028235e38, "7f7fffff"),
        ("bit", 1, "0001"),
    ],
)
def test_a_number_that_means_no_value_is_known_however_it_is_written(
    kind: FieldType, mark: float, data: str
) -> None:
    field = RegisterField(address=0, type=kind, unit="1", sensor_fail=(mark,))
    assert math.isnan(decode(field, bytes.fromhex(data), 0, "high_low"))
    assert decode(field, bytes(4), 0, "high_low") == 0.0


def test_a_single_input_may_mean_no_value_too() -> None:
    field = RegisterField.model_validate(
        {"address": 9, "register": "discrete", "type": "bit", "unit": "1", "sensor_fail": [0]}
    )
    assert math.isnan(decode(field, b"\x00", 0, "high_low"))
    assert decode(field, b"\x01", 0, "high_low") == 1.0


async def test_a_broken_sensor_shows_the_number_that_means_none_in_two_registers_too(
    autojump_clock: MockClock,
) -> None:
    table = {"address": 0, "type": "int32", "unit": "mm", "sensor_fail": [-99999]}
    bench = Bench({"fields": {"level": table}}, {"level": {"quantity": "sample.mass_g"}})
    assert bench.twin.fault("sensor_break", active=True)
    assert (await bench.readings())["level"].status is Status.SENSOR_FAIL


def test_only_names_fields_of_the_map() -> None:
    with pytest.raises(ValidationError, match="'flaw' is not in the map; there are: flow"):
        FAMILY.fields(spec({"map": "bronkhorst", "only": ["flaw"]}))


# --- Modbus TCP --------------------------------------------------------------------------------

PV = Query(ReadRegisters(1, 360, 2))


def test_a_tcp_exchange_is_byte_for_byte_the_documented_one() -> None:
    from adapters.modbus.codec import encode_tcp_request

    assert encode_tcp_request(PV, 1) == bytes.fromhex("00 01 00 00 00 06 01 03 01 68 00 02")
    reply = bytes.fromhex("00 01 00 00 00 07 01 03 04 00 00 42 90")
    assert TcpReplyCollector(PV, 1).feed(reply) == Registers(bytes.fromhex("00 00 42 90"))


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("00 02 00 00 00 07 01 03 04 00 00 42 90", "foreign"),  # another transaction
        ("00 01 00 00 00 07 02 03 04 00 00 42 90", "foreign"),  # another unit
        ("00 01 00 00 00 05 01 03 02 00 00", "foreign"),  # another count
        ("00 01 00 07 00 07 01 03 04 00 00 42 90", "garbled"),
        ("00 01 00 00 00 07 01 03 04 00 00 42 90 00", "doubled"),
    ],
)
def test_a_tcp_reply_to_something_else_is_refused_and_says_as_what(reply: str, fault: str) -> None:
    with pytest.raises(FrameError) as caught:
        TcpReplyCollector(PV, 1).feed(bytes.fromhex(reply))
    assert caught.value.fault == fault


async def test_every_tcp_exchange_has_a_transaction_of_its_own(
    io_map: str, autojump_clock: MockClock
) -> None:
    bench = Bench({"map": io_map, "framing": "tcp"}, {"level": {"value": 1.5}})
    assert (await bench.readings())["level"].value == 1.5
    numbers = [int.from_bytes(frame[:2], "big") for frame in bench.link.sent]
    assert len(set(numbers)) == len(numbers)
