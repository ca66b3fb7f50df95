"""An EZ-ZONE whose enumerations stand in the second of their registers, the high word first."""

from collections.abc import Mapping
from typing import Any

import pytest
from trio.testing import MockClock

from adapters.watlow.adapter import WatlowAdapter
from adapters.watlow.twin import WatlowTwin
from capa.channels.sample import Status
from capa.devices.adapter import FieldWrite, Reading
from capa.devices.link import Priority
from capa.devices.preflight import OutputUse, SettingFound, Severity
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

GROUPS = ["mode", "ramp", "comms", "loop", "alarm1", "alarm2", "alarm3", "alarm4"]
ENUM_WORDS = pytest.mark.parametrize("enum_word", ["first", "second"])


class Bench:
    def __init__(
        self,
        enum_word: str,
        registers: Mapping[int, float] | None = None,
        twin: Mapping[str, Any] | None = None,
    ) -> None:
        options = {"slow_hz": 10.0, "also_read": GROUPS, "word_order": "high_low"}
        given = {"enum_word": enum_word, "registers": dict(registers or {}), **(twin or {})}
        spec = DeviceSpec(name="heater", adapter="watlow", link="bus", options=options, twin=given)
        self.twin = WatlowTwin(spec, StillPlant())
        self.link = DirectLink([self.twin])
        self.driver = WatlowAdapter(spec, self.link)

    async def readings(self) -> dict[str, Reading]:
        """Read every group once."""
        return {r.field: r for _ in GROUPS for r in await self.driver.poll()}

    async def settings(self) -> Mapping[str, SettingFound]:
        settings = self.driver.settings
        return await settings.read(set(settings.known), priority=Priority.POLL)


@ENUM_WORDS
async def test_every_enumeration_that_is_polled_is_read(
    enum_word: str, autojump_clock: MockClock
) -> None:
    alarms = {
        base + at: value for base in range(1480, 1680, 50) for at, value in ((28, 76), (0, 9))
    }
    bench = Bench(enum_word, {1880: 54, 1882: 54, 2186: 85, 2494: 106, 1928: 1275} | alarms)
    await bench.driver.open()
    readings = await bench.readings()
    codes = {
        "input_error": 61, "mode": 54, "mode_active": 54, "ramp_action": 85, "wire_units": 30,
        "save": 1, "loop_error": 1275, "alarm1": 7, "alarm2": 7, "alarm3": 7, "alarm4": 7,
    }  # fmt: skip
    assert {name: readings[name].value for name in codes} == codes
    bench.twin.fault("sensor_break", active=True, value=127)
    (pv, error) = (await bench.driver.poll())[:2]
    assert (pv.status, error.value) == (Status.SENSOR_FAIL, 127)


@ENUM_WORDS
@pytest.mark.parametrize(("scale", "kept"), [(57, 10.0), (39, 600.0)])
async def test_a_ramp_is_written_in_the_scale_that_is_read(
    scale: int, kept: float, enum_word: str, autojump_clock: MockClock
) -> None:
    bench = Bench(enum_word, {2188: scale})
    ack = await bench.driver.write(FieldWrite("ramp_rate", 10.0), priority=Priority.COMMAND)
    assert ack.readback == pytest.approx(10.0)
    assert bench.twin._values[2192] == pytest.approx(kept)


@ENUM_WORDS
@pytest.mark.parametrize(
    ("field", "value"), [("mode", 54.0), ("ramp_action", 85.0), ("save", 0.0), ("save", 1.0)]
)
async def test_an_enumeration_is_written_to_where_it_is_read(
    field: str, value: float, enum_word: str, autojump_clock: MockClock
) -> None:
    bench = Bench(enum_word)
    ack = await bench.driver.write(FieldWrite(field, value), priority=Priority.COMMAND)
    assert ack.accepted, ack.detail
    assert ack.readback == value
    assert (await bench.readings())[field].value == value


@ENUM_WORDS
@pytest.mark.parametrize(
    ("twin", "says"),
    [({"wire_unit": "degC"}, "2490"), ({"registers": {1880: 53}}, "1880 holds 53")],
)
async def test_what_is_set_otherwise_than_the_profile_says_is_found(
    twin: dict[str, Any], says: str, enum_word: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(DeviceError, match=says):
        await Bench(enum_word, twin=twin).driver.open()


@ENUM_WORDS
async def test_its_identity_is_the_low_word_of_a_number(
    enum_word: str, autojump_clock: MockClock
) -> None:
    identity = await Bench(enum_word).driver.open()
    assert (identity.model, identity.firmware) == ("EZ-ZONE, hardware id 28", "id 5678")


SET = {1838: 15, 1928: 1274, 2184: 14, 2186: 13, 1508: 76, 1486: 37, 1492: 49, 1922: 106, 368: 112}


@ENUM_WORDS
@pytest.mark.parametrize("max_read", [125, 3])
async def test_every_setting_is_found_in_blocks_and_one_by_one(
    max_read: int, enum_word: str, autojump_clock: MockClock
) -> None:
    found = await Bench(enum_word, SET, {"max_read": max_read}).settings()
    assert [name for name, one in found.items() if one.value is None] == []
    words = {name: one.value for name, one in found.items() if not isinstance(one.value, float)}
    assert words == {
        "wire_units": "degF", "word_order": "high_low", "display_units": "degC",
        "control_mode": "auto", "sensor": "milliamp", "thermocouple": "K",
        "input_error_power": "bumpless", "ramp_action": "both", "alarm1_type": "process",
        "alarm1_sides": "high", "alarm1_latching": True, "loop_detection": True,
        "loop_error": "open_loop", "save_to_eeprom": True,
    }  # fmt: skip


@ENUM_WORDS
async def test_a_loop_that_the_controller_found_open_refuses_the_run(
    enum_word: str, autojump_clock: MockClock
) -> None:
    bench = Bench(enum_word, {1928: 1274})
    use = OutputUse("heater.setpoint", "setpoint", "degC", limits=None, asked=None, safe=(20.0,))
    reports = bench.driver.settings.hazards(await bench.settings(), [use])
    assert ("loop_error", Severity.REFUSE) in {(one.setting, one.severity) for one in reports}


@ENUM_WORDS
async def test_a_setting_is_enforced_where_it_was_read(
    enum_word: str, autojump_clock: MockClock
) -> None:
    bench = Bench(enum_word)
    settings = bench.driver.settings
    await bench.settings()
    for name, value in (
        ("display_units", "degC"),
        ("ramp_action", "both"),
        ("save_to_eeprom", False),
    ):
        found = await settings.write(name, value, priority=Priority.COMMAND)
        assert found.value == value


@ENUM_WORDS
async def test_a_setting_that_was_not_read_is_read_before_it_is_written(
    enum_word: str, autojump_clock: MockClock
) -> None:
    settings = Bench(enum_word).driver.settings
    found = await settings.write("save_to_eeprom", False, priority=Priority.COMMAND)
    assert found.value is False


@ENUM_WORDS
async def test_a_setting_that_cannot_be_read_is_not_written(
    enum_word: str, autojump_clock: MockClock
) -> None:
    bench = Bench(enum_word)
    settings = bench.driver.settings
    bench.twin.fault("exception", active=True, value=2)
    found = await bench.settings()
    assert found["save_to_eeprom"].value is None
    with pytest.raises(DeviceError, match="save_to_eeprom is not written unread: register 2494"):
        await settings.write("save_to_eeprom", False, priority=Priority.COMMAND)
    assert {frame[1] for frame in bench.link.sent} == {3}
    bench.twin.fault("exception", active=False)
    written = await settings.write("save_to_eeprom", False, priority=Priority.COMMAND)
    assert written.value is False


async def test_a_setting_that_stands_in_neither_register_is_not_written(
    autojump_clock: MockClock,
) -> None:
    bench = Bench("first", {2494: 0})
    settings = bench.driver.settings
    with pytest.raises(DeviceError, match="save_to_eeprom is not written unread: code 0, unknown"):
        await settings.write("save_to_eeprom", False, priority=Priority.COMMAND)
    assert {frame[1] for frame in bench.link.sent} == {3}


@pytest.mark.parametrize("late_at", range(1, 12))
async def test_a_late_reply_to_a_setting_that_was_read_alone_passes_for_no_other(
    late_at: int, autojump_clock: MockClock
) -> None:
    bench = Bench("first", SET, {"max_read": 3})
    wanted = await bench.settings()
    replies: list[bytes] = []

    def garble(data: bytes) -> bytes:
        replies.append(data)
        lone = [reply for reply in replies if len(reply) == 9]
        return lone[-2] if len(lone) == late_at + 1 and data is lone[-1] else data

    bench.link.garble = garble
    assert await bench.settings() == wanted
