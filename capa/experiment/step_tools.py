"""What the steps of a method are made of: a setpoint through the gate, a wait, an event."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from capa.devices.adapter import CommandResult
from capa.errors import CapaError
from capa.experiment.hold import Hold
from capa.experiment.method import AlarmOverride, EndCondition, Method, PromptStep, Step, StepKind
from capa.experiment.procedures.base import ProcedureContext, Stop
from capa.experiment.waiting import SilentChannelError, WaitEnd, first_of

__all__ = [
    "DEFAULT_STALE_AFTER_S",
    "MethodExecutorError",
    "Overriding",
    "Severity",
    "StepActivity",
    "StepRecord",
    "StepTools",
]

DEFAULT_STALE_AFTER_S = 30.0
"""How long an end condition's channel may stay silent where the profile states no
``stale_after_s``."""

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
class StepTools:
    """One run's walk through a method, as far as every kind of step needs it.

    The methods with an underscore are for the kinds of steps and for custom handlers.
    """

    ctx: ProcedureContext | None = None
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

    @property
    def _context(self) -> ProcedureContext:
        if self.ctx is None:
            raise MethodExecutorError("the executor has no context; the engine sets `ctx`")
        return self.ctx

    @property
    def _stop(self) -> Stop:
        return self.cooldown_stop if self._cleaning_up else self._context.external_stop

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
