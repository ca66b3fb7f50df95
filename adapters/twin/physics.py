"""The things in the plant: furnace, gas line, sample. Each is stepped, and names what it offers.

The models and the default constants of furnace and gas line are choices, not device data; the
kinetics are published fits to measured mass loss (see ``MATERIALS``).
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from adapters.twin.settings import from_table
from capa.errors import CapaError

__all__ = [
    "MATERIALS",
    "Component",
    "Furnace",
    "FurnaceSettings",
    "GasLine",
    "GasSettings",
    "Sample",
    "SampleSettings",
    "Thing",
]

SIGMA: Final = 5.670374e-8
"""Stefan-Boltzmann constant, W/m2K4."""
GAS_CONSTANT: Final = 8.314462618
"""J/mol K."""
ZERO_C: Final = 273.15


class Thing(Protocol):
    """A part of the plant."""

    outputs: Mapping[str, Callable[[], float]]
    inputs: Mapping[str, Callable[[float], None]]

    def step(self, dt_s: float) -> None:
        """Advance by one step of the plant."""
        ...


@dataclass(frozen=True, slots=True)
class FurnaceSettings:
    """A bench-scale furnace; full power brings it to about 470 degC in ten minutes."""

    ambient_degC: float = 23.0
    heat_capacity_j_per_k: float = 900.0
    max_power_w: float = 800.0
    area_m2: float = 0.03
    insulation: float = 0.6
    """The share of the losses that the insulation lets through."""
    convection_w_per_m2k: float = 8.0
    emissivity: float = 0.85
    dead_time_s: float = 6.0
    thermocouple_lag_s: float = 8.0
    start_degC: float = 23.0
    gauge_emissivity: float = 0.95
    """Of the heater and of the blackened gauge together."""
    gauge_view_factor: float = 0.85
    """The share of what the gauge sees that is heater: 25 mm below a cone, a choice."""
    gauge_convection_w_per_m2k: float = 1.0
    """Hot air touches the gauge too, a little: it lies below the heater, face up."""
    gauge_lag_s: float = 0.5
    """A Schmidt-Boelter gauge is a good deal faster than any heater."""


class Furnace:
    """One lumped mass that loses heat by convection and radiation, seen by a slow thermocouple.

    Radiation makes gain and time constant fall five-fold between 150 and 600 degC, so a controller
    tuned at one end is wrong at the other, as on a real one.

    A water-cooled gauge at ambient temperature looks at it: emissivity x view factor x sigma
    (T^4 - Ta^4), and a little convection, behind a first-order lag. That is a modelling choice
    (one temperature for all of the heater, no spectrum, no smoke), good for a flux that grows as
    it does on a real heater; with the default constants 50 kW/m2 are met at 747 degC.
    """

    def __init__(self, settings: FurnaceSettings, dt_s: float) -> None:
        self._settings = settings
        self._ambient_k = settings.ambient_degC + ZERO_C
        self._k = self._tc_k = settings.start_degC + ZERO_C
        self._power_pct = self._stuck_pct = 0.0
        self._under_way = deque([0.0] * max(round(settings.dead_time_s / dt_s), 0))
        self._tc_share = _share(dt_s, settings.thermocouple_lag_s)
        self._convection = settings.insulation * settings.convection_w_per_m2k * settings.area_m2
        self._radiation = settings.insulation * settings.emissivity * SIGMA * settings.area_m2
        self._watt_per_pct = settings.max_power_w / 100
        self._gauge_share = _share(dt_s, settings.gauge_lag_s)
        self._flux_w_per_m2 = self._incident_w_per_m2()
        self.outputs: Mapping[str, Callable[[], float]] = {
            "pv_degC": lambda: self._tc_k - ZERO_C,
            "temperature_degC": lambda: self._k - ZERO_C,
            "power_pct": lambda: self._power_pct,
            "heat_flux_kW_m2": lambda: self._flux_w_per_m2 / 1000,
        }
        self.inputs: Mapping[str, Callable[[float], None]] = {
            "power_pct": self._set_power,
            "temperature_degC": self._set_temperature,
            "stuck_power_pct": self._set_stuck,
        }

    @property
    def kelvin(self) -> float:
        """The temperature inside."""
        return self._k

    def step(self, dt_s: float) -> None:
        """Advance by one step; forward Euler, whose error is far below the thermocouple's lag."""
        self._under_way.append(max(self._power_pct, self._stuck_pct))
        kelvin, ambient = self._k, self._ambient_k
        loss_w = self._convection * (kelvin - ambient)
        loss_w += self._radiation * (kelvin**4 - ambient**4)
        heat_w = self._under_way.popleft() * self._watt_per_pct
        self._k = kelvin + dt_s * (heat_w - loss_w) / self._settings.heat_capacity_j_per_k
        self._tc_k += (kelvin - self._tc_k) * self._tc_share
        self._flux_w_per_m2 += (self._incident_w_per_m2() - self._flux_w_per_m2) * self._gauge_share

    def _incident_w_per_m2(self) -> float:
        settings, ambient = self._settings, self._ambient_k
        seen = settings.gauge_emissivity * settings.gauge_view_factor * SIGMA
        convected = settings.gauge_convection_w_per_m2k * (self._k - ambient)
        return seen * (self._k**4 - ambient**4) + convected

    def _set_power(self, power_pct: float) -> None:
        self._power_pct = min(max(power_pct, 0.0), 100.0)

    def _set_stuck(self, power_pct: float) -> None:
        """Weld the heater's relay: it gives at least so much, whatever is asked of it."""
        self._stuck_pct = min(max(power_pct, 0.0), 100.0)

    def _set_temperature(self, temperature_degC: float) -> None:
        self._k = self._tc_k = temperature_degC + ZERO_C
        self._flux_w_per_m2 = self._incident_w_per_m2()


@dataclass(frozen=True, slots=True)
class GasSettings:
    """A gas line behind a mass-flow controller."""

    lag_s: float = 0.1
    pressure_psia: float = 14.70
    pressure_rise_psi_per_sccm: float = 0.0002
    temperature_degC: float = 24.0


class GasLine:
    """Flow that follows its setpoint with a first-order lag."""

    def __init__(self, settings: GasSettings, dt_s: float) -> None:
        self._settings = settings
        self._setpoint_sccm = 0.0
        self._flow_sccm = 0.0
        self._share = _share(dt_s, settings.lag_s)
        self.outputs: Mapping[str, Callable[[], float]] = {
            "setpoint_sccm": lambda: self._setpoint_sccm,
            "flow_sccm": lambda: self._flow_sccm,
            "pressure_psia": self._pressure_psia,
            "temperature_degC": lambda: settings.temperature_degC,
        }
        self.inputs: Mapping[str, Callable[[float], None]] = {"setpoint_sccm": self._set}

    def step(self, dt_s: float) -> None:
        """Advance by one step."""
        self._flow_sccm += (self._setpoint_sccm - self._flow_sccm) * self._share

    def _set(self, setpoint_sccm: float) -> None:
        self._setpoint_sccm = setpoint_sccm

    def _pressure_psia(self) -> float:
        rise = self._settings.pressure_rise_psi_per_sccm
        return self._settings.pressure_psia + rise * self._flow_sccm


@dataclass(frozen=True, slots=True)
class Component:
    """A share of a sample that leaves by one first-order reaction."""

    fraction: float = 1.0
    a_per_s: float = 1.0
    e_kj_per_mol: float = 100.0


MATERIALS: Final[Mapping[str, tuple[Component, ...]]] = {
    # Least squares on the five NIST TGA runs of cast PMMA in nitrogen in the MaCFP matl-db:
    # rms error 0.007 in mass-loss fraction, 1 % residue; the main step agrees with UMD's published
    # 1.35e11 1/s and 164 kJ/mol.
    "pmma": (Component(0.034, 5.15e4, 67.4), Component(0.956, 1.503e11, 164.3)),
    # MaCFP matl-db, NIST: one step for cast PMMA.
    "pmma_one_step": (Component(1.0, 2.85e13, 191.0),),
    # FDS validation, FAA polymers (Stoliarov et al. 2010): leaves 21 % char; idle below 420 degC.
    "polycarbonate": (Component(0.79, 1.9e18, 295.0),),
    # FDS validation, FAA polymers: two steps in series, of which 44 % and then 47 % stay. The first
    # is over 100 degC before the second begins, so side by side they are the same.
    "pvc": (Component(0.56, 1.4e33, 367.0), Component(0.44 * 0.53, 3.5e12, 207.0)),
    "inert": (),
}


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """What lies on the balance, in the furnace."""

    mass_g: float = 10.0
    crucible_g: float = 0.0
    material: str = "pmma"
    components: list[dict[str, float]] = field(default_factory=list)
    """Instead of ``material``: tables of ``fraction``, ``a_per_s`` and ``e_kj_per_mol``."""
    furnace: str = "furnace"
    lag_s: float = 10.0
    """How slowly the sample follows the furnace."""
    renew_below_degC: float | None = None
    """Below this, somebody puts in a fresh sample; None: nobody does."""


class Sample:
    """A sample that loses mass by parallel first-order reactions.

    Each step multiplies what is left by ``exp(-k dt)``, which is exact at constant temperature, so
    that the step hardly matters and how often anybody looks does not matter at all.
    """

    def __init__(self, settings: SampleSettings, dt_s: float, furnace: Furnace) -> None:
        self._settings = settings
        self._furnace = furnace
        self._components = _components(settings)
        self._rates = [
            (component.a_per_s, component.e_kj_per_mol * 1000 / GAS_CONSTANT)
            for component in self._components
        ]
        self._left = [1.0] * len(self._components)
        self._mass0_g = settings.mass_g
        self._kelvin = furnace.kelvin
        self._share = _share(dt_s, settings.lag_s)
        self.outputs: Mapping[str, Callable[[], float]] = {
            "mass_g": self._mass_g,
            "loss_fraction": self._loss_fraction,
            "load_g": lambda: self._mass_g() + settings.crucible_g,
            "temperature_degC": lambda: self._kelvin - ZERO_C,
        }
        self.inputs: Mapping[str, Callable[[float], None]] = {"mass_g": self._renew}

    def step(self, dt_s: float) -> None:
        """Advance by one step."""
        self._kelvin += (self._furnace.kelvin - self._kelvin) * self._share
        kelvin = self._kelvin
        for index, (a_per_s, e_over_r) in enumerate(self._rates):
            self._left[index] *= math.exp(-a_per_s * math.exp(-e_over_r / kelvin) * dt_s)
        limit = self._settings.renew_below_degC
        if limit is not None and kelvin - ZERO_C < limit and self._loss_fraction() > 0.01:
            self._renew(self._settings.mass_g)

    def _loss_fraction(self) -> float:
        gone = (
            part.fraction * (1 - left)
            for part, left in zip(self._components, self._left, strict=True)
        )
        return sum(gone)

    def _mass_g(self) -> float:
        return self._mass0_g * (1 - self._loss_fraction())

    def _renew(self, mass_g: float) -> None:
        """Put a fresh sample of this mass in place."""
        self._mass0_g = mass_g
        self._left = [1.0] * len(self._components)


def _components(settings: SampleSettings) -> tuple[Component, ...]:
    if settings.components:
        where = "[twin.sample].components"
        found = tuple(from_table(Component, each, where=where) for each in settings.components)
    elif settings.material in MATERIALS:
        found = MATERIALS[settings.material]
    else:
        raise CapaError(
            f"[twin.sample].material: {settings.material!r} is unknown; "
            f"there are: {', '.join(sorted(MATERIALS))}; or give components"
        )
    if (total := sum(part.fraction for part in found)) > 1:
        raise CapaError(f"[twin.sample]: the fractions add up to {total:g}, more than 1")
    return found


def _share(dt_s: float, lag_s: float) -> float:
    """Return the share of a difference that a first-order lag closes in one step, exactly."""
    return 1.0 if lag_s <= 0 else 1 - math.exp(-dt_s / lag_s)
