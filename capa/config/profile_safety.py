"""Does a hardware profile say what is safe, for every output, within its own limits."""

from collections.abc import Iterator

from capa.channels.spec import ChannelSpec
from capa.config.draft import Draft
from capa.config.explain import did_you_mean, shown
from capa.config.hardware import SafeStage
from capa.config.problems import Problem
from capa.devices.link import unanswered_s
from capa.devices.spec import DeviceSpec, LinkSpec

__all__ = ["limit_breach", "safety_problems"]

_EXCHANGES_S = 0.1
"""What a device's longest poll may take; how long it thinks is mostly not known."""


def limit_breach(channel: ChannelSpec, value: float) -> str | None:
    """Say how a value lies outside a channel's limits; None if it does not."""
    limits = channel.limits
    if limits is None or limits.min <= value <= limits.max:
        return None
    bound = f"above the limit {limits.max:g}" if value > limits.max else f"below {limits.min:g}"
    return f"{value:g} {channel.unit} is {bound} {channel.unit} of {channel.name}"


def safety_problems(draft: Draft) -> list[Problem]:
    """Return what is wrong with limits, safe values and the ages that make data stale."""
    checks = (_limits, _forgotten, _stages, _stale, _stale_by_one_reply, _unheard)
    return [problem for check in checks for problem in check(draft)]


def _limits(draft: Draft) -> Iterator[Problem]:
    for index, channel in draft.channels.items():
        limits, path = channel.limits, ("channels", index, "limits")
        if limits is not None and limits.min > limits.max:
            message = f"min {limits.min:g} is greater than max {limits.max:g}"
            yield draft.problem("limits", path, message, "swap them")
        if limits is None and channel.commandable:
            message = "has no limits: any value would be sent to the device"
            hint = "add limits = { min = ..., max = ... }"
            yield draft.problem("no_limits", path[:2], message, hint, blocking=False)


def _forgotten(draft: Draft) -> Iterator[Problem]:
    """A profile that does not say what is safe for every output does not load."""
    staged = {name for stage in draft.stages.values() for name in stage.set}
    broken_stages = len(draft.source.data.get("safe_state") or ()) != len(draft.stages)
    for index, channel in draft.channels.items():
        path = ("channels", index)
        if not channel.commandable:
            if channel.safe is not None:
                message = "says what is safe, but nothing commands it"
                yield draft.problem("safe", (*path, "safe"), message, "leave `safe` out")
        elif channel.safe == "leave" and channel.name in staged:
            message = 'says safe = "leave" and has a value in safe_state'
            yield draft.problem("safe", (*path, "safe"), message, "keep one of the two")
        elif channel.safe is None and channel.name not in staged and not broken_stages:
            message = "can be commanded, and nothing says what is safe for it"
            hint = 'add it to a [[safe_state]] table, or say safe = "leave"'
            yield draft.problem("no_safe_value", path, message, hint)


def _stages(draft: Draft) -> Iterator[Problem]:
    for index, stage in draft.stages.items():
        for name, value in stage.set.items():
            yield from _target(draft, index, name, value)
        yield from _when(draft, index, stage)


def _target(draft: Draft, index: int, name: str, value: float) -> Iterator[Problem]:
    path = ("safe_state", index, "set", name)
    known = draft.names("channels")
    channel = draft.channel(name)
    if name not in known:
        message = f"no channel is called {shown(name)}"
        yield draft.problem("unknown_channel", path, message, did_you_mean(name, known))
    elif channel is not None and not channel.commandable:
        message = f"channel {shown(name)} can't be commanded"
        yield draft.problem("not_commandable", path, message, "it has no command")
    elif channel is not None and (breach := limit_breach(channel, value)):
        yield draft.problem("safe_value", path, breach, "a safe value lies within the limits")


def _when(draft: Draft, index: int, stage: SafeStage) -> Iterator[Problem]:
    path = ("safe_state", index)
    if index == 0 and (stage.when is not None or stage.timeout_s is not None):
        message = "the first stage can't wait: it is what happens at once"
        yield draft.problem("first_stage", path, message, "put an immediate stage before it")
    if stage.when is None:
        return
    known = draft.names("channels")
    if stage.when.channel not in known:
        message = f"no channel is called {shown(stage.when.channel)}"
        hint = did_you_mean(stage.when.channel, known)
        yield draft.problem("unknown_channel", (*path, "when", "channel"), message, hint)
    if stage.timeout_s is None:
        message = "waits for a condition with no timeout_s: if it never comes true, it never runs"
        yield draft.problem("no_timeout", path, message, "add timeout_s", blocking=False)


def _stale(draft: Draft) -> Iterator[Problem]:
    """Data can't be fresher than it is polled."""
    rates = {device.name: device.poll_hz for device in draft.devices.values()}
    for index, channel in draft.channels.items():
        rate_hz = rates.get(channel.device or "")
        if rate_hz is None or channel.stale_after_s is None:
            continue
        if channel.stale_after_s < 2 / rate_hz:
            message = (
                f"is stale after {channel.stale_after_s:g} s but polled every {1 / rate_hz:g} s"
            )
            hint = f"allow at least {2 / rate_hz:g} s"
            yield draft.problem("stale", ("channels", index, "stale_after_s"), message, hint)


def _stale_by_one_reply(draft: Draft) -> Iterator[Problem]:
    """A reply lost to noise, once, is to be told from a device that is gone."""
    devices = {device.name: device for device in draft.devices.values()}
    lines = {link.name: link for link in draft.links.values()}
    for index, channel in draft.channels.items():
        device = devices.get(channel.device or "")
        line = None if device is None else lines.get(device.link)
        if device is None or line is None or channel.stale_after_s is None:
            continue
        beside = [d for d in devices.values() if d.link == line.name and d is not device]
        poll_s, after_s, on_line = 1 / device.poll_hz, channel.stale_after_s, 1 + len(beside)
        lost_s = unanswered_s(line)
        aged_s = _aged_by_one_reply_s(line, device, beside)
        if after_s >= aged_s or after_s < 2 * poll_s:
            continue
        message = (
            f"is stale after {after_s:g} s, and one lost reply makes it up to {aged_s:.3g} s old: "
            f"polled every {poll_s:g} s, and a question without an answer keeps {line.name} for "
            f"{lost_s:g} s (its reply_timeout_s is {line.reply_timeout_s:g} s)"
        )
        burst_s, devices_there = (on_line + 1) * lost_s, f"{on_line} devices on {line.name}"
        why = f" ({lost_s:g} s for each of the {devices_there} and one more)" if beside else ""
        allow = f"{burst_s:g} s{why}" if burst_s > aged_s else f"more than {aged_s:.3g} s"
        hint = f"allow {allow}, or shorten its reply_timeout_s"
        path = ("channels", index, "stale_after_s")
        yield draft.problem("stale_by_one_reply", path, message, hint, blocking=False)


def _aged_by_one_reply_s(line: LinkSpec, device: DeviceSpec, beside: list[DeviceSpec]) -> float:
    """Return how old one lost reply makes a value that is read at every poll."""
    poll_s, lost_s = 1 / device.poll_hz, unanswered_s(line)
    # It is asked again at the next tick, at the soonest.
    tick_s = (line.reply_timeout_s // poll_s + 1) * poll_s
    # Those beside it bring a new value first, if they are polled often enough for that.
    first_s = max((1 / d.poll_hz for d in beside if 1 / d.poll_hz <= lost_s), default=0.0)
    return poll_s + max(tick_s, lost_s + first_s) + _EXCHANGES_S * (1 + len(beside))


def _unheard(draft: Draft) -> Iterator[Problem]:
    """An alarm sees nothing of a channel that is silent, and only an age says that it is."""
    for index, channel in draft.channels.items():
        if channel.alarms and channel.device is not None and channel.stale_after_s is None:
            message = "has alarms and no stale_after_s: when it falls silent, nothing is raised"
            hint = "add stale_after_s, of two polls at least"
            path = ("channels", index)
            yield draft.problem("no_stale_after", path, message, hint, blocking=False)
