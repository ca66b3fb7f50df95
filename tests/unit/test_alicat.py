"""An Alicat controller and its simulator, without a wire between them."""

import math
from typing import Any

import pytest
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.alicat import FAMILY
from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.codec import (
    Column,
    DataFrame,
    FrameReader,
    Rejected,
    SetpointReport,
    decode_setpoint_report,
    encode_frame,
    encode_poll,
    encode_setpoint,
)
from adapters.alicat.twin import AlicatTwin
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError, FrameError, LinkTimeoutError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

COLUMNS: tuple[Column, ...] = ("pressure", "temperature", "volumetric", "flow", "setpoint")
CONTROLLER = FrameReader("A", COLUMNS)


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
            name="purge", adapter="alicat", link="bus", options=options or {}, twin=twin or {}
        )
        self.twin = AlicatTwin(spec, self.plant)
        self.link = DirectLink([self.twin], chunk=chunk)
        self.driver = AlicatAdapter(spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def set(self, value: float) -> WriteAck:
        return await self.driver.write(FieldWrite("setpoint", value), priority=Priority.COMMAND)

    def ask(self, line: bytes) -> bytes:
        return b"".join(reply.data for reply in self.twin.receive(line + b"\r"))


# --- frames captured from real devices ---------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "line", "values", "gas"),
    [
        (
            "A",
            b"A +014.62 +021.89 +000.00 +000.00 +078.95     N2",
            (14.62, 21.89, 0.0, 0.0, 78.95),
            "N2",
        ),
        (
            "B",
            b"B +014.62 +022.95 +000.00 +000.00 +000.00     N2",
            (14.62, 22.95, 0.0, 0.0, 0.0),
            "N2",
        ),
        (
            "A",
            b"A +014.52 +021.50 +0000.1 +0000.2 0116.3      N2",
            (14.52, 21.5, 0.1, 0.2, 116.3),
            "N2",
        ),
    ],
)
def test_a_captured_controller_frame_is_read(
    unit: str, line: bytes, values: tuple[float, ...], gas: str
) -> None:
    assert FrameReader(unit, COLUMNS).decode(line) == DataFrame(values, gas)


def test_a_captured_meter_frame_has_no_setpoint() -> None:
    reader = FrameReader("A", ("pressure", "temperature", "volumetric", "flow"))
    line = b"A +14.633 +022.97 -00.034 -00.034    Air"
    assert reader.decode(line) == DataFrame((14.633, 22.97, -0.034, -0.034), "Air")


def test_the_simulators_frame_is_byte_for_byte_a_captured_one() -> None:
    frame = DataFrame((14.62, 21.89, 0.0, 0.0, 78.95), "N2")
    captured = bytes.fromhex(
        "41 20 2B 30 31 34 2E 36 32 20 2B 30 32 31 2E 38 39 20 2B 30 30 30 2E 30 30 20 2B 30 30 30"
        "2E 30 30 20 2B 30 37 38 2E 39 35 20 20 20 20 20 4E 32 0D"
    )
    assert encode_frame("A", frame, ("+07.2f",) * 5) == captured


def test_requests_are_as_the_manual_prints_them() -> None:
    assert encode_poll("A") == b"A\r"
    assert encode_setpoint("A", 100.0, command="S", decimals=2) == b"AS 100.00\r"
    assert encode_setpoint("A", 100.0, command="LS", decimals=1) == b"ALS 100.0\r"


def test_a_setpoint_report_tells_current_from_requested() -> None:
    report = decode_setpoint_report("A", b"A +000.00 +100.00 12 SCCM")
    assert report == SetpointReport(0.0, 100.0)


def test_status_codes_follow_the_gas() -> None:
    line = b"A +014.62 +021.89 +049.80 +050.00 +050.00     N2 HLD LCK"
    frame = CONTROLLER.decode(line)
    assert isinstance(frame, DataFrame)
    assert frame.codes == {"HLD", "LCK"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"B +014.62 +021.89 +000.00 +000.00 +078.95     N2", "not from unit"),
        (b"  +014.62 +021.89 +000.00 +000.00 +078.95     N2", "streaming"),
        (b"A +014.62 +021.89 +000.00 +000.00     N2", "5 columns"),
        (b"A +014.62 +021.89 +000.00 +000.00 +078.95 +1.0     N2", "5 columns"),
        (b"A +014.62 +021.89 +0n0.00 +000.00 +078.95     N2", "5 columns"),
        (b"A +014.62 +021.89 +000.00 +000.00 nan     N2", "5 columns"),
        (b"A", "5 columns"),
    ],
)
def test_what_is_no_frame_of_this_unit_is_refused_by_name(line: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        CONTROLLER.decode(line)


@pytest.mark.parametrize("line", [b"?", b"A   Feature Not Enabled"])
def test_a_rejection_is_a_value(line: bytes) -> None:
    assert isinstance(CONTROLLER.decode(line), Rejected)


# --- driver and simulator ----------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [0, 1, 7])
@pytest.mark.parametrize("command", ["S", "LS"])
async def test_a_setpoint_is_written_read_back_and_polled(
    command: str, chunk: int, autojump_clock: MockClock
) -> None:
    bench = Bench(options={"setpoint_command": command}, chunk=chunk)
    await bench.driver.open()
    assert await bench.set(50.0) == WriteAck(True, readback=50.0)
    bench.plant.quantities["gas.flow_sccm"] = 49.8
    readings = await bench.readings()
    assert {name: reading.value for name, reading in readings.items()} == {
        "setpoint": 50.0,
        "flow": 49.8,
        "pressure": 14.62,
        "temperature": 21.89,
        "volumetric": pytest.approx(49.53, abs=0.02),
        "gas": 8.0,
        "hold": 0.0,
    }
    assert bench.plant.quantities["gas.setpoint_sccm"] == 50.0
    assert bench.twin.outputs() == {"setpoint": 50.0}


@pytest.mark.parametrize("command", ["S", "LS"])
async def test_an_analog_setpoint_source_ignores_the_wire_and_the_read_back_shows_it(
    command: str, autojump_clock: MockClock
) -> None:
    bench = Bench(
        options={"setpoint_command": command},
        twin={"setpoint_source": "analog", "analog_setpoint": 12.5},
    )
    ack = await bench.set(50.0)
    assert ack.readback == 12.5
    assert bench.plant.quantities["gas.setpoint_sccm"] == 12.5


async def test_what_a_setpoint_report_says_was_asked_proves_nothing(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(options={"setpoint_command": "LS"}, twin={"setpoint_source": "analog"})
    flattering = b"A +000.00 +050.00 12 SCCM\r"
    bench.link.garble = lambda data: flattering if data.endswith(b"SCCM\r") else data
    assert (await bench.set(50.0)).readback == 0.0


async def test_ls_on_old_firmware_locks_the_display_and_is_no_acknowledgement(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(options={"setpoint_command": "LS"}, twin={"firmware": "7v09"})
    with pytest.raises(FrameError, match="9v00"):
        await bench.set(50.0)
    assert bench.twin.outputs() == {"setpoint": 0.0}
    assert b"LCK" in bench.ask(b"A")


@pytest.mark.parametrize("value", [-1.0, 500.1, math.nan, math.inf])
async def test_a_setpoint_beyond_full_scale_never_reaches_the_wire(
    value: float, autojump_clock: MockClock
) -> None:
    bench = Bench()
    ack = await bench.set(value)
    assert not ack.accepted
    assert "full_scale" in ack.detail
    assert bench.link.sent == []


async def test_a_rejected_setpoint_is_not_accepted(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.twin.fault("exception", active=True)
    ack = await bench.set(50.0)
    assert not ack.accepted
    assert "rejected" in ack.detail


async def test_a_poll_that_is_rejected_names_the_device(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.twin.fault("exception", active=True)
    with pytest.raises(DeviceError, match="purge answered a poll with '\\?'"):
        await bench.driver.poll()


async def test_a_faulty_converter_makes_every_measurement_a_failed_sensor(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    bench.twin.fault("sensor_break", active=True)
    readings = await bench.readings()
    for kept in ("setpoint", "gas", "hold"):
        assert readings.pop(kept).status is Status.OK
    assert {reading.status for reading in readings.values()} == {Status.SENSOR_FAIL}
    assert all(math.isnan(reading.value) for reading in readings.values())


async def test_a_flow_over_range_is_no_value(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.plant.quantities["gas.flow_sccm"] = 600.0
    readings = await bench.readings()
    assert readings["flow"].status is Status.OVERLOAD
    assert math.isnan(readings["flow"].value)
    assert readings["pressure"].status is Status.OK


async def test_a_frozen_device_keeps_its_values_and_takes_setpoints(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    bench.twin.fault("frozen", active=True)
    bench.plant.quantities["gas.flow_sccm"] = 33.0
    assert (await bench.set(10.0)).readback == 10.0
    assert (await bench.readings())["flow"].value == 0.0


async def test_a_device_that_streams_is_told_apart(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.link.garble = lambda data: data + data
    with pytest.raises(FrameError, match="streaming"):
        await bench.driver.poll()


async def test_an_empty_line_before_the_reply_is_skipped(autojump_clock: MockClock) -> None:
    bench = Bench(chunk=1)
    bench.link.garble = lambda data: b"\r" + data
    assert (await bench.readings())["pressure"].value == 14.62


async def test_the_wrong_gas_does_not_open(autojump_clock: MockClock) -> None:
    bench = Bench(options={"gas": "Ar"})
    with pytest.raises(DeviceError, match='gas N2, the profile says "Ar"'):
        await bench.driver.open()


async def test_two_units_share_a_line_by_letter(autojump_clock: MockClock) -> None:
    plant = StillPlant()
    plant.quantities |= {name.replace("gas", "gas2"): 1.0 for name in plant.quantities}
    specs = [
        DeviceSpec(name="n2", adapter="alicat", link="bus", address="A"),
        DeviceSpec(name="o2", adapter="alicat", link="bus", address="b", twin={"plant": "gas2"}),
    ]
    link = DirectLink([FAMILY.twin(spec, plant) for spec in specs])
    drivers = [FAMILY.create(spec, link) for spec in specs]
    await drivers[1].write(FieldWrite("setpoint", 20.0), priority=Priority.COMMAND)
    assert plant.quantities["gas.setpoint_sccm"] == 0.0
    assert plant.quantities["gas2.setpoint_sccm"] == 20.0
    assert link.sent == [b"BS 20.00\r"]


async def test_litres_are_shown_in_litres_and_driven_in_sccm(autojump_clock: MockClock) -> None:
    bench = Bench(options={"flow_unit": "slpm", "full_scale": 10.0, "pressure_unit": "kPa"})
    assert bench.driver.fields["flow"].unit == "slpm"
    assert bench.driver.fields["pressure"].unit == "kPa"
    assert (await bench.set(2.5)).readback == 2.5
    assert bench.plant.quantities["gas.setpoint_sccm"] == 2500.0
    assert (await bench.readings())["pressure"].value == pytest.approx(100.80, abs=0.01)


async def test_a_meter_has_no_setpoint_to_write(autojump_clock: MockClock) -> None:
    bench = Bench(options={"columns": ["pressure", "temperature", "volumetric", "flow"]})
    assert set(await bench.readings()) == {"pressure", "temperature", "volumetric", "flow", "gas"}
    assert bench.driver.capabilities == frozenset()
    assert not (await bench.set(1.0)).accepted


@pytest.mark.parametrize(
    ("unsupported", "reply"),
    [
        ("?", b"?\r"),
        ("silence", b""),
        ("placeholder", b"A   1 ---\r"),
        ("text", b"A   Feature Not Enabled\r"),
        ("frame", b"A +014.62 +021.89 +000.00 +000.00 +000.00     N2\r"),
    ],
)
def test_an_unsupported_command_gets_the_reaction_of_the_firmware(
    unsupported: str, reply: bytes
) -> None:
    assert Bench(twin={"unsupported": unsupported}).ask(b"AXYZ") == reply


def test_the_oldest_firmware_writes_an_unsigned_setpoint_with_one_decimal() -> None:
    bench = Bench(twin={"firmware": "5v12"})
    assert bench.ask(b"AS 116.3") == b"A +014.62 +021.89 +0000.0 +0000.0 0116.3      N2\r"


def test_a_closed_valve_stops_the_gas_until_the_hold_is_cancelled() -> None:
    bench = Bench()
    bench.ask(b"as50")
    assert b"HLD" in bench.ask(b"AHC")
    assert bench.plant.quantities["gas.setpoint_sccm"] == 0.0
    assert b"HLD" not in bench.ask(b"AC")
    assert bench.plant.quantities["gas.setpoint_sccm"] == 50.0


@pytest.mark.parametrize(("mode", "left"), [("clamp", 500.0), ("reject", 0.0)])
def test_a_setpoint_out_of_range_is_clamped_or_rejected(mode: str, left: float) -> None:
    bench = Bench(twin={"out_of_range": mode})
    bench.ask(b"AS 600")
    assert bench.twin.outputs() == {"setpoint": left}


@pytest.mark.parametrize("line", [b"B", b"", b"1", b"\xff\xfe", b"*"])
def test_what_is_addressed_elsewhere_gets_silence(line: bytes) -> None:
    assert Bench().ask(line) == b""


async def test_another_unit_letter_is_silent(autojump_clock: MockClock) -> None:
    spec = DeviceSpec(name="purge", adapter="alicat", link="bus", address="C")
    driver = AlicatAdapter(spec, DirectLink([Bench().twin]))
    with pytest.raises(LinkTimeoutError):
        await driver.poll()


@pytest.mark.parametrize("address", [1, "AB", "", "é", "@"])
def test_a_unit_letter_that_is_none_is_named(address: int | str) -> None:
    spec = DeviceSpec(name="purge", adapter="alicat", link="bus", address=address)
    with pytest.raises(ValueError, match="A to Z"):
        FAMILY.fields(spec)


@pytest.mark.parametrize(
    "options",
    [{"columns": ["pressure"]}, {"columns": ["flow", "flow"]}, {"full_scale": 0}, {"scale": 1}],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, Any]) -> None:
    spec = DeviceSpec(name="purge", adapter="alicat", link="bus", options=options)
    with pytest.raises(ValidationError):
        FAMILY.fields(spec)
