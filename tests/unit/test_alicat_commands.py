"""What an Alicat can be told besides its setpoint, and what it says of itself."""

import math
from typing import Any

import pytest
from pydantic import ValidationError
from trio.testing import MockClock

from adapters.alicat import FAMILY
from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.table import TableReply
from adapters.alicat.twin import AlicatTwin
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError, FrameError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

WITH_TOTAL = ["pressure", "temperature", "volumetric", "flow", "setpoint", "total"]


class Bench:
    def __init__(self, options: dict[str, Any], twin: dict[str, Any] | None = None) -> None:
        self.plant = StillPlant()
        spec = DeviceSpec(
            name="purge", adapter="alicat", link="bus", options=options, twin=twin or {}
        )
        self.twin = AlicatTwin(spec, self.plant)
        self.link = DirectLink([self.twin])
        self.driver = AlicatAdapter(spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        return {reading.field: reading for reading in await self.driver.poll()}

    async def set(self, field: str, value: float) -> WriteAck:
        return await self.driver.write(FieldWrite(field, value), priority=Priority.COMMAND)


@pytest.mark.parametrize(("command", "sent"), [("G", b"AG 1\r"), ("GS", b"AGS 1\r")])
async def test_a_gas_is_selected_by_number_and_proven_by_its_label(
    command: str, sent: bytes, autojump_clock: MockClock
) -> None:
    bench = Bench({"gas_command": command})
    assert await bench.set("gas", 1) == WriteAck(True, readback=1.0)
    assert bench.link.sent[0] == sent
    assert (await bench.readings())["gas"].value == 1.0
    assert "gas" in bench.driver.capabilities


@pytest.mark.parametrize("number", [-1.0, 1.5, 256.0, math.nan])
async def test_what_is_no_gas_number_never_reaches_the_wire(
    number: float, autojump_clock: MockClock
) -> None:
    bench = Bench({"gas_command": "G"})
    assert not (await bench.set("gas", number)).accepted
    assert bench.link.sent == []


async def test_a_gas_that_the_device_does_not_have_is_refused(autojump_clock: MockClock) -> None:
    ack = await Bench({"gas_command": "G"}).set("gas", 99)
    assert not ack.accepted
    assert "rejected" in ack.detail


async def test_a_profile_that_insists_on_a_gas_lets_no_method_change_it(
    autojump_clock: MockClock,
) -> None:
    ack = await Bench({"gas_command": "G", "gas": "N2"}).set("gas", 1)
    assert not ack.accepted
    assert "insists" in ack.detail


async def test_a_gas_with_a_label_of_its_own_has_a_number_if_the_profile_names_it(
    autojump_clock: MockClock,
) -> None:
    known = Bench({"mixtures": {"Mix1": 236}}, {"gas": "Mix1"})
    assert (await known.readings())["gas"].value == 236.0
    unknown = Bench({}, {"gas": "Mix1"})
    assert math.isnan((await unknown.readings())["gas"].value)


async def test_without_a_stated_command_nothing_that_firmwares_disagree_about_is_offered(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"columns": WITH_TOTAL})
    for field in ("gas", "tare", "reset_total"):
        assert not (await bench.set(field, 1)).accepted
    assert bench.link.sent == []
    assert bench.driver.capabilities == {"setpoint", "hold"}


async def test_a_tare_takes_the_flow_at_rest_as_zero_and_is_counted(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"tare_command": "V"}, {"zero_offset_pct": 0.5})
    assert (await bench.readings())["flow"].value == 2.5
    assert (await bench.set("tare", 1)).accepted
    readings = await bench.readings()
    assert readings["flow"].value == 0.0
    assert readings["tare"].value == 1.0


async def test_a_device_is_not_tared_while_its_setpoint_is_not_zero(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"tare_command": "V"})
    await bench.set("setpoint", 20.0)
    ack = await bench.set("tare", 1)
    assert not ack.accepted
    assert "setpoint is 20" in ack.detail
    assert b"AV\r" not in bench.link.sent


async def test_a_key_is_pressed_by_one_and_by_nothing_else(autojump_clock: MockClock) -> None:
    ack = await Bench({"tare_command": "V"}).set("tare", 0.0)
    assert not ack.accepted
    assert "1 presses it" in ack.detail


async def test_the_totalizer_counts_what_flowed_and_is_set_to_zero(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"columns": WITH_TOTAL, "reset_total_command": "T 1"})
    bench.plant.quantities["gas.flow_sccm"] = 60.0
    bench.plant.advance(30.0)
    assert (await bench.readings())["total"].value == pytest.approx(30.0)
    assert (await bench.set("reset_total", 1)).accepted
    assert (await bench.readings())["total"].value == 0.0


def test_one_command_is_not_given_two_meanings() -> None:
    spec = DeviceSpec(
        name="purge",
        adapter="alicat",
        link="bus",
        options={"columns": WITH_TOTAL, "tare_command": "T", "reset_total_command": "T"},
    )
    with pytest.raises(ValidationError, match="either tares or resets"):
        FAMILY.fields(spec)


@pytest.mark.parametrize(("hold", "drives"), [(2.0, 0.0), (1.0, 50.0)])
async def test_the_valve_is_held_and_let_go_again(
    hold: float, drives: float, autojump_clock: MockClock
) -> None:
    bench = Bench({})
    await bench.set("setpoint", 50.0)
    assert await bench.set("hold", hold) == WriteAck(True, readback=hold)
    assert (await bench.readings())["hold"].value == hold
    assert bench.plant.quantities["gas.setpoint_sccm"] == drives
    assert await bench.set("hold", 0.0) == WriteAck(True, readback=0.0)
    assert bench.plant.quantities["gas.setpoint_sccm"] == 50.0


async def test_gp_firmware_gets_its_prefix_with_writes_and_not_with_polls(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({"write_prefix": "$$"})
    assert await bench.set("setpoint", 12.0) == WriteAck(True, readback=12.0)
    await bench.driver.poll()
    assert bench.link.sent[0] == b"A$$S 12.00\r"
    assert set(bench.link.sent[1:]) == {b"A\r"}


# --- the device's own table of columns ---------------------------------------------------------


@pytest.mark.parametrize("firmware", ["5v12", "10v20"])
async def test_either_dialect_of_the_table_tells_which_columns_a_frame_has(
    firmware: str, autojump_clock: MockClock
) -> None:
    good = Bench({"columns": WITH_TOTAL, "check_columns": True}, {"firmware": firmware})
    await good.driver.open()
    other = DeviceSpec(name="purge", adapter="alicat", link="bus", options={"check_columns": True})
    driver = AlicatAdapter(other, good.link)
    with pytest.raises(DeviceError, match=r"declares pressure, .*total; put that into columns"):
        await driver.open()


def test_a_captured_table_is_read_row_by_row() -> None:
    rows = (
        b"A D00 ID_ NAME______________________ TYPE_______ WIDTH NOTES___________________\r"
        b"A D01 700 Unit ID                    string          1\r"
        b"A D02 002 Abs Press                  s decimal     7/2 010 02 PSIA\r"
        b"A D03 003 Flow Temp                  s decimal     7/2 002 02 `C\r"
        b"A D04 004 Volu Flow                  s decimal     7/2 012 02 CCM\r"
        b"A D05 005 Mass Flow                  s decimal     7/2 012 02 SCCM\r"
        b"A D06 037 Mass Flow Setpt            s decimal     7/2 012 02 SCCM\r"
        b"A D07 703 Gas                        string          6\r"
    )
    reply = TableReply("A")
    pieces = [reply.feed(rows[at : at + 9]) for at in range(0, len(rows), 9)]
    table = pieces[-1]
    assert table is not None
    assert table.dialect == "modern"
    assert table.columns == ("pressure", "temperature", "volumetric", "flow", "setpoint")


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(FrameError, match="does not head a table"):
        TableReply("A").feed(b"A +014.62 Gas\r")


# --- a line without a check sum ----------------------------------------------------------------


async def test_a_digit_that_changed_on_the_wire_is_never_a_reading_and_is_counted(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({})
    await bench.driver.open()
    await bench.driver.poll()
    spoilt = [True]

    def flip(data: bytes) -> bytes:
        return data.replace(b"+014.62", b"+054.62") if spoilt.pop(0) else data

    spoilt.extend([False] * 9)
    bench.link.garble = flip
    readings = await bench.readings()
    assert readings["pressure"].value == 14.62
    assert bench.driver.counters == {"implausible": 1}


async def test_a_real_jump_costs_one_more_exchange_and_is_believed(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({})
    await bench.driver.open()
    await bench.driver.poll()
    before = len(bench.link.sent)
    bench.plant.quantities["gas.flow_sccm"] = 400.0
    assert (await bench.readings())["flow"].value == 400.0
    assert len(bench.link.sent) == before + 2
    assert bench.driver.counters == {}


async def test_what_disagrees_three_times_is_a_reading_that_settles(
    autojump_clock: MockClock,
) -> None:
    bench = Bench({})
    await bench.driver.open()
    await bench.driver.poll()
    seen = iter((b"+014.90", b"+010.00", b"+018.00"))
    bench.link.garble = lambda data: data.replace(b"+014.62", next(seen))
    await bench.driver.poll()
    readings = await bench.readings()
    assert readings["pressure"].status is Status.SETTLING
    assert bench.driver.counters == {"restless": 1}


def test_the_probes_of_the_family_recognise_its_twin_and_nothing_else() -> None:
    twin = Bench({"columns": WITH_TOTAL}).twin
    mine = next(probe for probe in FAMILY.probes() if probe.address == "A")
    reply = b"".join(one.data for one in twin.receive(mine.request))
    assert mine.recognise(reply[:-1]) is None
    assert mine.recognise(reply) == "Alicat unit A, gas N2"
    assert mine.recognise(b"N     +    0.006 g  \r\n") is None
    assert all(len(probe.request) == 2 for probe in FAMILY.probes())
