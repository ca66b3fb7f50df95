"""Method against rig, before anything heats: every name resolves, every value is allowed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from capa.channels.spec import ChannelSpec, Limits
from capa.config.explain import did_you_mean, shown, where_of
from capa.config.hardware import HardwareProfile
from capa.config.locate import Path, toml_lines
from capa.config.problems import Problem
from capa.config.profile_safety import limit_breach
from capa.config.reading import Source
from capa.config.shapes import child
from capa.experiment.method import (
    STEP_MODELS,
    CustomStep,
    EndCondition,
    HoldStep,
    Method,
    RampStep,
    SafeShutdownStep,
    SetpointStep,
    Step,
    WaitStep,
)

__all__ = ["check_method", "check_readable_steps"]

_RATE_WINDOW_S = 10.0
"""The gate judges a rate over this long, so a jump counts as a ramp of this length."""
_SLACK = 1 + 1e-9


def check_method(
    method: Method,
    profile: HardwareProfile,
    *,
    handlers: frozenset[str] | None = None,
    file: str | None = None,
    text: str | None = None,
    lines: Mapping[Path, int] | None = None,
) -> list[Problem]:
    """Return what stands between a method and a rig; an empty list if nothing does.

    ``handlers`` are the custom steps that the procedure knows; None where that can't be told, and
    then each custom step gives a note. With the method's ``text``, or the ``lines`` of its keys,
    the problems have lines. A
    missing cool target is only a warning (``blocking=False``): a cool-down does what it can.
    """
    if lines is None:
        lines = toml_lines(text) if text is not None else {}
    source = Source(file, method.model_dump(), lines)
    check = _Check(source, {c.name: c for c in profile.channels}, _starts(profile))
    check.alarms = frozenset(alarm.id for c in profile.channels for alarm in c.alarms)
    found: list[Problem] = []
    for index, step in enumerate(method.steps):
        found.extend(check.step(index, step))
        found.extend(check.overrides(index, step))
        if isinstance(step, CustomStep):
            found.extend(check.handler(index, step, handlers))
    return found


def check_readable_steps(source: Source, profile: HardwareProfile) -> list[Problem]:
    """Return what a rig has against the good steps of a method that is no method for others.

    ``source`` holds the method's tables. What a step that can't be read leaves its output at is
    not known, so the rate of what follows it is not judged; the target that it names is looked up.
    """
    check = _Check(source, {c.name: c for c in profile.channels}, _starts(profile))
    check.alarms = frozenset(alarm.id for c in profile.channels for alarm in c.alarms)
    steps = source.data.get("steps")
    found: list[Problem] = []
    for index, table in enumerate(steps if isinstance(steps, list) else []):
        step = _readable(table)
        if step is None:
            found.extend(check.unreadable(index, table))
        else:
            found.extend(check.step(index, step))
            found.extend(check.overrides(index, step))
    return found


def _readable(table: object) -> Step | None:
    kind = child(table, "kind")
    model = STEP_MODELS.get(kind) if isinstance(kind, str) else None
    try:
        return model.model_validate(table) if model is not None else None  # type: ignore[return-value]  # every model of the table is one of Step's
    except ValidationError:
        return None


def _starts(profile: HardwareProfile) -> dict[str, float]:
    """Return where a run begins: every run starts from the first stage of the safe state."""
    return dict(profile.safe_state[0].set) if profile.safe_state else {}


@dataclass(slots=True)
class _Check:
    """One walk over a method; ``known`` is what each output will be when a step begins."""

    source: Source
    channels: dict[str, ChannelSpec]
    known: dict[str, float]
    alarms: frozenset[str] = frozenset()
    safe: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.safe = dict(self.known)

    def step(self, index: int, step: Step) -> Iterator[Problem]:
        """Check what a step commands and what it waits for."""
        path: Path = ("steps", index)
        match step:
            case HoldStep() | SetpointStep():
                yield from self._jump((*path, "value"), step.target.name, step.value, path)
            case RampStep():
                yield from self._ramp(path, step)
            case SafeShutdownStep():
                for name, value in step.cool_target.items():
                    yield from self._cool(path, name, value)
            case CustomStep():
                self.known.clear()  # a handler may command anything
            case _:
                pass
        if isinstance(step, HoldStep | WaitStep) and step.end_condition is not None:
            yield from self._condition((*path, "end_condition"), step.end_condition)

    def unreadable(self, index: int, table: object) -> Iterator[Problem]:
        """Check the names that a step gives whose other fields are wrong."""
        self.known.clear()
        target = child(child(table, "target"), "name")
        if isinstance(target, str) and target:
            yield from self._target(("steps", index, "target", "name"), target)
        watched = child(child(table, "end_condition"), "channel")
        if isinstance(watched, str) and watched and watched not in self.channels:
            yield self._unknown(("steps", index, "end_condition", "channel"), watched)

    def handler(
        self, index: int, step: CustomStep, handlers: frozenset[str] | None
    ) -> Iterator[Problem]:
        """Check that the procedure has a handler for a custom step."""
        path = ("steps", index, "handler_id")
        name = shown(step.handler_id)
        if handlers is None:
            message = f"whether a handler {name} exists is known only with the procedure"
            hint = "a procedure that names it in `custom_handler_ids` has it checked"
            yield self._problem("handler_unchecked", path, message, hint, blocking=False)
        elif step.handler_id not in handlers:
            message = f"the procedure has no handler {name}"
            hint = did_you_mean(step.handler_id, sorted(handlers))
            yield self._problem("unknown_handler", path, message, hint)

    def overrides(self, index: int, step: Step) -> Iterator[Problem]:
        """Check that every alarm override names an alarm of the rig."""
        for number, override in enumerate(step.safety_overrides):
            path = ("steps", index, "safety_overrides", number)
            if override.alarm_id not in self.alarms:
                message = f"no alarm is called {shown(override.alarm_id)}"
                hint = did_you_mean(override.alarm_id, sorted(self.alarms))
                yield self._problem("unknown_alarm", (*path, "alarm_id"), message, hint)
            if override.threshold is None and not override.disable:
                message = "changes nothing: neither threshold nor disable is given"
                yield self._problem("empty_override", path, message, blocking=False)

    def _problem(
        self, code: str, path: Path, message: str, hint: str | None = None, *, blocking: bool = True
    ) -> Problem:
        where = where_of(path, self.source.data)
        code = f"method.{code}"
        return self.source.problem(code, path, message, hint=hint, where=where, blocking=blocking)

    def _target(self, path: Path, name: str) -> Iterator[Problem]:
        channel = self.channels.get(name)
        if channel is None:
            yield self._unknown(path, name)
        elif not channel.commandable:
            commandable = [c.name for c in self.channels.values() if c.commandable]
            hint = did_you_mean(name, commandable, otherwise="these can be")
            message = f"channel {shown(name)} can't be commanded"
            yield self._problem("not_commandable", path, message, hint)

    def _unknown(self, path: Path, name: str, *, blocking: bool = True) -> Problem:
        message = f"no channel is called {shown(name)}"
        hint = did_you_mean(name, self.channels)
        return self._problem("unknown_channel", path, message, hint, blocking=blocking)

    def _value(self, path: Path, name: str, value: float) -> Iterator[Problem]:
        channel = self.channels.get(name)
        if channel is not None and (breach := limit_breach(channel, value)):
            yield self._problem("limit", path, breach, "stay within the profile's limits")

    def _jump(self, path: Path, name: str, value: float, step: Path) -> Iterator[Problem]:
        yield from self._target((*step, "target", "name"), name)
        yield from self._value(path, name, value)
        yield from self._steep(path, name, value, duration_s=0.0)
        self.known[name] = value

    def _ramp(self, path: Path, step: RampStep) -> Iterator[Problem]:
        name = step.target.name
        yield from self._target((*path, "target", "name"), name)
        if step.start_value is not None:
            yield from self._value((*path, "start_value"), name, step.start_value)
            yield from self._steep((*path, "start_value"), name, step.start_value, duration_s=0.0)
            self.known[name] = step.start_value
        yield from self._value((*path, "end_value"), name, step.end_value)
        if step.duration_s is not None:
            where = (*path, "duration_s")
            yield from self._steep(where, name, step.end_value, duration_s=step.duration_s)
        elif step.rate_per_second is not None:
            yield from self._rate((*path, "rate_per_second"), name, step)
        self.known[name] = step.end_value

    def _rate(self, path: Path, name: str, step: RampStep) -> Iterator[Problem]:
        rate = step.rate_per_second or 0.0
        if rate == 0:
            message = "a ramp with a rate of 0 never ends"
            yield self._problem("zero_rate", path, message, "give a rate, or a duration_s")
            return
        start = self.known.get(name)
        if start is not None:
            duration_s = abs(step.end_value - start) / abs(rate)
            yield from self._steep(path, name, step.end_value, duration_s=duration_s)
        elif (limits := self._rated(name)) and abs(rate) > (limits.max_rate_per_s or 0) * _SLACK:
            yield self._too_fast(path, name, abs(rate), limits)

    def _steep(
        self, path: Path, name: str, value: float, *, duration_s: float
    ) -> Iterator[Problem]:
        """Judge a change as the gate will; going to the safe value is always allowed."""
        limits, start = self._rated(name), self.known.get(name)
        if limits is None or start is None or value == self.safe.get(name):
            return
        rate = abs(value - start) / max(duration_s, _RATE_WINDOW_S)
        if rate > (limits.max_rate_per_s or 0) * _SLACK:
            yield self._too_fast(path, name, rate, limits)

    def _rated(self, name: str) -> Limits | None:
        """Return the limits of a channel that has a rate limit."""
        channel = self.channels.get(name)
        limits = channel.limits if channel is not None else None
        return limits if limits is not None and limits.max_rate_per_s is not None else None

    def _too_fast(self, path: Path, name: str, rate: float, limits: Limits) -> Problem:
        unit = self.channels[name].unit
        message = (
            f"a change of {rate:g} {unit}/s is above max_rate_per_s = {limits.max_rate_per_s:g} "
            f"of {name}, which counts over any {_RATE_WINDOW_S:g} s"
        )
        return self._problem("rate", path, message, "use a slower ramp")

    def _cool(self, path: Path, name: str, value: float) -> Iterator[Problem]:
        where = (*path, "cool_target", name)
        if name not in self.channels:
            yield self._unknown(where, name, blocking=False)
            return
        yield from self._target(where, name)
        yield from self._value(where, name, value)
        yield from self._steep(where, name, value, duration_s=0.0)
        self.known[name] = value

    def _condition(self, path: Path, condition: EndCondition) -> Iterator[Problem]:
        channel = self.channels.get(condition.channel)
        if channel is None:
            yield self._unknown((*path, "channel"), condition.channel)
        elif condition.op == "==" and channel.kind != "flag":
            message = f"{shown(condition.channel)} is measured and may never equal a value exactly"
            hint = "use >= or <= with some slack"
            yield self._problem("equality", (*path, "op"), message, hint, blocking=False)
