"""The gate: the only way a command leaves the process, and the record of each that wanted to.

In order: authorization, channel, limits, rate, trip, intent on record, exchange, read-back,
result on record. A refusal is a result that names the limit and the file it stands in.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from capa.channels.registry import ResolvedChannel
from capa.channels.sample import Sample
from capa.clock import RunClock
from capa.devices.adapter import CommandResult, DeviceCommand, WriteAck
from capa.devices.link import Priority
from capa.errors import CapaError
from capa.experiment.authorization import Authorization
from capa.experiment.procedures.base import EventWriter
from capa.runtime.rig import Rig

__all__ = ["Gate", "Recorder", "SuspendedRun"]

RATE_WINDOW_S = 10.0
RATE_SLACK_S = 0.2
"""Two ramp ticks: a ramp at exactly the permitted rate passes, though its ticks come late."""

SETTLED_S = 10.0
"""For how long an output reads one of the values that it may have, until that is the one."""

HUSH_S = 0.05
"""For how long a stop keeps polls off the lines: the safe state is on its way."""

Severity = Literal["info", "warning", "error"]


class Recorder(EventWriter, Protocol):
    """What the gate needs of a bundle."""

    async def committed(self) -> None:
        """Return once every event written so far survives the process."""
        ...


@dataclass(frozen=True, slots=True)
class _Run:
    authorization: Authorization
    recorder: Recorder
    clock: RunClock


@dataclass(frozen=True, slots=True)
class SuspendedRun:
    """A run whose authorization is out of force while another runs inside it."""

    run: _Run | None


class _Refused(Exception):  # noqa: N818 - a refusal is an answer, and stays inside this module
    """The reason, in the words of the result."""


class _History:
    """Which values an output may have had lately: enough to judge the change over any 10 s."""

    def __init__(self) -> None:
        self._now: list[float] = []
        """The last value that arrived, then the lowest and the highest that may have since."""
        self._known = False
        """Whether the first of them did arrive."""
        self._past: deque[tuple[float, float]] = deque()
        """Values that were in force, and until when."""
        self._noted_s = -math.inf
        self._steady: tuple[float, float] | None = None
        """Which of several values is read back, and since when."""

    def note(self, at_s: float, value: float, *, arrived: bool) -> None:
        self._noted_s, self._steady = at_s, None
        if arrived:
            self._past.extend((old, at_s) for old in self._now)
            self._now, self._known = [value], True
        else:
            first, *rest = [*self._now, value]
            self._now = [first, *sorted({min(rest), max(rest)})] if rest else [first]
        self._forget(at_s)

    @property
    def doubtful(self) -> bool:
        """Whether more than one value may be in force, or one that nobody knows."""
        return bool(self._now) and not (self._known and len(self._now) == 1)

    def read(self, sample: Sample, tolerance: float) -> None:
        """Take what is read back: of several values the one that it shows for long enough."""
        if not (self.doubtful and sample.usable and sample.at_s > self._noted_s):
            return
        near = min(self._now, key=lambda value: abs(value - sample.value))
        if abs(near - sample.value) > tolerance:
            self._steady = None
        elif self._steady is None or self._steady[0] != near:
            self._steady = near, sample.at_s
        elif sample.at_s - self._steady[1] >= SETTLED_S:
            self._now, self._known = [near], True

    def in_force(self, now_s: float) -> list[float]:
        """Return the values that may have been in force at some moment of the last 10 s."""
        self._forget(now_s)
        return [value for value, _ in self._past] + self._now

    def all(self) -> list[tuple[float, float]]:
        """Return values and until when each may have been in force; none if that is unknown."""
        return [*self._past, *((value, math.inf) for value in self._now)] if self._known else []

    def _forget(self, now_s: float) -> None:
        while self._past and self._past[0][1] <= now_s - RATE_WINDOW_S:
            self._past.popleft()


class Gate:
    """One per rig; knows the run in progress between ``begin_run`` and ``end_run``."""

    def __init__(self, rig: Rig, *, log: FilteringBoundLogger) -> None:
        self._rig = rig
        self._log = log
        self._run: _Run | None = None
        self._manual: list[Authorization] = []
        self._trip = ""
        self._histories: dict[str, _History] = {}
        self._locks: dict[str, trio.Lock] = {}
        self._in_flight: set[trio.CancelScope] = set()
        self._why_called = ""
        self._recalls = 0
        self._safe_values = _safe_values(rig)

    # --- who may --------------------------------------------------------------------------------

    def begin_run(self, authorization: Authorization, recorder: Recorder, clock: RunClock) -> None:
        """Let this run's commands through, and record every command in its bundle."""
        self._run = _Run(authorization, recorder, clock)

    def end_run(self) -> None:
        """Let nothing of the run through any more, not even what waits for the wire just now.

        A stale setpoint that is overtaken by the safe value must not follow it.
        """
        if self._run is not None:
            self._run.authorization.disarm()
        self._run = None
        self._call_back("the run has ended")

    def recall(self, reason: str) -> None:
        """Call back what is on its way just now; what is commanded after this passes.

        A stop is not to wait for a read-back, nor for a setpoint's turn on a busy line: only the
        exchange in progress is finished, and the line is kept free of polls for what follows.
        """
        self._rig.hush(HUSH_S)
        self._recalls += 1
        self._call_back(reason)

    def _call_back(self, reason: str) -> None:
        self._why_called = reason
        for scope in self._in_flight:
            scope.cancel()

    def suspend(self) -> SuspendedRun:
        """Let nothing of the run through while another runs inside it; see ``resume``."""
        suspended = SuspendedRun(self._run)
        self._run = None
        self._call_back("another run began inside this one")
        return suspended

    def resume(self, suspended: SuspendedRun) -> None:
        """Let the run through again, once the one inside it is over and the rig made safe."""
        self._run = suspended.run

    def admit_manual(self, authorization: Authorization) -> None:
        """Let the manual commands of ``authorization`` through while it is armed."""
        self._manual = [one for one in self._manual if one.armed]
        self._manual.append(authorization)

    @property
    def trip(self) -> str:
        """Why nothing but safe values passes; empty when no trip is latched."""
        return self._trip

    def latch(self, reason: str) -> None:
        """Refuse every command until ``release``; what is on its way is called back."""
        self._trip = self._trip or reason
        self._call_back(f"a trip is latched: {self._trip}")

    def release(self) -> None:
        """Clear the trip; who may do so, and when, is decided by the caller."""
        self._trip = ""

    def note(self, channel: str, value: float) -> None:
        """Take notice of a value written past the gate (a safe one): rates count from it."""
        self._history(channel).note(trio.current_time(), value, arrived=True)

    def _note_perhaps(self, channel: str, value: float) -> None:
        """Take notice of a value that may have arrived: it counts, and so does the one before.

        Of an output that was never commanded that is the one that was last read back.
        """
        history, now_s = self._history(channel), trio.current_time()
        if not history.in_force(now_s) and (seen := self._read_back(channel)) is not None:
            history.note(now_s, seen.value, arrived=True)
        history.note(now_s, value, arrived=False)

    def _read_back(self, channel: str) -> Sample | None:
        """Return the newest reading of the very value that is commanded, if there is a usable one.

        A flow that follows its setpoint, or does not, says nothing about the setpoint.
        """
        binding = self._rig.registry.resolve(channel).binding
        if binding is None or not binding.reads_back or binding.field != binding.command_field:
            return None
        latest = self._rig.bus.latest(channel)
        return latest if latest is not None and latest.usable else None

    def commanded(self, channel: str) -> Sequence[tuple[float, float]]:
        """Return what an output may have been told, and until when: now, and in the last 10 s.

        More than one value is in force (until ``inf``) where nobody knows which arrived, until
        the output has read back at one of them for ``SETTLED_S``.
        """
        history = self._histories.get(channel)
        if history is None:
            return []
        if history.doubtful and (seen := self._read_back(channel)) is not None:
            history.read(seen, self._rig.tolerance(channel))
        return history.all()

    # --- the way through ------------------------------------------------------------------------

    async def dispatch(self, device: str, command: DeviceCommand) -> CommandResult:
        """Let a command through to its device, or refuse it; either way it is on record."""
        name = str(command.payload.get("channel", command.target))
        recalls = self._recalls
        async with self._locks.setdefault(name, trio.Lock()):
            try:
                result = await self._pass(device, name, command, recalls)
            except _Refused as refusal:
                result = CommandResult(accepted=False, detail=str(refusal))
                self._record("command.refused", "warning", command, result)
        return result

    async def _pass(
        self, device: str, name: str, command: DeviceCommand, recalls: int
    ) -> CommandResult:
        self._check_authorization(command)
        value = self._checked_value(self._checked_channel(device, name, command), command)
        self._check_rate(name, value)
        self._check_trip()
        await self._record_intent(command)
        self._check_authorization(command)  # the commit took time: the run may have ended
        self._check_trip()
        called_back = self._recalls != recalls  # while it waited for its turn or for the record
        try:
            result = self._called_back(name) if called_back else await self._send(name, value)
        except BaseException as error:  # cancelled, in the queue or on the wire, or a driver's bug
            self._note_perhaps(name, value)
            failed = isinstance(error, Exception)
            why = "its driver failed" if failed else "nobody waited for the answer"
            detail = f"{name}: {why} ({type(error).__name__}: {error}); it may have arrived"
            lost = CommandResult(accepted=False, detail=detail)
            self._record("command.result", "error", command, lost)
            raise
        self._record("command.result", _severity(result), command, result)
        return result

    def _check_authorization(self, command: DeviceCommand) -> None:
        run = self._run
        if run is not None and run.authorization.issued(command):
            if not run.authorization.armed:
                raise _Refused(f"authorization {run.authorization.id} is disarmed")
            return
        manual = any(one.armed and one.issued(command) for one in self._manual)
        if not manual or command.confirmed_by is None:
            raise _Refused(
                f"no authorization in force issued this command (it says "
                f"{command.authorization_id!r}); use ctx.authorization.issue(...) during the run"
            )

    def _checked_channel(self, device: str, name: str, command: DeviceCommand) -> ResolvedChannel:
        if command.target != name:
            raise _Refused(f"the command's target is {command.target}, its channel {name}")
        if name not in self._rig.registry:
            raise _Refused(f"{self._file} has no channel {name}")
        channel = self._rig.registry.resolve(name)
        binding = channel.binding
        if binding is None or binding.command is None:
            raise _Refused(f"{name} can't be commanded: {self._file} gives it no command")
        if binding.device != device or command.payload.get("device", device) != device:
            raise _Refused(f"{name} is bound to {binding.device} in {self._file}, not to {device}")
        if binding.command != command.kind:
            raise _Refused(f"{name} takes {binding.command!r}, not {command.kind!r}")
        return channel

    def _checked_value(self, channel: ResolvedChannel, command: DeviceCommand) -> float:
        value = command.payload.get("value")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Refused(f"{channel.name}: {value!r} is not a number")
        if not math.isfinite(value):
            raise _Refused(f"{channel.name}: {value} is not a finite number")
        limits, unit = channel.spec.limits, channel.spec.unit
        if limits is not None and value > limits.max:
            raise _Refused(
                f"{channel.name} = {value:g} {unit} is above limits.max = {limits.max:g} "
                f"in {self._file}"
            )
        if limits is not None and value < limits.min:
            raise _Refused(
                f"{channel.name} = {value:g} {unit} is below limits.min = {limits.min:g} "
                f"in {self._file}"
            )
        return float(value)

    def _check_rate(self, name: str, value: float) -> None:
        limits = self._rig.registry.resolve(name).spec.limits
        if limits is None or limits.max_rate_per_s is None:
            return
        if (name, value) in self._safe_values:
            return
        most = limits.max_rate_per_s * (RATE_WINDOW_S + RATE_SLACK_S)
        change = max((abs(value - old) for old in self._lately(name)), default=math.inf)
        if change > most:
            seen = "from an unknown value" if math.isinf(change) else f"by {change:g} within 10 s"
            raise _Refused(
                f"{name} to {value:g} would change it {seen}; limits.max_rate_per_s = "
                f"{limits.max_rate_per_s:g} in {self._file} allows {limits.max_rate_per_s * 10:g}"
            )

    def _lately(self, name: str) -> list[float]:
        """Return what the output was lately: as commanded, else as last seen on the bus."""
        commanded = self._history(name).in_force(trio.current_time())
        if commanded:
            return commanded
        latest = self._rig.bus.latest(name)
        return [latest.value] if latest is not None and latest.usable else []

    def _check_trip(self) -> None:
        if self._trip:
            raise _Refused(f"a trip is latched: {self._trip}; clear it before commanding")

    async def _record_intent(self, command: DeviceCommand) -> None:
        self._record("command.intent", "info", command, None)
        try:
            await self.committed()
        except CapaError as error:
            raise _Refused(f"the command could not be put on record: {error}") from error

    async def _send(self, name: str, value: float) -> CommandResult:
        """Do the exchange; what is asked for must also be what is read back."""
        with trio.CancelScope() as scope:
            self._in_flight.add(scope)
            try:
                ack = await self._rig.write(name, value, priority=Priority.COMMAND)
            except CapaError as error:
                self._note_perhaps(name, value)
                return CommandResult(accepted=False, detail=f"{name}: {error}")
            finally:
                self._in_flight.discard(scope)
            if ack.accepted:
                self.note(name, value)
            return self._judged(name, value, ack)
        self._note_perhaps(name, value)
        return self._called_back(name)

    def _called_back(self, name: str) -> CommandResult:
        detail = f"{name}: called back, {self._why_called}"
        return CommandResult(accepted=False, detail=detail, called_back=True)

    def _judged(self, name: str, value: float, ack: WriteAck) -> CommandResult:
        if not ack.accepted:
            return CommandResult(False, f"{name} = {value:g}: {ack.detail}", ack.readback)
        tolerance = self._rig.tolerance(name)
        if ack.readback is None or abs(ack.readback - value) <= tolerance:
            return CommandResult(True, ack.detail, ack.readback)
        return CommandResult(
            False,
            f"{name} = {value:g} was accepted, but reads back {ack.readback:g} "
            f"(tolerance {tolerance:g})",
            ack.readback,
        )

    # --- records --------------------------------------------------------------------------------

    @property
    def _file(self) -> str:
        return self._rig.profile_file

    def _history(self, channel: str) -> _History:
        return self._histories.setdefault(channel, _History())

    def _record(
        self,
        kind: str,
        severity: Severity,
        command: DeviceCommand,
        result: CommandResult | None,
    ) -> None:
        value = command.payload.get("value")
        detail = result.detail if result is not None else ""
        message = f"{command.target} = {value}" + (f": {detail}" if detail else "")
        self.record(kind, message, severity, _metadata(command, result))

    async def committed(self) -> None:
        """Return once what was recorded survives the process; at once between runs."""
        if self._run is not None:
            await self._run.recorder.committed()

    def record(
        self, kind: str, message: str, severity: Severity, metadata: Mapping[str, Any]
    ) -> None:
        """Write an event into the run's bundle; between runs, into the log."""
        run = self._run
        if run is None:
            self._log.info(kind, message=message, **metadata)
            return
        t_mono_ns = run.clock.t_mono_ns()
        run.recorder.write_event(
            kind=kind,
            message=message,
            severity=severity,
            source="gate",
            t_mono_ns=t_mono_ns,
            t_utc=run.clock.utc_at(t_mono_ns),
            metadata=metadata,
        )


def _severity(result: CommandResult) -> Severity:
    if result.accepted:
        return "info"
    return "warning" if result.called_back else "error"


def _metadata(command: DeviceCommand, result: CommandResult | None) -> Mapping[str, Any]:
    metadata: dict[str, Any] = {
        "command": command.kind,
        "channel": command.target,
        "device": command.payload.get("device"),
        "value": command.payload.get("value"),
        "issued_by": command.issued_by,
        "authorization_id": command.authorization_id,
    }
    if command.confirmed_by is not None:
        metadata["confirmed_by"] = command.confirmed_by
    if result is not None:
        metadata |= {
            "accepted": result.accepted,
            "detail": result.detail,
            "readback": result.readback,
        }
    return metadata


def _safe_values(rig: Rig) -> frozenset[tuple[str, float]]:
    return frozenset(pair for stage in rig.profile.safe_state for pair in stage.set.items())
