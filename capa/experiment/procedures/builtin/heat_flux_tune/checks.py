"""What stands against arming a tune: its channels, their units and limits, physics."""

import math
from collections.abc import Iterator

from capa.channels.registry import ChannelRegistry, ResolvedChannel, UnknownChannelError
from capa.channels.spec import ChannelKind
from capa.experiment.procedures.base import Problem, ProcedureContext
from capa.experiment.procedures.builtin.heat_flux_tune.config import HeatFluxTuneConfig
from capa.experiment.procedures.builtin.heat_flux_tune.secant import flux_at

__all__ = ["FLUX_UNIT", "check"]

FLUX_UNIT = "kW/m^2"
_FLUX_UNITS = {"kW/m^2", "kW/m2", "kW/m**2"}
_AREA = "heat_flux_tune"
_RATE_SHARE = 0.9
"""The gate counts the change over 10 s, and this tune's ramp moves once a second."""
_BEYOND_BLACK = 1.1
"""Convection may add a little to what even a black heater all around the gauge would give."""


def check(config: HeatFluxTuneConfig, ctx: ProcedureContext) -> list[Problem]:
    """Return all problems; nothing is read from the rig."""
    problems = [*_method(ctx), *_names(config, ctx.instruments)]
    if problems:
        return problems
    return [*_channels(config, ctx.instruments), *_limits(config, ctx.instruments), *_reach(config)]


def _problem(code: str, message: str, hint: str, *, blocking: bool = True) -> Problem:
    return Problem(code=f"{_AREA}.{code}", message=message, hint=hint, blocking=blocking)


def _method(ctx: ProcedureContext) -> Iterator[Problem]:
    if ctx.config.method is not None:
        message = f"a tune walks no method, but the experiment has {ctx.config.method.name!r}"
        hint = "take the method out, or use capa.builtin.recipe_runner"
        yield _problem("has_method", message, hint)


def _names(config: HeatFluxTuneConfig, instruments: ChannelRegistry) -> Iterator[Problem]:
    used = {
        "heater_channel": config.heater_channel,
        "heater_pv_channel": config.heater_pv_channel,
        "flux_channel": config.flux_channel,
        **{f"record_channels {name!r}": name for name in config.record_channels},
    }
    for key, name in used.items():
        try:
            instruments.resolve(name)
        except UnknownChannelError as error:
            hint = "there are: " + ", ".join(instruments.names)
            yield _problem("channel_unknown", f"{key}: {error}", hint)
    if config.heater_channel == config.heater_pv_channel:
        message = f"heater_channel and heater_pv_channel are both {config.heater_channel}"
        hint = "name the channel that measures the heater's temperature"
        yield _problem("same_channel", message, hint)


def _channels(config: HeatFluxTuneConfig, instruments: ChannelRegistry) -> Iterator[Problem]:
    heater = instruments.resolve(config.heater_channel)
    flux = instruments.resolve(config.flux_channel)
    pv = instruments.resolve(config.heater_pv_channel)
    yield from _kind("heater_channel", heater, "temperature", {"degC"})
    yield from _kind("heater_pv_channel", pv, "temperature", {"degC"})
    yield from _kind("flux_channel", flux, "heat_flux", _FLUX_UNITS)
    if not heater.spec.commandable:
        message = f"heater_channel: {heater.name} can't be commanded"
        yield _problem("not_commandable", message, "name the channel of the heater's setpoint")


def _kind(
    key: str, channel: ResolvedChannel, kind: ChannelKind, units: set[str]
) -> Iterator[Problem]:
    spec = channel.spec
    if spec.kind != kind:
        message = f"{key}: {channel.name} is a channel of kind {spec.kind}, not {kind}"
        yield _problem("wrong_kind", message, f"name one of kind {kind}")
    elif spec.unit not in units:
        message = f"{key}: {channel.name} is in {spec.unit}; a tune reckons in {min(units)}"
        yield _problem("wrong_unit", message, "give the channel that unit in the profile")


def _limits(config: HeatFluxTuneConfig, instruments: ChannelRegistry) -> Iterator[Problem]:
    channel = instruments.resolve(config.heater_channel)
    limits = channel.spec.limits
    if limits is None:
        return
    wanted = {"t_set_min_c": config.t_set_min_c, "t_set_max_c": config.t_set_max_c}
    if config.end_setpoint_c is not None:
        wanted["end_setpoint_c"] = config.end_setpoint_c
    for key, value in wanted.items():
        if not limits.min <= value <= limits.max:
            message = (
                f"{key} = {value:g} is outside the limits of {channel.name}, "
                f"{limits.min:g} to {limits.max:g} degC"
            )
            yield _problem("outside_limits", message, "the profile's limits are the rig's")
    yield from _rate(config, channel.name, limits.max_rate_per_s)


def _rate(config: HeatFluxTuneConfig, name: str, most_per_s: float | None) -> Iterator[Problem]:
    if most_per_s is None:
        return
    most_per_min = math.floor(60 * _RATE_SHARE * most_per_s)
    if config.ramp_c_per_min is None or config.ramp_c_per_min > most_per_min:
        message = f"{name} may not change by more than {most_per_s:g} degC per s: jumps are refused"
        yield _problem("too_fast", message, f"give ramp_c_per_min = {most_per_min} or less")


def _reach(config: HeatFluxTuneConfig) -> Iterator[Problem]:
    most = _BEYOND_BLACK * flux_at(config.t_set_max_c, 1.0, config.ambient_c)
    for target in config.targets_kw_m2:
        if target > most:
            message = (
                f"{target:g} {FLUX_UNIT} is more than a black heater at t_set_max_c = "
                f"{config.t_set_max_c:g} degC can give ({most:.1f})"
            )
            yield _problem("out_of_reach", message, "lower the target or raise t_set_max_c")
