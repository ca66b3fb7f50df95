"""Walks a method's steps; everything it does to the rig goes through the gate.

Behaviour: the method step reference and the recipe runner's page. A refused setpoint fails the
step, and a wait on a channel that stopped delivering fails it too.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, assert_never

import trio

from capa.devices.adapter import CommandResult
from capa.errors import CapaError
from capa.experiment.hold import Hold
from capa.experiment.method import (
    AcquireStep,
    AlarmOverride,
    CustomStep,
    EndCondition,
    HoldStep,
    Method,
    PromptStep,
    RampStep,
    SafeShutdownStep,
    SetpointStep,
    Step,
    StepKind,
    WaitStep,
)
from capa.experiment.procedures.base import ProcedureContext, Stop
from capa.experiment.ramp import Trajectory
from capa.experiment.waiting import SilentChannelError, WaitEnd, first_of

__all__ = [
    "DEFAULT_RAMP_TICK_HZ",
    "DEFAULT_STALE_AFTER_S",
    "DEFAULT_WAIT_POLL_HZ",
    "PROMPT_HEADLESS_DEFAULT_TIMEOUT_S",
    "CustomHandler",
    "MethodExecutor",
    "MethodExecutorError",
    "StepActivity",
    "StepRecord",
]

DEFAULT_RAMP_TICK_HZ = 10.0
DEFAULT_WAIT_POLL_HZ = 20.0
"""Kept for those who import it: waits are woken by samples, not polled."""
PROMPT_HEADLESS_DEFAULT_TIMEOUT_S = 30.0
DEFAULT_STALE_AFTER_S = 30.0
"""How long an end condition's channel may stay silent where the profile states no
``stale_after_s``."""

_PROMPT_POLL_HZ = 10.0
_CONFIRMED = "_prompt_confirmed"

CustomHandler: TypeAlias = Callable[
    ["MethodExecutor", CustomStep, ProcedureContext], Awaitable[None]
]
Severity = Literal["debug", "info", "warning", "error", "critical"]
Overriding = Callable[[Sequence[AlarmOverride], str], AbstractContextManager[None]]
"""Puts a step's ``safety_overrides`` in force for the length of a block."""


class MethodExecutorError(CapaError):
    """A step can't be completed: what was asked, what came back."""


@dataclass(slots=True)
class StepActivity:
    """The step that runs, for those who show progress. ``ends_at_s`` is None while unknown."""

    index: int
    step: Step
    started_at_s: float
    ends_at_s: float | None = None
    from_value: float | None = None
    to_value: float | None = None
    condition: EndCondition | None = None


@dataclass(slots=True)
class StepRecord:
    """What became of one step. Times are nanoseconds since arm."""

    index: int
    kind: StepKind
    target: str | None
    entered_ns: int
    left_ns: int | None = None
    outcome: Literal["running", "exited", "stopped", "failed"] = "running"


@dataclass(slots=True)
class MethodExecutor:
    """One run's walk through a method.

    ``current_step_index`` counts from 0: None before the first step, then the step that runs
    (between two calls: the one that runs next). ``cooldown_stop`` stands in for
    ``ctx.external_stop`` in clean-up after a stop: only the next stop sets it.
    """

    ctx: ProcedureContext | None = None
    custom_handlers: dict[str, CustomHandler] = field(default_factory=dict)
    auto_acknowledge_prompts: bool = False
    current_step_index: int | None = None
    cooldown_stop: Stop = field(default_factory=trio.Event)
    hold: Hold = field(default_factory=Hold)
    overriding: Overriding | None = None
    on_step: Callable[[], None] | None = None
    activity: StepActivity | None = None
    prompt: PromptStep | None = None
    records: list[StepRecord] = field(default_factory=list)
    cooldown_until_s: float | None = None
    method: Method | None = None
    _cleaning_up: bool = False

    async def run_to_completion(self, method: Method) -> None:
        """Walk every step that is left; return early, without an error, on ``external_stop``.

        Raises:
            MethodExecutorError: a step can't be completed. Anything else a step raised, as is.
        """
        await self.advance_until(method, len(method.steps))
        if not self._context.external_stop.is_set():
            self.method = None

    async def advance_until(self, method: Method, n: int) -> None:
        """Run the steps from the current one up to, not including, ``n`` (counted from 0).

        The first call for a method begins at its first step.
        """
        if self.method is not method:
            self.method, self.current_step_index = method, None
        position = self.current_step_index or 0
        while position < min(n, len(method.steps)):
            self.current_step_index = position
            await self._not_held(method.steps[position])
            if self._stop.is_set():
                self._stopped_at(position)
                return
            await self._dispatch(method.steps[position], position)
            if self._stop.is_set():
                self._stopped_at(position)
                return
            position += 1
            self.current_step_index = position

    async def run_segment(self, steps: Step | Sequence[Step]) -> None:
        """Run steps that are not the method's own: a clean-up, a phase in between.

        After a stop only ``safe_shutdown`` steps run, and only the next stop ends their dwell:
        the rig is cooled, never heated, by a segment that a stop overtook.
        """
        segment = steps if isinstance(steps, Sequence) else (steps,)
        self._cleaning_up = self._context.external_stop.is_set()
        try:
            for index, step in enumerate(segment):
                stopped = self._context.external_stop.is_set() and not self._cleaning_up
                if stopped or (self._cleaning_up and not isinstance(step, SafeShutdownStep)):
                    self._stopped_at(index, segment=True)
                    continue
                await self._not_held(step)
                if self._context.external_stop.is_set() and not self._cleaning_up:
                    self._stopped_at(index, segment=True)
                    continue
                await self._dispatch(step, index, segment=True)
        finally:
            self._cleaning_up = False

    @property
    def _context(self) -> ProcedureContext:
        if self.ctx is None:
            raise MethodExecutorError("the executor has no context; the engine sets `ctx`")
        return self.ctx

    @property
    def _stop(self) -> Stop:
        return self.cooldown_stop if self._cleaning_up else self._context.external_stop

    # --- one step -----------------------------------------------------------------------------

    async def _not_held(self, step: Step) -> None:
        """Return once nothing holds the method, or it is stopped; cooling is never held up."""
        if self.hold.is_set() and not isinstance(step, SafeShutdownStep):
            await self._held()

    async def _held(self) -> float:
        """Wait for the end of a hold or for the stop; return how long that took."""
        began_s = trio.current_time()
        async with trio.open_nursery() as race:

            async def until_released() -> None:
                await self.hold.released()
                race.cancel_scope.cancel()

            race.start_soon(until_released)
            await self._stop.wait()
            race.cancel_scope.cancel()
        return trio.current_time() - began_s

    async def _dispatch(self, step: Step, index: int, *, segment: bool = False) -> None:
        """Run a step between its events."""
        facts = _facts(step, index, segment=segment)
        record = StepRecord(index, step.kind, facts.get("target"), self._now_ns())
        self.records.append(record)
        self.activity = StepActivity(index, step, trio.current_time())
        overrides = [override.model_dump() for override in step.safety_overrides]
        self._event(
            "method.step.entered",
            f"{_named(step, index)} entered",
            metadata={**facts, "notes": step.notes, "safety_overrides": overrides},
        )
        self._tell()
        try:
            if self.overriding is None or not step.safety_overrides:
                await self._run_step(step)
            else:
                with self.overriding(step.safety_overrides, _named(step, index)):
                    await self._run_step(step)
        except BaseException as error:
            record.outcome = "failed"
            self._event(
                "method.step.failed",
                f"{_named(step, index)} failed: {type(error).__name__}: {error}",
                severity="error",
                metadata={**facts, "error_type": type(error).__name__, "error": str(error)},
            )
            raise
        else:
            record.outcome = "stopped" if self._stop.is_set() else "exited"
            self._event("method.step.exited", f"{_named(step, index)} exited", metadata=facts)
        finally:
            record.left_ns = self._now_ns()
            self.activity = None
            self._tell()

    async def _run_step(self, step: Step) -> None:
        match step:
            case HoldStep():
                await self._run_hold(step)
            case RampStep():
                await self._run_ramp(step)
            case SetpointStep():
                await self._command_setpoint(step.target.name, step.value, step_kind=step.kind)
            case WaitStep():
                await self._run_wait(step)
            case PromptStep():
                await self._run_prompt(step)
            case AcquireStep():
                await self._wait_for(None, duration_s=step.duration_s)
            case SafeShutdownStep():
                await self._run_safe_shutdown(step)
            case CustomStep():
                await self._run_custom(step)
            case _:
                assert_never(step)

    async def _run_hold(self, step: HoldStep) -> None:
        await self._command_setpoint(step.target.name, step.value, step_kind=step.kind)
        await self._wait_for(step.end_condition, duration_s=step.duration_s)

    async def _run_wait(self, step: WaitStep) -> None:
        end = await self._wait_for(
            step.end_condition, duration_s=step.duration_s, timeout_s=step.timeout_s
        )
        if end is not WaitEnd.TIMEOUT:
            return
        message = f"wait: not over after timeout_s = {step.timeout_s:g} s"
        self._event(
            "method.wait.timeout",
            f"{message}; on_timeout = {step.on_timeout}",
            severity="error" if step.on_timeout == "abort" else "warning",
            metadata={"timeout_s": step.timeout_s, "on_timeout": step.on_timeout},
        )
        if step.on_timeout == "abort":
            raise MethodExecutorError(f"{message} (on_timeout = abort)")
        if step.on_timeout == "safe_shutdown":
            _request(self._context.external_stop, f"{message} (on_timeout = safe_shutdown)")

    async def _run_custom(self, step: CustomStep) -> None:
        handler = self.custom_handlers.get(step.handler_id)
        if handler is None:
            raise MethodExecutorError(
                f"custom step references unknown handler_id {step.handler_id!r}; "
                "loading procedure must register it before run"
            )
        await handler(self, step, self._context)

    # --- ramp ---------------------------------------------------------------------------------

    async def _run_ramp(self, step: RampStep) -> None:
        """Write one setpoint per tick, the last one exactly ``end_value``, or leave on a stop."""
        if step.duration_s is None and not step.rate_per_second:
            raise MethodExecutorError(
                f"ramp of {step.target.name}: rate_per_second is 0, so it would never end; "
                "give a rate or a duration_s"
            )
        path = self._trajectory(step)
        if path is None:
            await self._command_setpoint(step.target.name, step.end_value, step_kind=step.kind)
            return
        began_s = trio.current_time()
        self._show(ends_at_s=began_s + path.duration_s, from_value=path.start, to_value=path.end)
        tick = 0 if step.start_value is not None else path.next_tick(0, 0.0)
        while not await self._stopped_by(began_s + path.due_s(tick)):
            if self.hold.is_set():
                self._moved(float("inf"))
                began_s += await self._held()
                self._moved(began_s + path.duration_s)
                continue
            await self._command_setpoint(step.target.name, path.value(tick), step_kind=step.kind)
            if tick == path.last_tick:
                return
            tick = path.next_tick(tick, trio.current_time() - began_s)

    def _trajectory(self, step: RampStep) -> Trajectory | None:
        """Return the way to go; None, with a warning, where the way's beginning is unknown."""
        start = step.start_value
        if start is None:
            latest = self._context.databus.latest(step.target.name)
            start = latest.value if latest is not None and latest.usable else None
        if start is None:
            self._warn(
                "method.ramp.no_start",
                f"ramp of {step.target.name}: no live sample to start from; "
                f"going to {step.end_value:g} at once",
                {"channel": step.target.name, "end_value": step.end_value},
            )
            return None
        duration_s = step.duration_s
        if duration_s is None:
            duration_s = abs(step.end_value - start) / abs(step.rate_per_second or 1.0)
        return Trajectory(start, step.end_value, duration_s, DEFAULT_RAMP_TICK_HZ)

    # --- prompt -------------------------------------------------------------------------------

    async def _run_prompt(self, step: PromptStep) -> None:
        """Show the prompt and poll for its confirmation; an old confirmation does not count."""
        ctx = self._context
        ctx.metadata[_CONFIRMED] = False
        facts = {"title": step.title, "message": step.message, "timeout_s": step.timeout_s}
        self._event("method.prompt.shown", f"{step.title}: {step.message}", metadata=facts)
        self.prompt = step
        try:
            await self._answer(step)
        finally:
            self.prompt = None

    async def _answer(self, step: PromptStep) -> None:
        if self.auto_acknowledge_prompts:
            await trio.lowlevel.checkpoint()
            self._acknowledged(step, "auto_acknowledge")
            return
        timeout_s = self._prompt_timeout_s(step)
        metadata = self._context.metadata
        deadline_s = trio.current_time() + timeout_s
        self._show(ends_at_s=deadline_s)
        while not metadata.get(_CONFIRMED):
            if trio.current_time() >= deadline_s:
                self._unanswered(step, "timeout")
                raise MethodExecutorError(
                    f"prompt {step.title!r}: nobody confirmed within {timeout_s:g} s"
                )
            poll_s = trio.current_time() + 1 / _PROMPT_POLL_HZ
            if await self._stopped_by(min(poll_s, deadline_s)):
                self._unanswered(step, "external_stop")
                return
        self._acknowledged(step, str(metadata.get("_prompt_confirmed_by", "operator")))

    def _prompt_timeout_s(self, step: PromptStep) -> float:
        """Return the step's own deadline; else none with an operator there, a soft one without."""
        ctx = self._context
        if step.timeout_s is not None:
            return step.timeout_s
        attended = ctx.ui_sink is not None or ctx.metadata.get("_operator_attached")
        return float("inf") if attended else PROMPT_HEADLESS_DEFAULT_TIMEOUT_S

    def _acknowledged(self, step: PromptStep, by: str) -> None:
        self._event(
            "method.prompt.acknowledged",
            f"{step.title}: confirmed by {by}",
            metadata={"title": step.title, "by": by},
        )

    def _unanswered(self, step: PromptStep, reason: str) -> None:
        self._warn(
            "method.prompt.unanswered",
            f"{step.title}: not confirmed ({reason})",
            {"title": step.title, "reason": reason},
        )

    # --- safe_shutdown ------------------------------------------------------------------------

    async def _run_safe_shutdown(self, step: SafeShutdownStep) -> None:
        """Command every cool target, whatever became of the others; then dwell.

        A channel that the rig does not have is a warning; a target that was refused or could
        not be reached fails the step once all have been tried.
        """
        failures: list[str] = []
        for channel, value in step.cool_target.items():
            if channel not in self._context.instruments:
                self._warn(
                    "method.safe_shutdown.missing_channel",
                    f"safe_shutdown: the rig has no channel {channel}; the others are driven",
                    {"channel": channel},
                )
                continue
            try:
                await self._command_setpoint(channel, value, step_kind=step.kind)
            except Exception as error:  # noqa: BLE001 - the other targets must get their values
                failures.append(f"{channel}: {error}")
        if failures:
            raise MethodExecutorError("safe_shutdown: " + "; ".join(failures))
        if step.duration_s:
            self.cooldown_until_s = trio.current_time() + step.duration_s
            await self._wait_for(None, duration_s=step.duration_s)
            self.cooldown_until_s = None

    # --- what steps, and custom handlers, are made of -----------------------------------------

    async def _command_setpoint(
        self, channel: str, value: float, *, step_kind: str = "custom"
    ) -> CommandResult:
        """Send a setpoint through the gate and record it.

        One that a stop called back is no failure: the step leaves by the stop.

        Raises:
            MethodExecutorError: the rig has no such channel, it can't be commanded, or the gate
                or the device refused.
        """
        ctx = self._context
        try:
            binding = ctx.instruments.resolve(channel).binding
        except KeyError as error:
            raise MethodExecutorError(f"{step_kind}: {error.args[0]}") from error
        if binding is None:
            raise MethodExecutorError(f"{step_kind}: {channel} is derived; it can't be commanded")
        command = ctx.authorization.issue(
            kind=binding.command or "set_setpoint",
            target=channel,
            payload={"value": value, "channel": channel, "device": binding.device},
        )
        result = await ctx.dispatcher.dispatch(binding.device, command)
        self._event(
            "method.command.issued",
            f"{channel} = {value:g} ({'accepted' if result.accepted else result.detail})",
            severity="info" if result.accepted else "error",
            metadata={
                "channel": channel,
                "device": binding.device,
                "value": value,
                "step_kind": step_kind,
                "accepted": result.accepted,
                "issued_by": command.issued_by,
                "authorization_id": command.authorization_id,
            },
        )
        overtaken = result.called_back and ctx.external_stop.is_set()
        if not result.accepted and not overtaken:
            raise MethodExecutorError(
                f"{step_kind}: {channel} = {value:g} refused: {result.detail}"
            )
        return result

    async def _wait_for(
        self,
        condition: EndCondition | None,
        *,
        duration_s: float | None = None,
        timeout_s: float | None = None,
    ) -> WaitEnd:
        """Wait for whichever comes first; a duration that ends with the time-out ends the wait.

        Raises:
            MethodExecutorError: the condition's channel is unknown, or stopped delivering.
        """
        duration = float("inf") if duration_s is None else duration_s
        timeout = float("inf") if timeout_s is None else timeout_s
        deadline_s = trio.current_time() + min(duration, timeout)
        self._show(ends_at_s=deadline_s, condition=condition)
        stale_after_s = self._stale_after_s(condition)
        try:
            hold = Hold() if self._cleaning_up else self.hold
            with hold.timer(deadline_s, self._moved):
                return await first_of(self._context.databus, condition, stale_after_s, self._stop)
        except SilentChannelError as silence:
            raise MethodExecutorError(f"end condition: {silence}") from silence
        return WaitEnd.DURATION if duration <= timeout else WaitEnd.TIMEOUT

    def _stale_after_s(self, condition: EndCondition | None) -> float:
        if condition is None:
            return DEFAULT_STALE_AFTER_S
        try:
            spec = self._context.instruments.resolve(condition.channel).spec
        except KeyError as error:
            raise MethodExecutorError(f"end condition: {error.args[0]}") from error
        return DEFAULT_STALE_AFTER_S if spec.stale_after_s is None else spec.stale_after_s

    async def _stopped_by(self, at_s: float) -> bool:
        """Sleep until an instant; True at once when a stop comes before it."""
        with trio.move_on_at(at_s):
            await self._stop.wait()
        return self._stop.is_set()

    # --- telling ------------------------------------------------------------------------------

    def _show(
        self,
        *,
        ends_at_s: float,
        from_value: float | None = None,
        to_value: float | None = None,
        condition: EndCondition | None = None,
    ) -> None:
        if self.activity is not None:
            self.activity.ends_at_s = None if ends_at_s == float("inf") else ends_at_s
            self.activity.from_value, self.activity.to_value = from_value, to_value
            self.activity.condition = condition
            self._tell()

    def _moved(self, ends_at_s: float) -> None:
        """Show that a hold has moved the step's end."""
        if self.activity is not None:
            self.activity.ends_at_s = None if ends_at_s == float("inf") else ends_at_s
            self._tell()

    def _tell(self) -> None:
        if self.on_step is not None:
            self.on_step()

    def _stopped_at(self, index: int, *, segment: bool = False) -> None:
        reason = getattr(self._context.external_stop, "reason", "")
        self._context.logger.info("method.executor.stopped", step_index=index, reason=reason)
        self._event(
            "method.executor.stopped",
            f"stopped at step {index + 1}" + (f": {reason}" if reason else ""),
            metadata={"step_index": index, "segment": segment, "reason": reason},
        )

    def _warn(self, kind: str, message: str, metadata: Mapping[str, Any]) -> None:
        self._context.logger.warning(kind, message=message, **metadata)
        self._event(kind, message, severity="warning", metadata=metadata)

    def _event(
        self,
        kind: str,
        message: str,
        *,
        severity: Severity = "info",
        metadata: Mapping[str, Any],
    ) -> None:
        clock = self._context.clock
        t_mono_ns = clock.t_mono_ns()
        self._context.bundle_writer.write_event(
            kind=kind,
            message=message,
            severity=severity,
            source="method_executor",
            t_mono_ns=t_mono_ns,
            t_utc=clock.utc_at(t_mono_ns),
            metadata=dict(metadata),
        )

    def _now_ns(self) -> int:
        return self._context.clock.t_mono_ns()


def _facts(step: Step, index: int, *, segment: bool) -> dict[str, Any]:
    """Return what every event of a step carries."""
    facts: dict[str, Any] = {"step_index": index, "step_kind": step.kind}
    target = getattr(step, "target", None)
    if target is not None:
        facts["target"] = target.name
    if segment:
        facts["segment"] = True
    return facts


def _named(step: Step, index: int) -> str:
    return f"step {index + 1} ({step.kind})"


def _request(stop: Stop, reason: str) -> None:
    """Set a stop, with its reason where it can keep one (a bare event can't)."""
    if hasattr(stop, "reason"):
        stop.set(reason)  # type: ignore[call-arg]  # the protocol is the smaller one of an event
    else:
        stop.set()
