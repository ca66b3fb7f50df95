"""All rules of a rig: made from its profile, fed with its samples, overridden by its steps."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from capa.channels.registry import Binding, ChannelRegistry
from capa.channels.sample import Sample
from capa.channels.spec import Action, AlarmSpec, ChannelSpec, Op
from capa.config.hardware import HardwareProfile
from capa.config.safety import ActionOrOff, OutputWatch
from capa.experiment.method import AlarmOverride
from capa.runtime.safety_physics import NoRiseRule, RateRule, UnaskedPowerRule, UnaskedRiseRule
from capa.runtime.safety_rules import (
    BandRule,
    Change,
    Commanded,
    Doubtful,
    OutputRule,
    Rule,
    SensorRule,
    StaleRule,
    Tracker,
)

__all__ = ["RECORDER_LAG", "RUNS_FREE", "SPOOL_FREE", "RuleBook"]

RUNS_FREE, SPOOL_FREE, RECORDER_LAG = "runs disk free", "spool disk free", "recorder lag"
"""What the monitor measures itself, and feeds like a channel; no profile's channel has a space."""

_OF_THE_BOX = frozenset({RUNS_FREE, SPOOL_FREE, RECORDER_LAG})
_HYSTERESIS_SHARE = 0.1


class RuleBook:
    """The rules of one rig; pure but for the time it is told.

    Args:
        rules: what is watched.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._trackers = [Tracker(rule) for rule in rules]
        bands = [rule for rule in rules if isinstance(rule, BandRule)]
        self._bands = {band.id: band for band in bands if band.channels[0] not in _OF_THE_BOX}
        fed: defaultdict[str, list[Tracker]] = defaultdict(list)
        for tracker in self._trackers:
            for channel in tracker.rule.channels:
                fed[channel].append(tracker)
        self._fed: Mapping[str, list[Tracker]] = dict(fed)

    @classmethod
    def of(
        cls,
        profile: HardwareProfile,
        registry: ChannelRegistry,
        *,
        commanded: Commanded,
        now_s: float,
        trouble: Callable[[str], str] = lambda _device: "",
    ) -> "RuleBook":
        """Make the rules of a profile.

        Args:
            profile: the profile.
            registry: its channels.
            commanded: tells what each output was told.
            now_s: the clock.
            trouble: tells what is the matter with a device; empty if nothing is known.
        """
        return cls(list(_rules(profile, registry, commanded, now_s, trouble)))

    def feed(self, samples: Sequence[Sample]) -> bool:
        """Take samples; True when they call for a ``look`` at once. Neither blocks nor raises."""
        urgent = False
        for sample in samples:
            for tracker in self._fed.get(sample.channel, ()):
                urgent = tracker.feed(sample) or urgent
        return urgent

    def look(self, now_s: float) -> list[Change]:
        """Return what was raised or cleared since the last look."""
        changes = [tracker.look(now_s) for tracker in self._trackers]
        return [change for change in changes if change is not None]

    def raised(self, *actions: Action) -> dict[str, str]:
        """Return the words of each rule that is raised, of these actions, or of all."""
        return {
            tracker.rule.name: tracker.raised
            for tracker in self._trackers
            if tracker.raised and (not actions or tracker.rule.action in actions)
        }

    def holding(self, names: Sequence[str], now_s: float) -> dict[str, str]:
        """Return which of the named rules hold now, or can't be known not to; by name."""
        found = {}
        for tracker in self._trackers:
            rule = tracker.rule
            if rule.name in names:
                words = tracker.holds(now_s)
                if not words and isinstance(rule, Doubtful):
                    words = rule.unknown(now_s)
                if words:
                    found[rule.name] = words
        return found

    @contextmanager
    def overridden(self, overrides: Sequence[AlarmOverride]) -> Iterator[None]:
        """Put overrides in force for a block, however it is left; unknown alarms are passed by.

        Nested blocks lie over each other, and each takes away its own only.
        """
        known = [(self._bands[o.alarm_id], o) for o in overrides if o.alarm_id in self._bands]
        for band, override in known:
            band.override(override)
        try:
            yield
        finally:
            for band, override in known:
                band.restore(override)

    def in_force(self, alarm_id: str) -> str:
        """Say how an alarm is set just now."""
        band = self._bands.get(alarm_id)
        if band is None:
            return "no such alarm"
        return "off" if band.disabled else f"at {band.threshold:g}"


def _rules(
    profile: HardwareProfile,
    registry: ChannelRegistry,
    commanded: Commanded,
    now_s: float,
    trouble: Callable[[str], str],
) -> Iterator[Rule]:
    required = {device.name for device in profile.devices if device.required}
    specs = {spec.name: spec for spec in profile.channels}
    for spec in profile.channels:
        for alarm in spec.alarms:
            yield BandRule(spec, alarm)
        binding = registry.resolve(spec.name).binding
        if binding is not None:
            is_required = binding.device in required
            yield from _of_reading(profile, spec, binding, is_required, now_s, trouble)
            yield from _of_output(profile, spec, binding, commanded)
    for rate in profile.safety.rate:
        yield RateRule(specs[rate.channel], rate)
    yield from _thermal(profile, specs)
    yield from _of_the_box(profile)


def _of_reading(
    profile: HardwareProfile,
    spec: ChannelSpec,
    binding: Binding,
    required: bool,
    now_s: float,
    trouble: Callable[[str], str],
) -> Iterator[Rule]:
    """A device that may be missing is only warned of."""
    stale, sensor = profile.safety.stale, profile.safety.sensor
    usual: Action = stale.action if required else "warn"
    action = stale.channels.get(spec.name, usual)
    if action != "off" and spec.stale_after_s is not None:
        yield StaleRule(
            spec.name,
            after_s=spec.stale_after_s,
            action=action,
            device=binding.device,
            started_s=now_s,
            trouble=trouble,
        )
    action = sensor.channels.get(spec.name, sensor.action if required else "warn")
    if action != "off":
        debounce_s = sensor.debounce_s
        yield SensorRule(spec.name, action=action, debounce_s=debounce_s, device=binding.device)


def _of_output(
    profile: HardwareProfile, spec: ChannelSpec, binding: Binding, commanded: Commanded
) -> Iterator[Rule]:
    if binding.command is None:
        return
    tables = {watch.channel: watch for watch in profile.safety.output}
    same = binding.field == binding.command_field and binding.reads_back
    watch = tables.get(spec.name, OutputWatch(channel=spec.name) if same else None)
    if watch is None or watch.action == "off":
        return
    tolerance = binding.tolerance if watch.tolerance is None else watch.tolerance
    yield OutputRule(
        spec,
        tolerance=tolerance,
        settle_s=watch.settle_s,
        action=watch.action,
        commanded=commanded,
    )


def _thermal(profile: HardwareProfile, specs: Mapping[str, ChannelSpec]) -> Iterator[Rule]:
    for watch in profile.safety.thermal:
        unit = specs[watch.pv].unit
        if watch.no_rise != "off":
            yield NoRiseRule(watch, unit, action=watch.no_rise)
        if watch.unasked_heat != "off":
            if watch.power is not None:
                yield UnaskedPowerRule(watch, unit, action=watch.unasked_heat)
            yield UnaskedRiseRule(watch, unit, action=watch.unasked_heat)


def _of_the_box(profile: HardwareProfile) -> Iterator[Rule]:
    """Disk and recorder, as bands on what the monitor measures itself."""
    disk, recorder = profile.safety.disk, profile.safety.recorder
    bands: tuple[tuple[str, ActionOrOff, float], ...] = (
        (RUNS_FREE, "warn", disk.warn_below_mb),
        (RUNS_FREE, disk.action, disk.act_below_mb),
        (SPOOL_FREE, "warn", disk.act_below_mb),
    )
    for channel, action, least in bands:
        label = f"{channel} below {least:g} MB"
        slack = _HYSTERESIS_SHARE * least
        yield from _band(channel, "MB", label, "<", least, slack, action)
    yield from _band(RECORDER_LAG, "s", RECORDER_LAG, ">", recorder.max_lag_s, 0.0, recorder.action)


def _band(
    channel: str,
    unit: str,
    label: str,
    op: Op,
    threshold: float,
    slack: float,
    action: ActionOrOff,
) -> Iterator[Rule]:
    if action == "off":
        return
    spec = ChannelSpec(name=channel, kind="other", unit=unit)
    alarm = AlarmSpec(id=label, op=op, threshold=threshold, hysteresis=slack, action=action)
    yield BandRule(spec, alarm)
