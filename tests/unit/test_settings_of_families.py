"""What each family reads of its instruments' settings, and the hazards that it knows."""

import re
from typing import Any

import pytest
from trio.testing import MockClock

from adapters.alicat import FAMILY as ALICAT
from adapters.mettler import FAMILY as METTLER
from adapters.modbus import FAMILY as MODBUS
from adapters.sartorius import FAMILY as SARTORIUS
from adapters.watlow import FAMILY as WATLOW
from adapters.watlow.codec import Units
from adapters.watlow.hazards import hazards_of
from capa.devices.adapter import AdapterFamily, FieldWrite
from capa.devices.link import Priority
from capa.devices.preflight import HasSettings, OutputUse, SettingReport, Severity, Sweep
from capa.devices.spec import DeviceSpec
from capa.runtime.device_settings import DeviceKeeper
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant


class Bench:
    """One device of any family, without a wire between."""

    def __init__(
        self, family: AdapterFamily, *, commanded: str = "setpoint", **tables: object
    ) -> None:
        self.plant = StillPlant()
        base = {"name": "one", "adapter": family.name, "link": "bus"}
        self.spec = DeviceSpec.model_validate({**base, **tables})
        self.twin = family.twin(self.spec, self.plant)
        self.link = DirectLink([self.twin])
        self.driver = family.create(self.spec, self.link)
        assert isinstance(self.driver, HasSettings)
        self.keeper = DeviceKeeper(self.spec, self.driver.settings, commanded={commanded} - {""})

    async def look(self, *uses: OutputUse) -> dict[str, SettingReport]:
        await self.driver.open()
        reports = await self.keeper.look(uses, None)
        worst = sorted(reports, key=lambda one: list(Severity).index(one.severity))
        return {one.setting: one for one in worst}


def flow(**facts: Any) -> OutputUse:  # noqa: ANN401 - whatever a use may say
    return OutputUse("purge.flow", "setpoint", "sccm", **facts)


async def test_an_alicat_tells_its_gas_units_scale_source_and_firmware(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(ALICAT, options={"full_scale": 200.0})
    found = await bench.look(flow())
    assert {name: one.found for name, one in found.items()} == {
        "gas": "N2",
        "valve": "controls",
        "firmware": "10v20.0-R24",
        "setpoint_source": "serial",
        "flow_unit": "sccm",
        "full_scale": 200.0,
    }
    assert found["full_scale"].severity is Severity.OK
    assert bench.twin.outputs() == {"setpoint": 0.0}


async def test_an_alicat_of_another_size_is_refused(autojump_clock: MockClock) -> None:
    found = await Bench(ALICAT, options={"full_scale": 200.0}, twin={"full_scale": 50.0}).look()
    assert found["full_scale"].severity is Severity.REFUSE
    assert "expects 200 sccm, the device has 50 sccm" in str(found["full_scale"])


async def test_what_a_method_asks_beyond_full_scale_is_refused(autojump_clock: MockClock) -> None:
    bench = Bench(ALICAT, twin={"full_scale": 50.0})
    found = await bench.look(flow(asked=(0.0, 60.0)))
    assert found["full_scale"].severity is Severity.REFUSE
    assert re.search("60 sccm.* 50 sccm", str(found["full_scale"]))


@pytest.mark.parametrize("firmware", ["5v12", "7v09", "8v17"])
async def test_an_old_alicat_is_not_asked_what_would_lock_its_display(
    autojump_clock: MockClock, firmware: str
) -> None:
    bench = Bench(ALICAT, twin={"firmware": firmware})
    found = await bench.look(flow())
    assert found["setpoint_source"].found is None
    assert "does not tell" in found["setpoint_source"].message
    assert [line for line in bench.link.sent if line.startswith((b"AL", b"AFPF"))] == []
    bad = [one for one in found.values() if one.severity in (Severity.WARN, Severity.REFUSE)]
    assert bad == []


@pytest.mark.parametrize(
    ("source", "severity"),
    [("serial", Severity.WARN), ("unsaved", None), ("analog", None)],
)
async def test_a_ramp_of_the_flow_is_counted_where_each_setpoint_is_saved(
    autojump_clock: MockClock, source: str, severity: Severity | None
) -> None:
    ramp = flow(sweeps=(Sweep(span=100.0, duration_s=600.0, ticks=6000),))
    found = await Bench(ALICAT, twin={"setpoint_source": source}).look(ramp)
    wear = found.get("eeprom_wear")
    assert (wear and wear.severity) == severity
    if wear is not None:
        assert "up to 6000, 600 a minute" in wear.message


async def test_an_unchanged_setpoint_is_not_saved_again_by_an_alicat(
    autojump_clock: MockClock,
) -> None:
    """Half a digit an hour, ten times a second: what can't be seen is not written."""
    bench = Bench(ALICAT)
    await bench.driver.open()
    for tick in range(50):
        write = FieldWrite("setpoint", 10.0 + tick * 0.0009)
        ack = await bench.driver.write(write, priority=Priority.COMMAND)
        assert ack.accepted
        assert ack.readback == pytest.approx(write.value, abs=0.0051)
    assert bench.twin.nv_writes == 5  # type: ignore[attr-defined]


async def test_a_setpoint_that_somebody_changed_is_written_again(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(ALICAT)
    await bench.driver.open()
    await bench.driver.write(FieldWrite("setpoint", 10.0), priority=Priority.COMMAND)
    bench.twin.receive(b"AS 99.0\r")
    ack = await bench.driver.write(FieldWrite("setpoint", 10.0), priority=Priority.COMMAND)
    assert ack.readback == 10.0
    assert bench.twin.outputs() == {"setpoint": 10.0}


async def test_a_safe_value_is_always_written(autojump_clock: MockClock) -> None:
    bench = Bench(ALICAT)
    await bench.driver.open()
    for _ in range(3):
        await bench.driver.write(FieldWrite("setpoint", 0.0), priority=Priority.SAFE)
    assert [line for line in bench.link.sent if line.startswith(b"AS")] == [b"AS 0.00\r"] * 3


# --- a controller that does not tell --------------------------------------------------------------


def test_a_controller_that_does_not_tell_whether_it_saves_is_taken_to_save() -> None:
    ramp = OutputUse(
        "heater.setpoint", "setpoint", "degC", sweeps=(Sweep(600.0, 10_800.0, 108_000),)
    )
    (wear,) = hazards_of("oven", Units.DEG_F, "low_high", {}, [ramp], {})
    assert (wear.setting, wear.severity) == ("eeprom_wear", Severity.WARN)
    assert "may save" in wear.message
    assert "rated for about 1000000 writes, and this method makes up to 2161" in wear.message


async def test_on_a_map_of_its_own_only_what_the_profile_places_is_asked_for(
    autojump_clock: MockClock,
) -> None:
    places = {"process_value": 360, "heat_power": 1904, "setpoint": 2160, "control_mode": 1880}
    bench = Bench(WATLOW, address=1, options={"map": "custom", "registers": places})
    asked = len(bench.link.sent)
    found = await bench.look(OutputUse("heater.setpoint", "setpoint", "degC"))
    assert set(found) == {"control_mode", "eeprom_wear"}
    assert bench.link.sent[-1][2:6] == bytes.fromhex("07580008")
    assert {frame[1] for frame in bench.link.sent[asked:]} == {3}


async def test_what_a_channel_commands_is_not_kept_behind_its_back(
    autojump_clock: MockClock,
) -> None:
    table: dict[str, Any] = {"address": 1, "options": {"also_read": ["comms", "mode"]}}
    assert Bench(WATLOW, **table).keeper.enforces
    assert not Bench(WATLOW, commanded="save", **table).keeper.enforces
    off = Bench(WATLOW, twin={"registers": {1880: 62}}, **table)
    both = [OutputUse("heater." + name, name, "1") for name in ("setpoint", "mode")]
    assert (await off.look(*both[:1]))["control_mode"].severity is Severity.REFUSE
    assert (await off.look(*both))["control_mode"].severity is Severity.INFO


# --- register maps ------------------------------------------------------------------------------

MAP = {
    "flux": {"address": 0, "register": "input", "type": "float32", "unit": "kW/m^2"},
    "range": {"address": 10, "unit": "1", "access": "setting", "expect": 3.0},
    "serial": {"address": 12, "unit": "1"},
}


def gauge(value: float, **tables: Any) -> Bench:  # noqa: ANN401 - whatever a device may have
    twin = {"fields": {"range": {"value": value}, "serial": {"value": 77.0}}}
    return Bench(MODBUS, address=7, options={"fields": MAP}, twin=twin, **tables)


async def test_a_field_of_a_map_may_carry_what_it_has_to_read(autojump_clock: MockClock) -> None:
    assert (await gauge(3.0).look())["range"].severity is Severity.OK
    wrong = (await gauge(4.0).look())["range"]
    assert wrong.severity is Severity.REFUSE
    assert re.search("expects 3, the device has 4", str(wrong))


async def test_a_profile_may_expect_any_field_of_a_map(autojump_clock: MockClock) -> None:
    found = await gauge(3.0, expect={"serial": 78.0}).look()
    assert "expects 78, the device has 77" in str(found["serial"])
    assert "flux" not in found


async def test_a_setting_of_a_map_is_written_by_nobody_but_enforce(
    autojump_clock: MockClock,
) -> None:
    bench = gauge(4.0)
    assert isinstance(bench.driver, HasSettings)
    settings = bench.driver.settings
    assert settings.known["range"].writable
    assert not settings.known["serial"].writable
    assert (await settings.write("range", 3.0, priority=Priority.COMMAND)).value == 3.0
    assert bench.driver.fields["range"].command is None


# --- balances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [SARTORIUS, METTLER], ids=["sartorius", "mettler"])
async def test_a_balance_in_another_unit_is_seen(
    autojump_clock: MockClock, family: AdapterFamily
) -> None:
    """Without ``unit`` in its options the driver converts, and only the profile minds."""
    bench = Bench(family, commanded="", twin={"unit": "mg"}, expect={"unit": "g"})
    bench.plant.advance(5.0)
    found = await bench.look()
    assert found["unit"].severity is Severity.REFUSE
    assert 'expects "g", the device has "mg"' in str(found["unit"])


async def test_a_balance_that_prints_unasked_is_warned_of(autojump_clock: MockClock) -> None:
    bench = Bench(SARTORIUS, commanded="")
    assert (await bench.look())["auto_print"].severity is Severity.OK
    bench.driver.counters["unasked"] = 4  # type: ignore[attr-defined]
    assert (await bench.look())["auto_print"].severity is Severity.WARN
    assert (await bench.look())["auto_print"].severity is Severity.OK
