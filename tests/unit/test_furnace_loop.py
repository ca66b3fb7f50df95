"""The simulated controller on the simulated furnace behaves as the sums on paper say."""

import pytest

from adapters.twin.plant import Plant
from adapters.watlow.twin import WatlowTwin
from capa.devices.spec import DeviceSpec


@pytest.mark.parametrize(
    ("setpoint_degC", "overshoot_degC", "settled_s", "power_pct"),
    [(150.0, 4.4, 245, 4.9), (350.0, 1.1, 493, 21.4), (600.0, 0.0, 1187, 72.6)],
)
def test_a_step_overshoots_and_settles_as_computed_for_this_furnace_and_loop(
    setpoint_degC: float, overshoot_degC: float, settled_s: float, power_pct: float
) -> None:
    plant = Plant({})
    spec = DeviceSpec(
        name="heater", adapter="watlow", link="bus", twin={"setpoint_degC": setpoint_degC}
    )
    WatlowTwin(spec, plant)
    trace = []
    for second in range(1, 2400):
        plant.advance_to(second)
        trace.append(plant.get("furnace.pv_degC"))
    outside = [at for at, pv in enumerate(trace, 1) if abs(pv - setpoint_degC) > 2.0]
    assert max(trace) - setpoint_degC == pytest.approx(overshoot_degC, abs=0.2)
    assert outside[-1] == pytest.approx(settled_s, abs=5)
    assert plant.get("furnace.power_pct") == pytest.approx(power_pct, abs=0.5)
