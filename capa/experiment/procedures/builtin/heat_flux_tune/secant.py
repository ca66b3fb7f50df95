"""The next setpoint: a damped, clamped secant step, kept sane by the radiative law; pure.

A heater's flux is nearly ``f sigma (T^4 - Ta^4)``. The law gives the first guess, and the slope
where there are not yet two points, or where two points give one that no heater has: from noise,
or because something was moved between them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "Point",
    "StepRules",
    "deaf",
    "factor_of",
    "first_setpoint",
    "flux_at",
    "next_setpoint",
    "setpoint_for",
]

_SIGMA_KW = 5.670374e-11
"""Stefan-Boltzmann constant, kW/m2K4."""
_ZERO_C = 273.15
_CLOSEST_C = 0.5
"""Two setpoints nearer than this give a slope that is mostly noise."""
_PLAUSIBLE = 3.0
"""How many times a secant's slope may differ from the law's."""
_CLEAR_KW_M2 = 3.0
"""A step of the flux that no noise hides."""
_DEAF = 0.05
_LEAST_SLOPE = 1e-4
"""kW/m^2 per degC; a heater near ambient gives less, and a step would be without bound."""


@dataclass(frozen=True, slots=True)
class Point:
    """A setpoint and the steady flux that it gave."""

    setpoint_c: float
    flux_kw_m2: float


@dataclass(frozen=True, slots=True)
class StepRules:
    """What a step must respect."""

    t_min_c: float
    t_max_c: float
    max_step_c: float
    damping: float
    ambient_c: float
    radiative_factor: float
    """Emissivity times view factor, where no point says better."""


def flux_at(setpoint_c: float, factor: float, ambient_c: float) -> float:
    """Return the flux by the radiative law, kW/m^2."""
    hot, cold = setpoint_c + _ZERO_C, ambient_c + _ZERO_C
    return factor * _SIGMA_KW * (hot**4 - cold**4)


def setpoint_for(flux_kw_m2: float, factor: float, ambient_c: float) -> float:
    """Return the temperature that gives a flux by the radiative law, degC."""
    cold = ambient_c + _ZERO_C
    fourth = flux_kw_m2 / (factor * _SIGMA_KW) + cold**4
    return float(max(fourth, 0.0) ** 0.25 - _ZERO_C)


def factor_of(point: Point, rules: StepRules) -> float:
    """Return emissivity times view factor as a point shows it, or the assumed one.

    A point near ambient, or one that no surface gives, says nothing.
    """
    black = flux_at(point.setpoint_c, 1.0, rules.ambient_c)
    if black <= 0.01:
        return rules.radiative_factor
    factor = point.flux_kw_m2 / black
    plausible = rules.radiative_factor / _PLAUSIBLE <= factor <= 1.5
    return factor if plausible else rules.radiative_factor


def first_setpoint(points: Sequence[Point], target_kw_m2: float, rules: StepRules) -> float:
    """Guess by the radiative law, through the point whose flux is nearest; within the bounds."""
    factor = rules.radiative_factor
    if points:
        nearest = min(points, key=lambda point: abs(point.flux_kw_m2 - target_kw_m2))
        factor = factor_of(nearest, rules)
    return _clamp(setpoint_for(target_kw_m2, factor, rules.ambient_c), rules)


def next_setpoint(points: Sequence[Point], target_kw_m2: float, rules: StepRules) -> float:
    """Return the setpoint to try after ``points``, oldest first; within bounds and largest step.

    Raises:
        ValueError: no points, or a number that is not finite.
    """
    if not points:
        raise ValueError("a step needs a point to start from")
    last = points[-1]
    step_c = rules.damping * (target_kw_m2 - last.flux_kw_m2) / _slope(points, rules)
    if not math.isfinite(step_c):
        raise ValueError(f"no step from {last} to {target_kw_m2} kW/m^2")
    step_c = min(max(step_c, -rules.max_step_c), rules.max_step_c)
    return _clamp(last.setpoint_c + step_c, rules)


def deaf(points: Sequence[Point], rules: StepRules) -> bool:
    """Whether the flux has not answered a good step of the setpoint: a shutter, a dead gauge."""
    if len(points) < 2:
        return False
    before, last = points[-2:]
    factor = rules.radiative_factor
    expected = flux_at(last.setpoint_c, factor, rules.ambient_c)
    expected -= flux_at(before.setpoint_c, factor, rules.ambient_c)
    seen = last.flux_kw_m2 - before.flux_kw_m2
    return abs(expected) >= _CLEAR_KW_M2 and seen / expected < _DEAF


def _slope(points: Sequence[Point], rules: StepRules) -> float:
    """Return d flux / d setpoint: the secant's where it is plausible, else the law's."""
    last = points[-1]
    hot = max(last.setpoint_c, rules.t_min_c) + _ZERO_C
    law = max(4 * factor_of(last, rules) * _SIGMA_KW * hot**3, _LEAST_SLOPE)
    for other in reversed(points[:-1]):
        apart_c = last.setpoint_c - other.setpoint_c
        if abs(apart_c) >= _CLOSEST_C:
            secant = (last.flux_kw_m2 - other.flux_kw_m2) / apart_c
            return secant if law / _PLAUSIBLE <= secant <= law * _PLAUSIBLE else law
    return law


def _clamp(setpoint_c: float, rules: StepRules) -> float:
    return min(max(setpoint_c, rules.t_min_c), rules.t_max_c)
