"""What a data frame's status codes make of its numbers, and the firmwares of the simulator."""

import math
import statistics
from typing import Any

import pytest
from trio.testing import MockClock

from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.codec import FrameReader, Rejected
from adapters.alicat.twin import AlicatTwin
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

COLUMNS = ["pressure", "temperature", "volumetric", "flow", "setpoint", "total"]
MEASURED = {"pressure", "temperature", "volumetric", "flow", "total"}


class Bench:
    def __init__(self, options: dict[str, Any] | None = None, **twin: object) -> None:
        self.plant = StillPlant()
        given = {"columns": COLUMNS, **(options or {})}
        spec = DeviceSpec(name="gas", adapter="alicat", link="bus", options=given, twin=twin)
        self.twin = AlicatTwin(spec, self.plant)
        self.link = DirectLink([self.twin])
        self.driver = AlicatAdapter(spec, self.link)

    async def statuses(self) -> dict[str, Status]:
        """Poll; return what is not ok, by field."""
        readings = await self.driver.poll()
        assert all(math.isnan(r.value) is not r.status.usable for r in readings)
        return {r.field: r.status for r in readings if r.status is not Status.OK}

    async def set(self, field: str, value: float) -> WriteAck:
        return await self.driver.write(FieldWrite(field, value), priority=Priority.COMMAND)


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        ("sensor_break", dict.fromkeys(MEASURED, Status.SENSOR_FAIL)),
        ("mov", {"flow": Status.OVERLOAD, "volumetric": Status.OVERLOAD}),
        ("vov", {"flow": Status.OVERLOAD, "volumetric": Status.OVERLOAD}),
        ("pov", {"pressure": Status.OVERLOAD}),
        ("opl", {"pressure": Status.OVERLOAD}),
        ("tov", {"temperature": Status.OVERLOAD}),
        ("ovr", {"total": Status.OVERLOAD}),
        ("tmf", {"total": Status.UNDERRANGE}),
        ("hld", {}),
        ("exh", {}),
        ("lck", {}),
        ("com", {}),
        ("gta", {}),
        ("p2o", {}),
    ],
)
async def test_a_status_code_is_provoked_and_becomes_a_status(
    fault: str, statuses: dict[str, Status], autojump_clock: MockClock
) -> None:
    bench = Bench()
    assert await bench.statuses() == {}
    assert bench.twin.fault(fault, active=True)
    assert await bench.statuses() == statuses
    assert bench.twin.fault(fault, active=False)
    assert await bench.statuses() == {}


@pytest.mark.parametrize(
    ("quantity", "value", "fields"),
    [
        ("gas.flow_sccm", 511.0, {"flow", "volumetric"}),
        ("gas.pressure_psia", 161.0, {"pressure"}),
        ("gas.temperature_degC", 61.0, {"temperature"}),
    ],
)
async def test_what_is_beyond_a_range_says_so_by_itself(
    quantity: str, value: float, fields: set[str], autojump_clock: MockClock
) -> None:
    bench = Bench()
    bench.plant.quantities[quantity] = value
    statuses = await bench.statuses()
    assert statuses == dict.fromkeys(fields, Status.OVERLOAD)


async def test_a_total_that_missed_flow_is_too_low_until_it_is_reset(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"reset_total_command": "T 1"})
    bench.plant.quantities["gas.flow_sccm"] = 600.0
    bench.plant.advance(1.0)
    bench.plant.quantities["gas.flow_sccm"] = 100.0
    assert await bench.statuses() == {"total": Status.UNDERRANGE}
    assert (await bench.set("reset_total", 1.0)).accepted
    assert await bench.statuses() == {}


async def test_a_total_past_its_last_digit_is_an_overload(autojump_clock: MockClock) -> None:
    bench = Bench(max_total=10.0)
    bench.plant.quantities["gas.flow_sccm"] = 400.0
    bench.plant.advance(6.0)
    assert await bench.statuses() == {"total": Status.OVERLOAD}


async def test_a_gas_that_nobody_knows_has_no_number(autojump_clock: MockClock) -> None:
    assert await Bench(gas="Mix7").statuses() == {"gas": Status.SENSOR_FAIL}


async def test_the_oldest_firmware_does_not_show_a_hold_and_the_command_fails(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(firmware="5v12")
    ack = await bench.set("hold", 2.0)
    assert ack.readback == 0.0
    assert not bench.twin.fault("hld", active=True)


@pytest.mark.parametrize(
    ("firmware", "code", "known"),
    [("5v12", "TMF", False), ("7v09", "TMF", True), ("7v09", "COM", False), ("10v20", "COM", True)],
)
def test_the_table_names_the_codes_of_the_firmware(firmware: str, code: str, known: bool) -> None:
    bench = Bench(firmware=firmware)
    (reply,) = bench.twin.receive(b"A??D*\r")
    assert (code.encode() in reply.data) is (known and firmware != "5v12")
    assert bench.twin.fault(code.lower(), active=True) is known


def test_the_simulated_meter_writes_a_frame_as_it_was_captured() -> None:
    columns = ["pressure", "temperature", "volumetric", "flow"]
    bench = Bench(
        {"columns": columns, "full_scale": 10.0, "flow_unit": "slpm", "setpoint_decimals": 3},
        firmware="10v04",
        gas="Air",
    )
    quantities = {"pressure_psia": 14.633, "temperature_degC": 22.97, "flow_sccm": -34.0}
    for name, value in quantities.items():
        bench.plant.quantities[f"gas.{name}"] = value
    (reply,) = bench.twin.receive(b"A\r")
    assert reply.data == b"A +14.633 +022.97 -00.034 -00.034    Air\r"


@pytest.mark.parametrize(
    ("firmware", "reply"),
    [("8v17", b"A +014.62"), ("10v20", b"A +000.00 +100.00 12 SCCM\r"), ("GP", b"")],
)
def test_ls_is_a_command_from_9v00_on(firmware: str, reply: bytes) -> None:
    bench = Bench(firmware=firmware)
    answers = bench.twin.receive(b"ALS 100.0\r")
    assert b"".join(answer.data for answer in answers)[: len(reply) or None] == reply
    assert bench.twin.outputs() == {"setpoint": 100.0 if firmware == "10v20" else 0.0}


@pytest.mark.parametrize(
    ("command", "answered"),
    [
        (b"A", True),
        (b"A$$S 10.0", True),
        (b"A$$G 8", True),
        (b"AS 10.0", False),
        (b"AG 8", False),
        (b"AVE", False),
        (b"A??D*", True),
    ],
)
def test_gp_firmware_takes_writes_with_their_prefix_and_reads_without(
    command: bytes, answered: bool
) -> None:
    bench = Bench(firmware="GP")
    assert bool(bench.twin.receive(command + b"\r")) is answered


async def test_gp_firmware_is_driven_with_its_prefix(autojump_clock: MockClock) -> None:
    bench = Bench({"write_prefix": "$$"}, firmware="GP")
    ack = await bench.set("setpoint", 50.0)
    assert ack.accepted
    assert ack.readback == 50.0


@pytest.mark.parametrize("line", [b"A   1 ---", b"A +0 1 ---", b"A   1 -------"])
def test_a_placeholder_is_a_refusal_and_no_acknowledgement(line: bytes) -> None:
    reader = FrameReader("A", ("pressure", "flow"))
    assert isinstance(reader.decode_ack(line), Rejected)


@pytest.mark.parametrize("reaction", ["?", "empty", "placeholder", "text"])
async def test_a_key_that_the_firmware_does_not_have_is_refused(
    reaction: str, autojump_clock: MockClock
) -> None:
    bench = Bench({"gas_command": "GS"}, firmware="8v17", unsupported=reaction)
    ack = await bench.set("gas", 11.0)
    assert not ack.accepted
    assert "rejected" in ack.detail


async def test_litres_are_named_in_the_reply_to_ls_and_in_the_table(
    autojump_clock: MockClock,
) -> None:
    options = {"flow_unit": "slpm", "full_scale": 10.0, "setpoint_command": "LS"}
    bench = Bench(options | {"check_columns": True})
    await bench.driver.open()
    assert (await bench.set("setpoint", 5.0)).readback == 5.0
    replies = bench.twin.receive(b"ALS\r") + bench.twin.receive(b"A??D*\r")  # type: ignore[operator]
    text = b"".join(reply.data for reply in replies)
    assert b"7 SLPM" in text
    assert b"CCM" not in text


async def test_two_looks_that_disagree_are_settling(autojump_clock: MockClock) -> None:
    bench = Bench()
    await bench.driver.poll()
    frames = iter([100.0, 300.0])

    def jump(data: bytes) -> bytes:
        return data.replace(b"+000.00 +000.00 +000.00", b"+%06.2f +000.00 +000.00" % next(frames))

    bench.link.garble = jump
    readings: list[Reading] = list(await bench.driver.poll())
    assert {r.status for r in readings if r.field == "volumetric"} == {Status.SETTLING}


def test_flows_may_flicker_and_do_so_alike_at_every_run() -> None:
    def shown() -> list[float]:
        bench = Bench(noise_pct=0.1)
        frames = [bench.twin.receive(b"A\r")[0].data.split() for _ in range(200)]
        return [float(frame[4]) for frame in frames]

    flows = shown()
    assert flows == shown()
    assert 0.35 < statistics.pstdev(flows) < 0.65  # sccm, of 500


@pytest.mark.parametrize(
    ("columns", "twin", "flow"),
    [
        (COLUMNS, {}, 0.0),
        (COLUMNS, {"auto_tare": False}, 5.0),
        (["pressure", "temperature", "volumetric", "flow"], {}, 5.0),  # a meter
    ],
)
def test_a_controller_at_rest_tares_itself(
    columns: list[str], twin: dict[str, bool], flow: float
) -> None:
    bench = Bench({"columns": columns}, zero_offset_pct=1.0, **twin)

    def shown() -> float:
        return float(bench.twin.receive(b"A\r")[0].data.split()[4])

    bench.plant.advance(1.5)
    assert shown() == 5.0
    bench.plant.advance(1.0)
    assert shown() == flow
