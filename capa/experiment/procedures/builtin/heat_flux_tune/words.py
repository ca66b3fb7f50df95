"""How a target's end is told to people, and its facts to the bundle."""

from collections.abc import Sequence
from typing import Any

from capa.experiment.procedures.builtin.heat_flux_tune.artifact import TargetResult
from capa.experiment.procedures.builtin.heat_flux_tune.config import HeatFluxTuneConfig
from capa.experiment.procedures.builtin.heat_flux_tune.secant import Point

__all__ = [
    "at_bound",
    "deaf_gauge",
    "facts",
    "out_of_iterations",
    "out_of_session",
    "status",
    "unsettled",
]


def at_bound(result: TargetResult) -> str:
    """Say that the tune's own bounds are in the way."""
    return (
        f"{result.setpoint_c or 0.0:.1f} degC, a bound of this tune, gives "
        f"{result.flux_kw_m2 or 0.0:.2f} kW/m^2; widen t_set_min_c or t_set_max_c, or move the "
        "gauge"
    )


def out_of_iterations(result: TargetResult, config: HeatFluxTuneConfig) -> str:
    """Say how near the last setpoint came."""
    return (
        f"no setpoint within {config.tolerance(result.target_kw_m2):g} kW/m^2 after "
        f"{result.iterations} iterations; the last, {result.setpoint_c or 0.0:.1f} degC, gives "
        f"{result.flux_kw_m2 or 0.0:.2f}"
    )


def out_of_session(result: TargetResult, config: HeatFluxTuneConfig) -> str:
    """Say that the time for all targets together is over."""
    return (
        f"the session's budget of {config.session_budget_s:g} s ran out in iteration "
        f"{result.iterations}"
    )


def unsettled(result: TargetResult, config: HeatFluxTuneConfig, why: str) -> str:
    """Say what stood against calling it steady, to the last."""
    return (
        f"not steady within {config.settle_budget_s:g} s at {result.setpoint_c or 0.0:.1f} degC "
        f"in iteration {result.iterations}: {why}"
    )


def deaf_gauge(points: Sequence[Point], config: HeatFluxTuneConfig) -> str:
    """Say that the flux has not followed the heater between the last two points."""
    before, last = points[-2:]
    return (
        f"{config.flux_channel} went from {before.flux_kw_m2:.1f} to {last.flux_kw_m2:.1f} kW/m^2 "
        f"when the setpoint went from {before.setpoint_c:.0f} to {last.setpoint_c:.0f} degC: the "
        "gauge does not see the heater; check shutter, cooling water and gauge"
    )


def status(results: Sequence[TargetResult], current: TargetResult | None, state: str) -> str:
    """Return a line for the operator: ``target 2/3, 35 kW/m^2, iteration 1, settling``."""
    done = sum(result.reached for result in results)
    if current is None:
        return f"{done} of {len(results)} targets reached, {state}"
    number = 1 + next(index for index, one in enumerate(results) if one is current)
    return (
        f"target {number}/{len(results)}, {current.target_kw_m2:g} kW/m^2, "
        f"iteration {current.iterations}, {state}"
    )


def facts(result: TargetResult) -> dict[str, Any]:
    """Return a target's numbers for an event's metadata."""
    table = result.table()
    table.pop("ended_utc", None)
    return table
