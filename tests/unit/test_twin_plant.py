"""The plant behind the twins: its physics, its time, and what a wrong setting is told."""

import time
from collections.abc import Sequence

import pytest

from adapters.twin.physics import Furnace, FurnaceSettings, Sample, SampleSettings
from adapters.twin.plant import Plant
from capa.errors import CapaError

# Mass-loss fraction of PMMA at 10 K/min, degC: fraction; the two-component fit to the NIST data.
PMMA_10_K_PER_MIN = {
    280: 0.038,
    300: 0.048,
    320: 0.082,
    340: 0.178,
    350: 0.269,
    360: 0.399,
    370: 0.563,
    380: 0.736,
    390: 0.879,
    400: 0.960,
    420: 0.990,
}


def heated(
    settings: SampleSettings, k_per_min: float, dt_s: float, at_degC: Sequence[int]
) -> dict[int, float]:
    """Heat a sample that follows the furnace at once; return its loss at temperatures."""
    furnace = Furnace(FurnaceSettings(), dt_s)
    sample = Sample(settings, dt_s, furnace)
    seen: dict[int, float] = {}
    t_s = 0.0
    for target in at_degC:
        while (now_degC := 25 + k_per_min / 60 * t_s) < target:
            furnace.inputs["temperature_degC"](now_degC)
            sample.step(dt_s)
            t_s += dt_s
        seen[target] = sample.outputs["loss_fraction"]()
    return seen


def test_pmma_loses_mass_as_measured_at_10_k_per_min() -> None:
    seen = heated(SampleSettings(lag_s=0.0), 10.0, 0.5, list(PMMA_10_K_PER_MIN))
    assert seen == pytest.approx(PMMA_10_K_PER_MIN, abs=0.002)


def test_how_finely_the_plant_is_stepped_hardly_changes_the_loss() -> None:
    fine = heated(SampleSettings(lag_s=0.0), 10.0, 0.25, [340, 370])
    coarse = heated(SampleSettings(lag_s=0.0), 10.0, 2.0, [340, 370])
    assert coarse == pytest.approx(fine, abs=0.005)


def test_a_faster_heating_rate_shifts_the_loss_to_higher_temperatures() -> None:
    slow = heated(SampleSettings(lag_s=0.0), 5.0, 0.5, [360])[360]
    fast = heated(SampleSettings(lag_s=0.0), 20.0, 0.5, [360])[360]
    assert fast < PMMA_10_K_PER_MIN[360] < slow


def test_polycarbonate_leaves_its_char() -> None:
    seen = heated(SampleSettings(material="polycarbonate", lag_s=0.0), 10.0, 0.5, [400, 550])
    assert seen[400] < 0.01
    assert seen[550] == pytest.approx(0.79, abs=0.002)


@pytest.mark.parametrize(
    ("material", "loss"),
    [
        ("pmma_one_step", {300: 0.009, 340: 0.133, 360: 0.391, 380: 0.798, 400: 0.992}),
        ("polycarbonate", {420: 0.0069, 450: 0.060, 500: 0.699, 550: 0.790}),
        ("pvc", {280: 0.40, 300: 0.56, 350: 0.560, 400: 0.567, 450: 0.647, 500: 0.792, 550: 0.793}),
    ],
)
def test_every_material_loses_mass_at_its_published_temperatures(
    material: str, loss: dict[int, float]
) -> None:
    seen = heated(SampleSettings(material=material, lag_s=0.0), 10.0, 0.5, list(loss))
    assert seen == pytest.approx(loss, abs=0.012)


def test_a_furnace_at_full_power_heats_and_saturates_as_computed() -> None:
    plant = Plant({})
    plant.set("furnace.power_pct", 100.0)
    for t_s, inside_degC in ((60, 71), (300, 270), (600, 468), (7200, 679)):
        plant.advance_to(t_s)
        assert plant.get("furnace.temperature_degC") == pytest.approx(inside_degC, abs=1.0)


def test_power_takes_the_dead_time_to_be_felt_and_the_thermocouple_lags() -> None:
    plant = Plant({"furnace": {"dead_time_s": 5.0, "thermocouple_lag_s": 10.0}})
    plant.set("furnace.power_pct", 100.0)
    plant.advance_to(4.9)
    assert plant.get("furnace.temperature_degC") == 23.0
    plant.advance_to(30)
    assert plant.get("furnace.pv_degC") < plant.get("furnace.temperature_degC") - 5


def test_gas_follows_its_setpoint_with_its_time_constant() -> None:
    plant = Plant({"gas": {"lag_s": 2.0}})
    plant.set("gas.setpoint_sccm", 100.0)
    plant.advance_to(2.0)
    assert plant.get("gas.flow_sccm") == pytest.approx(63.2, abs=0.1)


def test_how_often_anybody_looks_changes_nothing() -> None:
    def after_an_hour(look_every_s: float) -> tuple[float, float]:
        now = [0.0]
        plant = Plant({}, clock=lambda: now[0])
        plant.set("furnace.power_pct", 40.0)
        while now[0] < 1800:
            now[0] = min(now[0] + look_every_s, 1800.0)
            plant.get("furnace.pv_degC")
        return plant.get("furnace.pv_degC"), plant.get("sample.mass_g")

    assert after_an_hour(0.07) == after_an_hour(450.0)


def test_a_tick_may_read_and_drive_the_plant_it_is_called_from() -> None:
    plant = Plant({"furnace": {"dead_time_s": 0.0}})

    def keep_at_300(dt_s: float) -> None:
        assert dt_s == plant.settings.step_s
        plant.set("furnace.power_pct", 100.0 if plant.get("furnace.pv_degC") < 300 else 0.0)

    plant.on_tick(keep_at_300)
    plant.advance_to(3600)
    assert plant.get("furnace.pv_degC") == pytest.approx(300, abs=15)
    assert plant.get("furnace2.pv_degC") == 23.0


def test_an_hour_of_plant_takes_well_under_two_seconds_of_processor() -> None:
    plant = Plant({})
    plant.set("furnace.power_pct", 50.0)
    begun_s = time.process_time()
    plant.advance_to(3600)
    assert time.process_time() - begun_s < 2.0


def test_things_with_a_number_are_things_of_their_own() -> None:
    plant = Plant({"furnace2": {"start_degC": 100.0}, "sample": {"furnace": "furnace2"}})
    assert plant.get("furnace2.pv_degC") == pytest.approx(100.0)
    assert plant.get("sample.temperature_degC") == pytest.approx(100.0)
    assert plant.get("gas7.flow_sccm") == 0.0


def test_a_fresh_sample_is_put_in_once_the_furnace_is_cold_again() -> None:
    plant = Plant({"sample": {"renew_below_degC": 60.0, "lag_s": 0.0}})
    plant.set("furnace.temperature_degC", 420.0)
    plant.advance_to(60)
    assert plant.get("sample.mass_g") < 1.0
    plant.set("furnace.temperature_degC", 30.0)
    plant.advance_to(61)
    assert plant.get("sample.mass_g") == pytest.approx(10.0)


@pytest.mark.parametrize("quantity", ["kiln.pv_degC", "furnace.colour"])
def test_a_quantity_that_is_not_there_is_a_key_error(quantity: str) -> None:
    with pytest.raises(KeyError):
        Plant({}).get(quantity)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"furnace": {"ambient": 20.0}}, r"\[twin.furnace\]: .*did you mean 'ambient_degC'"),
        ({"furnace": {"max_power_w": "800"}}, r"\[twin.furnace\].max_power_w: .*finite number"),
        ({"gas": {"lag_s": -1.0}}, "0 or more"),
        ({"sample": {"material": "wood"}}, "there are: inert, pmma"),
        ({"sample": {"furnace": "gas"}}, "'gas' is not a furnace"),
        ({"sample": {"components": [{"fraction": 2.0}]}}, "more than 1"),
        ({"kiln": {}}, "name it after one of furnace, gas, sample"),
        ({"step_s": 0.0}, "more than 0"),
        ({"wire_timing": 1}, "expected bool"),
        ({"furnace": 3}, r"unknown setting 'furnace'"),
    ],
)
def test_a_setting_that_does_not_fit_is_told_where_and_what_would_be_right(
    table: dict[str, object], says: str
) -> None:
    with pytest.raises(CapaError, match=says):
        Plant(table)
