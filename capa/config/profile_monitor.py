"""Do the ``[safety]`` tables of a profile name channels that exist and fit together."""

from collections.abc import Iterator
from contextlib import suppress

from pydantic import ValidationError

from capa.config.draft import Draft
from capa.config.explain import did_you_mean, shown
from capa.config.locate import Path
from capa.config.problems import Problem
from capa.config.safety import SafetySpec, ThermalWatch

__all__ = ["monitor_problems"]


def monitor_problems(draft: Draft) -> list[Problem]:
    """Return what is wrong with the rules of the safety monitor; nothing if they do not parse."""
    table = draft.source.data.get("safety")
    if table is None:
        return []
    spec = None
    with suppress(ValidationError):  # explained with the profile as a whole
        spec = SafetySpec.model_validate(table)
    return [] if spec is None else list(_problems(draft, spec))


def _problems(draft: Draft, spec: SafetySpec) -> Iterator[Problem]:
    for table, names in (("stale", spec.stale.channels), ("sensor", spec.sensor.channels)):
        for name in names:
            yield from _exists(draft, ("safety", table, "channels", name), name)
    yield from _no_age(draft, spec)
    for number, rate in enumerate(spec.rate):
        yield from _exists(draft, ("safety", "rate", number, "channel"), rate.channel)
    for number, output in enumerate(spec.output):
        path = ("safety", "output", number, "channel")
        yield from _exists(draft, path, output.channel)
        yield from _commandable(draft, path, output.channel)
    for number, thermal in enumerate(spec.thermal):
        yield from _thermal(draft, ("safety", "thermal", number), thermal)


def _exists(draft: Draft, path: Path, name: str) -> Iterator[Problem]:
    known = draft.names("channels")
    if name not in known:
        message = f"no channel is called {shown(name)}"
        yield draft.problem("unknown_channel", path, message, did_you_mean(name, known))


def _commandable(draft: Draft, path: Path, name: str) -> Iterator[Problem]:
    channel = draft.channel(name)
    if channel is not None and not channel.commandable:
        message = f"channel {shown(name)} can't be commanded"
        yield draft.problem("not_commandable", path, message, "it has no command to compare with")


def _no_age(draft: Draft, spec: SafetySpec) -> Iterator[Problem]:
    for name in spec.stale.channels:
        channel = draft.channel(name)
        if channel is not None and channel.stale_after_s is None:
            message = f"channel {shown(name)} never goes stale: it has no stale_after_s"
            path = ("safety", "stale", "channels", name)
            yield draft.problem("no_stale_after", path, message, "give the channel a stale_after_s")


def _thermal(draft: Draft, path: Path, thermal: ThermalWatch) -> Iterator[Problem]:
    roles = {"setpoint": thermal.setpoint, "pv": thermal.pv, "power": thermal.power}
    named = {role: name for role, name in roles.items() if name is not None}
    for role, name in named.items():
        yield from _exists(draft, (*path, role), name)
    yield from _commandable(draft, (*path, "setpoint"), thermal.setpoint)
    setpoint, pv = draft.channel(thermal.setpoint), draft.channel(thermal.pv)
    if setpoint is not None and pv is not None and setpoint.unit != pv.unit:
        message = f"{shown(pv.name)} is in {pv.unit}, its setpoint in {setpoint.unit}"
        yield draft.problem("unit", (*path, "pv"), message, "the two are compared: use one unit")
    power = draft.channel(thermal.power) if thermal.power is not None else None
    if power is not None and power.kind != "power":
        message = f"channel {shown(power.name)} is of kind {power.kind}, not power"
        yield draft.problem("kind", (*path, "power"), message, "name the channel of the heat power")
