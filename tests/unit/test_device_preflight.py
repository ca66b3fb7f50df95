"""What instruments are set to, before a run: refused with both values, mended, or warned of."""

import json
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.modbus.codec import Query
from adapters.twin.memory import TwinHandle
from adapters.watlow.adapter import WatlowAdapter
from adapters.watlow.codec import Conversation
from adapters.watlow.preflight import WatlowSettings
from adapters.watlow.settings import Row
from adapters.watlow.twin import WatlowTwin
from capa.config.hardware import HardwareProfile
from capa.devices.link import Priority
from capa.devices.preflight import SettingReport, Severity
from capa.devices.spec import DeviceSpec, SettingValue
from capa.experiment.method import Method
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.experiment.ramp import Trajectory
from capa.runtime.conductor import Conductor
from capa.runtime.device_preflight import check_devices
from capa.runtime.report import RunReport
from tests.support.direct_link import DirectLink
from tests.support.engine import bench_rig, conductor, method, profile, request
from tests.support.still_plant import StillPlant

HEATER = {"name": "heater.setpoint"}
SHORT = method({"kind": "hold", "target": HEATER, "value": 100.0, "duration_s": 2.0})
SAVE, MAX_SETPOINT, MODE = 2494, 2166, 1880
ERROR_POWER, MANUAL_POWER, RAMPS, LOOP_ERROR = 2184, 2162, 2186, 1928
ALARM, ALARM_LOW, ALARM_TYPE = 1480, 1482, 1508


def furnace(
    *,
    registers: Mapping[int, float] | None = None,
    twin: Mapping[str, Any] | None = None,
    **tables: object,
) -> HardwareProfile:
    """The bench, its controller set up with care but for ``registers``."""
    devices = [spec.model_dump() for spec in profile().devices]
    devices[0]["twin"] = {"registers": {SAVE: 59, **(registers or {})}, **(twin or {})}
    return profile(devices=[{**devices[0], **tables}, *devices[1:]])


def writes(twins: TwinHandle) -> list[str]:
    """Every frame to the furnace that changes something, but for the safe setpoint."""
    frames = [
        each["hex"] for each in twins.wire if each["event"] == "rx" and each["link"] == "oven"
    ]
    return [frame for frame in frames if frame[2:4] in ("06", "10")]


async def armed(
    of: HardwareProfile, folder: Path, run: Method = SHORT
) -> tuple[RunReport, TwinHandle]:
    async with bench_rig(of) as (rig, twins):
        report = await conductor(rig, folder).run(request(run))
    return report, twins


def texts(report: RunReport) -> str:
    return "\n".join(str(problem) for problem in report.problems)


def kinds(report: RunReport) -> list[tuple[str, str]]:
    assert report.bundle is not None
    with sqlite3.connect(report.bundle / "events.sqlite") as db:
        rows = db.execute("select kind, message from events order by id").fetchall()
    db.close()
    return rows


async def reports(of: HardwareProfile, run: Method | None = None) -> list[SettingReport]:
    async with bench_rig(of) as (rig, _):
        return await check_devices(rig, method=run)


def bad(found: list[SettingReport]) -> list[tuple[str, Severity]]:
    worse = (Severity.WARN, Severity.REFUSE)
    return [(one.setting, one.severity) for one in found if one.severity in worse]


# --- refused, or mended -------------------------------------------------------------------------


async def test_a_setting_that_is_not_as_expected_refuses_the_run_and_names_both_values(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    of = furnace(expect={"max_setpoint": 750.0}, registers={MAX_SETPOINT: 5000.0})
    report, twins = await armed(of, tmp_path)
    assert report.run_status == "refused"
    assert "device furnace, setting max_setpoint" in texts(report)
    assert "expects 750 degC, the device has 5000 degC" in texts(report)
    assert "[devices.enforce]" in texts(report)
    assert writes(twins) == []
    assert report.bundle is None


async def test_an_expectation_may_be_a_mere_warning(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    expect = {"thermocouple": {"value": "N", "otherwise": "warn"}}
    report, _ = await armed(furnace(expect=expect), tmp_path)
    assert report.run_status == "completed"
    said = [message for kind, message in kinds(report) if kind == "run.problem"]
    assert any('expects "N", the device has "K"' in message for message in said)


async def test_what_is_enforced_is_mended_and_proven_and_the_run_begins(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    of = furnace(enforce={"max_setpoint": 750.0, "input_error_power": "off"})
    report, twins = await armed(of, tmp_path)
    assert report.run_status == "completed"
    of_settings = [f for f in writes(twins) if f[4:8] in ("0876", "0888")]
    assert len(of_settings) == 2
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    kept = {one["setting"]: one for one in manifest["settings"] if one["device"] == "furnace"}
    assert kept["max_setpoint"]["found"] == pytest.approx(750.0, abs=0.1)
    assert kept["input_error_power"]["found"] == "off"


async def test_what_is_enforced_and_true_already_is_not_written(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    of = furnace(enforce={"max_setpoint": 750.0}, registers={MAX_SETPOINT: 750.0})
    report, twins = await armed(of, tmp_path)
    assert report.run_status == "completed"
    assert [frame for frame in writes(twins) if frame[4:8] == "0876"] == []


async def test_a_device_that_does_not_take_what_is_enforced_refuses_the_run(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is answered as if it had been taken; only what then reads is believed."""
    original = WatlowSettings._writing

    def elsewhere(self: WatlowSettings, row: Row, value: SettingValue) -> Query:
        other = self._rows["alarm1_high"] if row.info.name == "max_setpoint" else row
        return original(self, other, value)

    monkeypatch.setattr(WatlowSettings, "_writing", elsewhere)
    report, twins = await armed(furnace(enforce={"max_setpoint": 750.0}), tmp_path)
    assert report.run_status == "refused"
    assert "expects 750 degC, the device has 5537 degC" in texts(report)
    assert twins.outputs()["furnace.setpoint"] == 24.0


async def test_a_refused_write_is_told_with_the_devices_own_words(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    of = furnace(enforce={"alarm1_type": "process"}, registers={ALARM_TYPE: 62})
    async with bench_rig(of) as (rig, twins):
        one = conductor(rig, tmp_path)
        await trio.sleep(1.0)
        assert [frame for frame in writes(twins) if frame[4:8] == "05e4"] != []  # at the opening
        rows = rig.devices["furnace"].settings._rows  # type: ignore[attr-defined]
        broken = {**rows, "alarm1_type": rows["alarm1_sides"]}
        rig.devices["furnace"].settings._rows = broken  # type: ignore[attr-defined]
        report = await one.run(request(SHORT))
    assert report.run_status == "refused"


async def test_nothing_is_mended_for_a_run_that_is_refused_anyway(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    of = furnace(expect={"thermocouple": "N"}, enforce={"max_setpoint": 750.0})
    nonsense = method({"kind": "setpoint", "target": {"name": "heater.nothing"}, "value": 1.0})
    async with bench_rig(of) as (rig, twins):
        rig.settings.keepers["furnace"]._wanted.pop("save_to_eeprom")
        one = conductor(rig, tmp_path)
        report = await one.run(request(nonsense))
        assert writes(twins) == []
    assert report.run_status == "refused"
    assert "heater.nothing" in texts(report)
    assert 'expects "N", the device has "K"' in texts(report)


async def test_while_a_trip_is_latched_no_setting_is_written(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig(furnace(enforce={"max_setpoint": 750.0})) as (rig, twins):
        one = conductor(rig, tmp_path)
        one.gate.latch("somebody smelt smoke")
        await trio.sleep(2.0)
        report = await one.run(request(SHORT))
        assert writes(twins) == []
        assert report.run_status == "refused"
        one.gate.release()
        assert (await one.run(request(SHORT))).run_status == "completed"
        assert "0876" in {frame[4:8] for frame in writes(twins)}


async def test_a_device_that_falls_silent_while_it_is_asked_is_named(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, twins):
        one = conductor(rig, tmp_path)
        twins.fault("silence", device="furnace")
        assert rig.answers("furnace")
        began_s = trio.current_time()
        report = await one.run(request(SHORT))
        assert trio.current_time() - began_s < 6.0
    assert report.run_status == "refused"
    assert "device furnace: its settings could not be read" in texts(report)


async def fails(*_: object) -> list[SettingReport]:
    await trio.sleep(0.1)
    raise ZeroDivisionError("a bug")


async def hangs(*_: object) -> list[SettingReport]:
    await trio.sleep(600)
    return []


@pytest.mark.parametrize(
    ("look", "words"),
    [(fails, "its driver raised ZeroDivisionError: a bug"), (hangs, "no answer within 5 s")],
)
async def test_a_driver_that_can_not_say_its_settings_refuses_the_run_and_ends_nothing(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[..., Awaitable[list[SettingReport]]],
    words: str,
) -> None:
    async with bench_rig() as (rig, twins):
        one = conductor(rig, tmp_path)
        await trio.sleep(1.0)
        monkeypatch.setattr(rig.settings.keepers["furnace"], "look", look)
        report = await one.run(request(SHORT))
        assert report.run_status == "refused"
        assert f"device furnace: its settings could not be read: {words}" in texts(report)
        assert twins.outputs()["furnace.setpoint"] < 100.0


async def test_a_change_is_on_record_before_it_is_on_the_wire(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, int]] = []
    async with bench_rig(furnace(enforce={"max_setpoint": 750.0})) as (rig, twins):
        one = conductor(rig, tmp_path)
        record = one.gate.record

        def listen(kind: str, *rest: Any) -> None:  # noqa: ANN401 - passed on as it came
            said.append((kind, len(writes(twins))))
            record(kind, *rest)

        monkeypatch.setattr(one.gate, "record", listen)
        await trio.sleep(2.0)
    assert said == [("setting.intent", 0), ("setting.result", 1)]


# --- hazards that a controller has by itself ----------------------------------------------------

AT_650 = method({"kind": "hold", "target": HEATER, "value": 650.0, "duration_s": 2.0})


@pytest.mark.parametrize(
    ("registers", "run", "setting", "severity", "words"),
    [
        ({MAX_SETPOINT: 600.0}, AT_650, "max_setpoint", Severity.REFUSE, "650 degC.* 600 degC"),
        ({MAX_SETPOINT: 600.0}, SHORT, "max_setpoint", Severity.WARN, "700 degC.* 600 degC"),
        ({2164: 50.0}, SHORT, "min_setpoint", Severity.REFUSE, "safe value.* 20 degC.* 50 degC"),
        ({MODE: 54}, SHORT, "control_mode", Severity.REFUSE, "auto.* manual"),
        ({MODE: 62}, SHORT, "control_mode", Severity.REFUSE, "auto.* off"),
        ({LOOP_ERROR: 1274}, SHORT, "loop_error", Severity.REFUSE, "open_loop"),
        ({ERROR_POWER: 14}, SHORT, "input_error_power", Severity.WARN, "broken sensor.* as it did"),
        (
            {ERROR_POWER: 100, MANUAL_POWER: 30.0},
            SHORT,
            "input_error_power",
            Severity.WARN,
            "broken sensor.* at 30 %",
        ),
        ({RAMPS: 85}, SHORT, "ramp_action", Severity.WARN, "safe one as well"),
        (
            {ALARM_TYPE: 76, ALARM: 400.0, ALARM_LOW: 5.0},
            AT_650,
            "alarm1_high",
            Severity.WARN,
            "650 degC.* 400 degC",
        ),
        ({ALARM: 65.0, ALARM_LOW: -17.8}, SHORT, "wire_units", Severity.WARN, "degF.* degC"),
    ],
)
async def test_a_hazard_is_seen_and_named(
    autojump_clock: MockClock,
    registers: dict[int, float],
    run: Method,
    setting: str,
    severity: Severity,
    words: str,
) -> None:
    found = await reports(furnace(registers=registers), run)
    assert bad(found) == [(setting, severity)]
    (one,) = (one for one in found if one.setting == setting and one.severity is severity)
    assert re.search(words, str(one)), str(one)
    assert one.remedy
    assert bad(await reports(furnace(), run)) == []


async def test_numbers_that_make_sense_only_in_the_other_word_order_are_seen(
    autojump_clock: MockClock,
) -> None:
    """A controller whose 2488 says one thing while its floats say another."""
    twin = {"word_order": "high_low", "registers": {SAVE: 59, 2488: 1331}}
    found = await reports(furnace(twin=twin))
    assert ("word_order", Severity.REFUSE) in bad(found)
    assert any("make sense only" in str(one) for one in found)


async def test_a_device_that_only_measures_has_nothing_to_be_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    channels = [c.model_dump() for c in profile().channels]
    channels[0] |= {"command": None, "limits": None}
    of = furnace(registers={SAVE: 106, MODE: 54}).model_copy(
        update={
            "channels": profile(channels=channels).channels,
            "safe_state": profile(safe_state=[{"set": {"purge.flow": 0.0}}]).safe_state,
        }
    )
    async with bench_rig(of) as (rig, twins):
        one = conductor(rig, tmp_path)
        await trio.sleep(2.0)
        assert bad(await check_devices(rig)) == []
        assert writes(twins) == []
        assert isinstance(one, Conductor)


# --- the memory that wears ----------------------------------------------------------------------


def ramp(duration_s: float) -> Method:
    return method(
        {
            "kind": "ramp",
            "target": HEATER,
            "start_value": 20.0,
            "end_value": 650.0,
            "duration_s": duration_s,
        }
    )


async def test_a_ramp_costs_the_memory_next_to_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig(furnace(registers={SAVE: 106})) as (rig, twins):
        report = await conductor(rig, tmp_path).run(request(ramp(12.0)))
        assert report.run_status == "completed"
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
        assert twins.nv_writes()["furnace"] <= 1
    assert len([frame for frame in writes(twins) if frame[4:8] == "0870"]) > 100


@pytest.mark.parametrize(
    ("saving", "seconds", "least", "most"), [(False, 10_800.0, 0, 1), (True, 600.0, 115, 121)]
)
async def test_three_hours_at_ten_setpoints_a_second(
    autojump_clock: MockClock, saving: bool, seconds: float, least: int, most: int
) -> None:
    """108 000 frames by the same codec, straight into the simulated controller."""
    plant = StillPlant()
    spec = DeviceSpec(name="heater", adapter="watlow", link="bus")
    twin = WatlowTwin(spec, plant)
    driver = WatlowAdapter(spec, DirectLink([twin]))
    await driver.settings.write("save_to_eeprom", saving, priority=Priority.COMMAND)
    climb = Trajectory(68.0, 1202.0, seconds, 10.0)
    talk = Conversation(1, "low_high")
    for tick in range(climb.last_tick + 1):
        plant._now_s += 0.1  # without the heat loop, which costs more than all else
        twin.receive(talk.write_setpoint(climb.value(tick)).frame)
    assert twin.outputs()["setpoint"] == pytest.approx(650.0, abs=0.001)
    assert least <= twin.nv_writes <= most


async def test_without_care_a_ramp_wears_the_memory_and_the_run_says_how_much(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    of = furnace(registers={SAVE: 106}, expect={"save_to_eeprom": True})
    async with bench_rig(of) as (rig, twins):
        report = await conductor(rig, tmp_path).run(request(ramp(22.0)))
        assert report.run_status == "completed"
        assert 4 <= twins.nv_writes()["furnace"] <= 8
    assert "rated for about 1000000 writes, and this method makes up to 5" in texts(report)


@pytest.mark.parametrize("tells", ["a poll", "a command"])
async def test_a_controller_that_was_off_for_a_moment_is_told_again_not_to_save(
    autojump_clock: MockClock, tmp_path: Path, tells: str
) -> None:
    """Saving is on again after a power cut; one question without an answer is enough to look."""
    async with bench_rig(furnace(registers={SAVE: 106})) as (rig, twins), trio.open_nursery() as n:
        one = conductor(rig, tmp_path)
        run = AT_650 if tells == "a poll" else ramp(600.0)
        n.start_soon(one.run, request(run))
        await trio.sleep(1.0)
        before = twins.nv_writes()["furnace"]
        twins.fault("silence", device="furnace")
        twins.fault("power_cycle", device="furnace")
        await trio.sleep(0.3)
        twins.fault("silence", device="furnace", active=False)
        await trio.sleep(3.0)
        assert len([frame for frame in writes(twins) if frame[4:8] == "09be"]) == 2
        assert twins.nv_writes()["furnace"] <= before + 1
        one.stop("enough")


async def test_what_is_set_again_in_mid_run_is_in_the_runs_record(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig(furnace(registers={SAVE: 106})) as (rig, twins), trio.open_nursery() as n:
        one = conductor(rig, tmp_path)
        n.start_soon(one.run, request(None, procedure=FreeRun.id, config={"duration_s": 10.0}))
        await trio.sleep(1.0)
        twins.fault("silence", device="furnace")
        twins.fault("power_cycle", device="furnace")
        await trio.sleep(0.3)
        twins.fault("silence", device="furnace", active=False)
    assert one.last_report is not None
    told = [message for kind, message in kinds(one.last_report) if kind == "setting.result"]
    assert told == ["furnace: save_to_eeprom from true to false, wanted by its driver: reads false"]


async def test_a_controller_that_will_not_stop_saving_is_warned_of_with_the_count(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keeps_saving(self: WatlowSettings, row: Row, value: SettingValue) -> Query:
        return original(self, row, True if row.info.name == "save_to_eeprom" else value)

    original = WatlowSettings._writing
    monkeypatch.setattr(WatlowSettings, "_writing", keeps_saving)
    report, _ = await armed(furnace(registers={SAVE: 106}), tmp_path, ramp(12.0))
    assert report.run_status == "completed"
    assert "its driver expects false, the device has true" in texts(report)
    assert "this method makes up to 3" in texts(report)
