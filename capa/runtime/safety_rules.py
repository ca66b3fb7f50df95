"""The safety monitor's rules, as pure state over samples and time; nothing here waits or acts.

A rule says in words what is violated just now. A ``Tracker`` adds what all have in common:
how long it has been so (debounce), and whether that has been raised. ``NaN`` and error samples
never end a violation: they are no evidence that a value is good again.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from capa.channels.sample import Sample, Status
from capa.channels.spec import Action, AlarmSpec, ChannelSpec, Op
from capa.experiment.method import AlarmOverride

__all__ = [
    "BandRule",
    "Change",
    "Doubtful",
    "OutputRule",
    "Rule",
    "SensorRule",
    "StaleRule",
    "Tracker",
]

_COMPARE: Mapping[Op, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
_SILENT = frozenset({Status.COMM_ERROR, Status.STALE})
_UNKNOWN_AFTER_S = 10.0
"""A value older than this says nothing about whether an alarm still holds."""

Commanded = Callable[[str], Sequence[tuple[float, float]]]
"""Tells of a channel which values it may have been told, and until when each was in force."""


@dataclass(frozen=True, slots=True)
class Change:
    """A rule that was raised or cleared; ``words`` say what was seen, against what."""

    kind: Literal["raised", "cleared"]
    rule: str
    action: Action
    channel: str
    words: str


class Rule(Protocol):
    """One thing that is watched.

    ``by_time`` rules are looked at by the tick only, the others at each of their samples too.
    """

    name: str
    action: Action
    channels: tuple[str, ...]
    debounce_s: float
    by_time: bool

    def feed(self, sample: Sample) -> None:
        """Take notice of a sample of one of ``channels``."""
        ...

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say what is violated now; empty when nothing is."""
        ...


@runtime_checkable
class Doubtful(Protocol):
    """A rule that can say that it does not know: then what it tripped for is not cleared."""

    def unknown(self, now_s: float) -> str:
        """Say why nobody knows; empty when the rule does."""
        ...


class Tracker:
    """Follows one rule: since when it is violated, and whether that has been raised."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.raised = ""
        self._since_s: float | None = None

    def feed(self, sample: Sample) -> bool:
        """Take a sample; True when it is worth a look at once."""
        rule = self.rule
        rule.feed(sample)
        if rule.by_time:
            return False
        words = rule.breach(sample.at_s, raised=bool(self.raised))
        self._note(words, sample.at_s)
        due = words and sample.at_s - (self._since_s or 0.0) >= rule.debounce_s
        return bool(due) != bool(self.raised)

    def look(self, now_s: float) -> Change | None:
        """Return what has changed; a violation is raised once it has lasted ``debounce_s``."""
        words = self.rule.breach(now_s, raised=bool(self.raised))
        self._note(words, now_s)
        if words and self.raised:
            self.raised = words
        elif words and self._since_s is not None and self._lasted(now_s, self._since_s):
            self.raised = words
            return self._change("raised", words)
        elif not words and self.raised:
            was, self.raised = self.raised, ""
            return self._change("cleared", f"no longer: {was}")
        return None

    def holds(self, now_s: float) -> str:
        """Say what is violated now, raised or not; empty when nothing is."""
        return self.rule.breach(now_s, raised=bool(self.raised))

    def _lasted(self, now_s: float, since_s: float) -> bool:
        return now_s - since_s >= self.rule.debounce_s

    def _note(self, words: str, at_s: float) -> None:
        if not words:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = at_s

    def _change(self, kind: Literal["raised", "cleared"], words: str) -> Change:
        rule = self.rule
        return Change(kind, rule.name, rule.action, rule.channels[0], words)


class BandRule:
    """An alarm band of a channel, with hysteresis, and what steps override of it."""

    by_time = False

    def __init__(self, channel: ChannelSpec, alarm: AlarmSpec) -> None:
        self.id = alarm.id
        self.name = f"alarm {alarm.id}"
        self.action: Action = alarm.action
        self.channels: tuple[str, ...] = (channel.name,)
        self.debounce_s: float = alarm.debounce_s
        self._spec = alarm
        self._unit = channel.unit
        self._last: Sample | None = None
        self._overrides: list[AlarmOverride] = []

    @property
    def threshold(self) -> float:
        """The threshold in force."""
        given = (o.threshold for o in reversed(self._overrides) if o.threshold is not None)
        return next(given, self._spec.threshold)

    @property
    def disabled(self) -> bool:
        """Whether a step has it switched off."""
        return any(override.disable for override in self._overrides)

    def override(self, override: AlarmOverride) -> None:
        """Put an override in force over those that are."""
        self._overrides.append(override)

    def restore(self, override: AlarmOverride) -> None:
        """Take that very override out of force again."""
        kept = [each for each in self._overrides if each is not override]
        self._overrides = kept

    def feed(self, sample: Sample) -> None:
        """Keep the newest value that is one."""
        if sample.usable:
            self._last = sample

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say that the value lies beyond the threshold; once raised, less the hysteresis."""
        del now_s
        last = self._last
        if last is None or self.disabled or not self._beyond(last.value, raised=raised):
            return ""
        words = f"{last.channel} = {self._told(last.value)}: alarm at {self._limit}"
        if raised and (hysteresis := self._spec.hysteresis):
            words += f", over when {self._told(hysteresis)} short of that"
        return words

    def unknown(self, now_s: float) -> str:
        """Say that nobody knows how the channel stands; empty when its value is fresh."""
        last = self._last
        if last is not None and now_s - last.at_s <= _UNKNOWN_AFTER_S:
            return ""
        since = "since start-up" if last is None else f"for {now_s - last.at_s:.0f} s"
        return f"{self.channels[0]} has had no usable reading {since}: alarm at {self._limit}"

    @property
    def _limit(self) -> str:
        return f"{self._spec.op} {self._told(self.threshold)}"

    def _told(self, value: float) -> str:
        return f"{value:g} {self._unit}".rstrip()

    def _beyond(self, value: float, *, raised: bool) -> bool:
        op, threshold, slack = self._spec.op, self.threshold, self._spec.hysteresis
        if not raised or not slack:
            return _COMPARE[op](value, threshold)
        if op in (">", ">="):
            return _COMPARE[op](value, threshold - slack)
        if op in ("<", "<="):
            return _COMPARE[op](value, threshold + slack)
        return abs(value - threshold) <= slack


def _not_heard(channel: str, device: str) -> str:
    return f"{channel}: nothing heard since start-up; check {device}"


class StaleRule:
    """A channel that brings nothing: neither a value nor an error of its sensor."""

    debounce_s = 0.0
    by_time = True

    def __init__(
        self,
        channel: str,
        *,
        after_s: float,
        action: Action,
        device: str,
        started_s: float,
        trouble: Callable[[str], str] = lambda _device: "",
    ) -> None:
        self.name = f"stale {channel}"
        self._trouble = trouble
        self.action: Action = action
        self.channels: tuple[str, ...] = (channel,)
        self._after_s = after_s
        self._device = device
        self._heard_s = started_s
        self._heard = False

    def feed(self, sample: Sample) -> None:
        """Take a sign of life; a report that the device did not answer is none."""
        if sample.status not in _SILENT:
            self._heard = True
            self._heard_s = max(self._heard_s, sample.at_s)

    def unknown(self, now_s: float) -> str:
        """Say that nothing has been heard yet; empty once something was."""
        del now_s
        return "" if self._heard else _not_heard(self.channels[0], self._device)

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say for how long it has been silent."""
        del raised
        age_s = now_s - self._heard_s
        if age_s <= self._after_s:
            return ""
        why = self._trouble(self._device)
        return (
            f"{self.channels[0]}: nothing heard for {age_s:.1f} s (stale_after_s = "
            f"{self._after_s:g}); check {self._device}{f': {why}' if why else ''}"
        )


class SensorRule:
    """A channel whose device answers, but with no measurement: NaN or an error code."""

    by_time = False

    def __init__(self, channel: str, *, action: Action, debounce_s: float, device: str) -> None:
        self.name = f"sensor {channel}"
        self.action: Action = action
        self.channels: tuple[str, ...] = (channel,)
        self.debounce_s = debounce_s
        self._device = device
        self._fault = ""
        self._heard = False

    def feed(self, sample: Sample) -> None:
        """Judge a sample; silence is another rule's, and says nothing about the sensor."""
        if sample.status in _SILENT:
            return
        self._heard = True
        said = "NaN" if sample.status.usable else str(sample.status)
        self._fault = "" if sample.usable else said

    def unknown(self, now_s: float) -> str:
        """Say that nothing has been heard yet; empty once something was."""
        del now_s
        return "" if self._heard else _not_heard(self.channels[0], self._device)

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say what the device says instead of a value."""
        del now_s, raised
        if not self._fault:
            return ""
        return f"{self.channels[0]}: {self._device} says {self._fault}, not a value; check sensor"


class OutputRule:
    """An output that reads otherwise than it was commanded, for longer than it takes to settle."""

    by_time = True

    def __init__(
        self,
        channel: ChannelSpec,
        *,
        tolerance: float,
        settle_s: float,
        action: Action,
        commanded: Commanded,
    ) -> None:
        self.name = f"output {channel.name}"
        self.action: Action = action
        self.channels: tuple[str, ...] = (channel.name,)
        self.debounce_s = 0.0
        self._tolerance = tolerance
        self._settle_s = settle_s
        self._unit = channel.unit
        self._commanded = commanded
        self._off_since_s: float | None = None
        self._words = ""

    def feed(self, sample: Sample) -> None:
        """Compare with what was in force while the output could still be settling."""
        if not sample.usable:
            return
        values = self._in_force(sample.at_s)
        slack = self._tolerance
        if not values or min(values) - slack <= sample.value <= max(values) + slack:
            self._off_since_s, self._words = None, ""
            return
        if self._off_since_s is None:
            self._off_since_s = sample.at_s
        self._words = (
            f"{sample.channel} reads {sample.value:g} {self._unit}, commanded was "
            f"{self._told()} (within {slack:g}); was it changed at the instrument?"
        )

    def breach(self, now_s: float, *, raised: bool) -> str:
        """Say what it reads and what it should."""
        off_s = self._off_since_s
        if off_s is None or (not raised and now_s - off_s < self._settle_s):
            return ""
        return self._words

    def _in_force(self, at_s: float) -> list[float]:
        """Return what was commanded, and what was still in force ``settle_s`` ago."""
        commands = self._commanded(self.channels[0])
        return [value for value, until_s in commands if until_s >= at_s - self._settle_s]

    def _told(self) -> str:
        in_force = [v for v, until_s in self._commanded(self.channels[0]) if until_s == math.inf]
        return " or, not for certain, ".join(f"{value:g}" for value in in_force)
