"""The simulated heat-flux gauge sees what its heater's temperature says."""

import math

import pytest

from adapters.twin.plant import Plant

FLUX = "furnace.heat_flux_kW_m2"


@pytest.mark.parametrize(
    ("temperature_degC", "flux_kW_m2"),
    [(23.0, 0.0), (500.0, 16.49), (747.0, 49.96), (900.0, 87.25)],
)
def test_the_flux_follows_the_fourth_power_of_the_heaters_temperature(
    temperature_degC: float, flux_kW_m2: float
) -> None:
    plant = Plant({})
    plant.set("furnace.temperature_degC", temperature_degC)
    assert plant.get(FLUX) == pytest.approx(flux_kW_m2, abs=0.05)


def test_the_gauge_lags_behind_its_heater_by_its_own_time() -> None:
    plant = Plant({"furnace": {"gauge_lag_s": 5.0, "heat_capacity_j_per_k": 1e9}})
    plant.set("furnace.temperature_degC", 747.0)
    hot = plant.get(FLUX)
    plant._things["furnace"]._k = 23.0 + 273.15  # type: ignore[attr-defined]  # a door shut at once
    plant.advance_to(5.0)
    assert plant.get(FLUX) == pytest.approx(hot * math.exp(-1), rel=0.01)
