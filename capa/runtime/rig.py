"""The rig: its links, its devices, their poll loops. It lives as long as the daemon.

Runs come and go inside it. Cancelling a run never cancels a link, so the safe state always has
one to travel on.
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
from structlog.typing import FilteringBoundLogger

from capa.channels.derived import DerivedChannels
from capa.channels.registry import Binding, ChannelRegistry
from capa.channels.sample import Sample, Status
from capa.config.hardware import HardwareProfile
from capa.devices.adapter import (
    AdapterFamily,
    DeviceAdapter,
    DeviceHealth,
    FieldWrite,
    Health,
    Identity,
    Reading,
    WriteAck,
)
from capa.devices.link import Connector, Priority, late_s, unanswered_s
from capa.devices.registry import LinkClass, RunnableLink
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import CapaError, DeviceError, LinkClosedError, LinkError, LinkTimeoutError
from capa.runtime.databus import DataBus
from capa.runtime.device_settings import RigSettings

__all__ = ["ReadingsTap", "Rig", "open_rig"]

FAILURES_TO_DOWN = 3
DOWN_POLL_S = 1.0
"""How often a silent device is asked that has its line for itself."""
MUTE_SHARE = 0.15
"""Of a line's time, for all its silent devices together, while others on it answer: each question
costs those a reply time-out and the wait for a late reply. What is promised is a fifth."""
FIRST_SHARE = 0.5
"""The same from the second unanswered question on, when it may yet be a burst of noise: values of
those that answer are not to grow stale meanwhile. A reply that is lost now and then is asked for
again at once: it is the device's own value that would grow stale."""
SETTLE_TRIES = 3
"""How often, in a row, a device is asked for what it is to be kept at before it is left alone."""
HEARTBEAT_S = 1.0
"""A poll loop that sleeps longer than this still shows that it lives."""


_Route = tuple[str, float, float]

ReadingsTap = Callable[[DeviceAdapter, Sequence[Reading]], None]
"""Handed what a device said, native record and all, before it becomes samples; must not block."""


@dataclass(slots=True)
class _Unit:
    """One device as the rig keeps it: driver, health, and where its fields go."""

    spec: DeviceSpec
    adapter: DeviceAdapter
    link: RunnableLink
    routes: Mapping[str, tuple[_Route, ...]]
    health: DeviceHealth = field(default_factory=DeviceHealth)
    identity: Identity | None = None
    last_turn_s: float = 0.0
    answering: trio.Event = field(default_factory=trio.Event)
    link_up: trio.Event = field(default_factory=trio.Event)
    question_s: float = 0.0
    """What an unanswered question costs its line."""
    late_s: float = 0.0
    """The end of that, when a late reply is waited for."""
    unanswered: int = 0
    """How many questions in a row cost that."""
    lost_at_s: float = -math.inf
    """When the last of them was known to be lost."""
    since_lost_s: float = math.inf
    """How long after the one before that was."""
    is_asked: bool = False
    """Whether its turn is on, be it that it waits for its line."""
    read_at_s: float = -math.inf
    """When the oldest of what it said last was measured."""
    turned: trio.Event = field(default_factory=trio.Event)
    """Set at the end of its turn."""
    unsettled: int = 0
    """How often its enforced settings may still be asked for; none once they are as they must."""

    @property
    def is_silent(self) -> bool:
        return self.health.consecutive_failures >= FAILURES_TO_DOWN

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(channel for routes in self.routes.values() for channel, _, _ in routes)

    def samples(self, readings: Sequence[Reading]) -> list[Sample]:
        """Convert what the device said into what its channels are; the hot path."""
        samples: list[Sample] = []
        routes = self.routes
        for reading in readings:
            for channel, gain, offset in routes.get(reading.field, ()):
                raw = reading.value
                value = gain * raw + offset if reading.status.usable else math.nan
                samples.append(Sample(channel, value, reading.at_s, reading.status, raw))
        return samples

    def lost(self) -> list[Sample]:
        """Return one sample per channel that says: the device did not answer."""
        at_s = trio.current_time()
        return [Sample(name, math.nan, at_s, Status.COMM_ERROR) for name in self.channels]


class Rig:
    """Everything the profile declares, alive. Made by ``open_rig``."""

    def __init__(
        self,
        profile: HardwareProfile,
        registry: ChannelRegistry,
        links: Mapping[str, RunnableLink],
        units: Mapping[str, _Unit],
        *,
        profile_file: str,
        log: FilteringBoundLogger,
    ) -> None:
        self.profile = profile
        self.profile_file = profile_file
        self.registry = registry
        self.bus = DataBus()
        self.links = links
        self._units = units
        self._lost: set[str] = set()
        self._readings_taps: tuple[ReadingsTap, ...] = ()
        self.settings = RigSettings(
            profile.devices,
            {name: unit.adapter for name, unit in units.items()},
            {name: _commanded(name, registry) for name in units},
        )
        self._derived = DerivedChannels.from_profile(profile)
        self._log = log

    @property
    def devices(self) -> Mapping[str, DeviceAdapter]:
        """The drivers by device name."""
        return {name: unit.adapter for name, unit in self._units.items()}

    @property
    def identities(self) -> Mapping[str, Identity]:
        """Who answered, for those that did."""
        return {name: u.identity for name, u in self._units.items() if u.identity is not None}

    def add_readings_tap(self, tap: ReadingsTap) -> None:
        """Have readings handed to ``tap``, beside whoever else records them."""
        self._readings_taps = (*self._readings_taps, tap)

    def remove_readings_tap(self, tap: ReadingsTap) -> None:
        """Undo ``add_readings_tap``; unknown taps are ignored."""
        self._readings_taps = tuple(one for one in self._readings_taps if one != tap)

    def health(self, device: str) -> DeviceHealth:
        """Return a device's state and counters."""
        return self._units[device].health

    def heartbeats(self) -> dict[str, float]:
        """Return when each poll loop last came round, on trio's clock."""
        return {f"poll:{name}": unit.last_turn_s for name, unit in self._units.items()}

    def hush(self, for_s: float) -> None:
        """Let no poll begin on any link for so long; commands and safe writes go on."""
        for link in self.links.values():
            link.hush(for_s)

    def start_run(self) -> None:
        """Begin what is counted from a run's start (a loss fraction's first mass)."""
        self._derived.start_run()

    async def wait_answering(self, timeout_s: float) -> dict[str, bool]:
        """Wait until every device answers, at most so long; say which do."""
        with trio.move_on_after(timeout_s):
            for unit in self._units.values():
                await unit.answering.wait()
        return {name: unit.answering.is_set() for name, unit in self._units.items()}

    def answers(self, device: str) -> bool:
        """Whether a device has been opened and answered its last poll."""
        return self._units[device].answering.is_set()

    def link_of(self, channel: str) -> str:
        """Return the name of the link that a channel's device is on."""
        return self._units[self._binding(channel).device].spec.link

    def tolerance(self, channel: str) -> float:
        """How far a read-back may lie from the command and still prove it."""
        return self._binding(channel).tolerance

    async def write(self, channel: str, value: float, *, priority: Priority) -> WriteAck:
        """Write a channel's command, read it back, both in the channel's unit.

        For the gate and the safe state only: nothing here asks who may.

        Raises:
            LinkError, FrameError, DeviceError: as the driver found it.
        """
        binding = self._binding(channel)
        if binding.command_field is None:
            raise DeviceError(f"{channel} of {binding.device} takes no command")
        conversion = binding.command_conversion
        write = FieldWrite(binding.command_field, conversion.to_device(value))
        unit = self._units[binding.device]
        try:
            ack = await unit.adapter.write(write, priority=priority)
        except LinkError:
            unit.unsettled = SETTLE_TRIES  # it may have been switched off and on
            raise
        if ack.readback is None:
            return ack
        return WriteAck(ack.accepted, ack.detail, conversion.to_channel(ack.readback))

    def _binding(self, channel: str) -> Binding:
        binding = self.registry.resolve(channel).binding
        if binding is None:
            raise DeviceError(f"{channel} is derived; no device is behind it")
        return binding

    async def _poll(self, unit: _Unit) -> None:
        """Poll one device for ever, on absolute ticks; ticks that passed meanwhile are skipped."""
        period_s = 1 / unit.spec.poll_hz
        due_s = trio.current_time()
        while True:
            step_s = max(period_s, self._patience_s(unit))
            if not unit.link.is_up:
                with trio.move_on_after(min(step_s, HEARTBEAT_S)):
                    await unit.link_up.wait()
            unit.last_turn_s = trio.current_time()
            if unit.unanswered and len(self._on_line_of(unit)) > 1:
                await self._let_others_go_first(unit)
            await self._turn(unit)
            step_s = max(period_s, self._patience_s(unit))
            due_s = _next_due(due_s, step_s, trio.current_time())
            if unit.link.is_up:
                await _sleep_until(unit, due_s)

    def _patience_s(self, unit: _Unit) -> float:
        """How long a device is left alone, being silent; 0 for one that lost a reply, or none."""
        if not unit.is_silent and not unit.unanswered:
            return 0.0
        others = self._on_line_of(unit)
        if all(other.is_silent for other in others):
            return DOWN_POLL_S
        mute = sum(other.unanswered > 0 for other in others)
        fair_s = mute * unit.question_s / FIRST_SHARE
        if not unit.is_silent:
            now_and_then = unit.unanswered == 1 and unit.since_lost_s >= fair_s
            return 0.0 if now_and_then or mute == len(others) else fair_s
        silent = sum(other.is_silent for other in others)
        # Soon again at first: what made three questions fail may have been one burst of noise.
        first_s = max(DOWN_POLL_S, fair_s)
        soon_s = first_s * 2.0 ** min(unit.health.consecutive_failures - FAILURES_TO_DOWN, 10)
        return max(first_s, min(soon_s, silent * unit.question_s / MUTE_SHARE))

    async def _let_others_go_first(self, unit: _Unit) -> None:
        """Wait until those that answer were heard since the line is free of lost replies.

        A poll may be several exchanges and is published at its end: a question put between them,
        or before the value that the last one delayed is renewed, makes that value twice as old.
        """
        while unit.link.is_up:
            unit.last_turn_s = now_s = trio.current_time()
            line = self._on_line_of(unit)
            free_s = max(other.lost_at_s + other.late_s for other in line)
            if now_s < free_s:
                await _sleep_until(unit, free_s)
                continue
            left_s = free_s + unit.question_s - now_s
            awaited = next((u for u in line if u is not unit and _goes_first(u, free_s)), None)
            if left_s <= 0 or awaited is None:
                return
            with trio.move_on_after(min(left_s, HEARTBEAT_S)):
                await awaited.turned.wait()

    def _on_line_of(self, unit: _Unit) -> list[_Unit]:
        return [other for other in self._units.values() if other.spec.link == unit.spec.link]

    async def _turn(self, unit: _Unit) -> None:
        """Open the device if need be, read it once, publish what came or that nothing came."""
        unit.is_asked = True
        try:
            await self._ask(unit)
        finally:
            unit.is_asked = False
            unit.turned.set()
            unit.turned = trio.Event()

    async def _ask(self, unit: _Unit) -> None:
        try:
            if not unit.answering.is_set():
                unit.identity = await unit.adapter.open()
                unit.unsettled = SETTLE_TRIES
            readings = await unit.adapter.poll()
            for tap in self._readings_taps:
                tap(unit.adapter, readings)
            samples = unit.samples(readings)
            unit.read_at_s = min((reading.at_s for reading in readings), default=math.inf)
        except CapaError as error:
            self._failed(unit, error)
        except Exception as error:  # noqa: BLE001 - a driver's bug takes its device down, not the rig
            self._log.exception("device.driver_error", device=unit.spec.name)
            self._failed(unit, error)
        else:
            self._answered(unit)
            self._publish(samples)
            if unit.unsettled:
                await self._settle(unit)

    async def _settle(self, unit: _Unit) -> None:
        """See to the enforced settings of a device that may have been switched off and on."""
        name = unit.spec.name
        unit.unsettled -= 1
        try:
            reports = await self.settings.keep(name)
        except CapaError as error:
            self._log.warning("device.settings_unread", device=name, message=str(error))
        except Exception:  # noqa: BLE001 - a driver's bug takes its settings, not its readings
            self._log.exception("device.driver_error", device=name)
            unit.unsettled = 0
        else:
            unit.unsettled = SETTLE_TRIES if reports is None else 0  # None: no gate as yet
            for report in reports or ():
                told = self._log.info if report.written else self._log.warning
                told("device.setting", device=name, setting=report.setting, message=str(report))

    def trouble(self, device: str) -> str:
        """What the last question to a device failed with; empty when it is well."""
        return self._units[device].health.detail.partition(": ")[2]

    def _link_changed(self, link: str, up: bool) -> None:
        if not up and trio.current_effective_deadline() > -math.inf:  # not the rig that closes
            why = getattr(self.links[link], "why_down", "") or "it is down"
            self._log.warning("link.lost", link=link, message=why)
        elif up and link in self._lost:
            self._log.warning("link.back", link=link, message="open again")
        self._lost.discard(link) if up else self._lost.add(link)
        for unit in self._units.values():
            if unit.spec.link == link and up:
                unit.link_up.set()
            elif unit.spec.link == link:
                unit.link_up = trio.Event()
                self._down(unit)

    def _publish(self, samples: list[Sample]) -> None:
        samples.extend(self._derived.feed(samples))
        self.bus.publish(samples)

    def _answered(self, unit: _Unit) -> None:
        health = unit.health
        health.polls += 1
        health.last_ok_at_s = trio.current_time()
        unit.unanswered = 0
        if health.state is not Health.OK:
            health.state, health.detail, health.consecutive_failures = Health.OK, "", 0
            unit.answering.set()
            self._log.info("device.answers", device=unit.spec.name, identity=str(unit.identity))

    def _failed(self, unit: _Unit, error: Exception) -> None:
        health, before = unit.health, unit.health.state
        health.polls += 1
        health.failures += 1
        health.consecutive_failures += 1
        if isinstance(error, LinkTimeoutError):
            now_s = trio.current_time()
            unit.unanswered += 1
            unit.since_lost_s, unit.lost_at_s = now_s - unit.lost_at_s, now_s
        else:
            unit.unanswered = 0
        unit.unsettled = SETTLE_TRIES
        gone = isinstance(error, LinkClosedError) or (
            health.consecutive_failures >= FAILURES_TO_DOWN
        )
        health.state = Health.DOWN if gone or before is Health.DOWN else Health.DEGRADED
        health.detail = f"{type(error).__name__}: {error}"
        if health.state is Health.DOWN:
            self._down(unit)
        if health.state is not before or health.failures == 1:
            self._log.warning("device.silent", device=unit.spec.name, message=health.detail)
        self._publish(unit.lost())

    def _down(self, unit: _Unit) -> None:
        """Have the device opened, and so checked, again before it is trusted again."""
        unit.health.state = Health.DOWN
        if unit.answering.is_set():
            unit.answering = trio.Event()


@asynccontextmanager
async def open_rig(
    profile: HardwareProfile,
    *,
    families: Mapping[str, AdapterFamily],
    link_class: LinkClass,
    connectors: Mapping[str, Connector],
    log: FilteringBoundLogger,
    profile_file: str | None = None,
) -> AsyncIterator[Rig]:
    """Open every link and poll every device until the block ends.

    ``connectors`` are found by a link's name first, then by its transport. Returns before the
    devices answer; see ``Rig.wait_answering``.

    Raises:
        LookupError: a transport or a device family that is not installed.
    """
    links = {spec.name: _make_link(spec, link_class, connectors) for spec in profile.links}
    registry = ChannelRegistry.from_profile(profile, families)
    units = {spec.name: _make_unit(spec, families, links, registry) for spec in profile.devices}
    lines = {spec.name: spec for spec in profile.links}
    for unit in units.values():
        line = lines[unit.spec.link]
        unit.question_s, unit.late_s = unanswered_s(line), late_s(line.reply_timeout_s)
    file = profile.name if profile_file is None else profile_file
    rig = Rig(profile, registry, links, units, profile_file=file, log=log)
    async with trio.open_nursery() as wires:
        for name, link in links.items():
            link.on_change = partial(rig._link_changed, name)  # noqa: SLF001 - its own maker
            # A port that is slow to open must not hold up the others, nor the safe state on them.
            wires.start_soon(link.run)  # noqa: ASYNC113
        # Whoever asks ends before the links do: else a rig that closes looks like one that is lost.
        async with trio.open_nursery() as asking:
            for unit in units.values():
                unit.last_turn_s = trio.current_time()
                asking.start_soon(rig._poll, unit)  # noqa: SLF001 - its own maker
            yield rig
            asking.cancel_scope.cancel()
        wires.cancel_scope.cancel()


def _make_link(
    spec: LinkSpec, link_class: LinkClass, connectors: Mapping[str, Connector]
) -> RunnableLink:
    connector = connectors.get(spec.name) or connectors.get(spec.transport)
    if connector is None:
        raise LookupError(f"link {spec.name}: transport {spec.transport!r} is not installed")
    return link_class(spec, connector)


def _make_unit(
    spec: DeviceSpec,
    families: Mapping[str, AdapterFamily],
    links: Mapping[str, RunnableLink],
    registry: ChannelRegistry,
) -> _Unit:
    family = families.get(spec.adapter)
    if family is None:
        raise LookupError(f"device {spec.name}: adapter {spec.adapter!r} is not installed")
    link = links[spec.link]
    adapter = family.create(spec, link)
    unit = _Unit(spec, adapter, link, _routes(spec.name, registry))
    unit.health.counters = getattr(adapter, "counters", unit.health.counters)
    return unit


def _routes(device: str, registry: ChannelRegistry) -> Mapping[str, tuple[_Route, ...]]:
    """Return, for each field of a device, the channels it feeds, with gain and offset."""
    routes: dict[str, tuple[_Route, ...]] = {}
    for resolved in registry.by_device(device):
        if (binding := resolved.binding) is not None:
            line = binding.conversion
            route = (resolved.name, line.gain, line.offset)
            routes[binding.field] = (*routes.get(binding.field, ()), route)
    return routes


def _commanded(device: str, registry: ChannelRegistry) -> frozenset[str]:
    """Return the fields of a device that channels command."""
    bindings = (channel.binding for channel in registry.by_device(device))
    fields = (binding.command_field for binding in bindings if binding is not None)
    return frozenset(field for field in fields if field is not None)


def _goes_first(unit: _Unit, free_s: float) -> bool:
    """Whether a device that answers waits for its line, or soon will, with a value from before.

    One that is polled more rarely than a lost reply costs can wait for another from the beginning.
    """
    if unit.health.state is not Health.OK or unit.read_at_s >= free_s:
        return False
    return unit.is_asked or 1 / unit.spec.poll_hz <= unit.question_s


def _next_due(due_s: float, step_s: float, now_s: float) -> float:
    """Return the next tick of ``due_s + k * step_s`` that still lies ahead."""
    due_s += step_s
    if due_s <= now_s:
        due_s += math.ceil((now_s - due_s) / step_s) * step_s
    return due_s


async def _sleep_until(unit: _Unit, due_s: float) -> None:
    while due_s - trio.current_time() > HEARTBEAT_S:
        await trio.sleep(HEARTBEAT_S)
        unit.last_turn_s = trio.current_time()
    await trio.sleep_until(due_s)
