"""Walks a method's steps; everything it does to the rig goes through the gate.

Behaviour: the method step reference and the recipe runner's page. A refused setpoint fails the
step, and a wait on a channel that stopped delivering fails it too.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, assert_never

import trio

from capa.errors import kind_of, said_by
from capa.experiment.method import (
    AcquireStep,
    CustomStep,
    HoldStep,
    Method,
    PromptStep,
    RampStep,
    SafeShutdownStep,
    SetpointStep,
    Step,
    WaitStep,
)
from capa.experiment.procedures.base import ProcedureContext
from capa.experiment.step_kinds import (
    DEFAULT_RAMP_TICK_HZ,
    PROMPT_HEADLESS_DEFAULT_TIMEOUT_S,
    StepKinds,
)
from capa.experiment.step_tools import (
    DEFAULT_STALE_AFTER_S,
    MethodExecutorError,
    StepActivity,
    StepRecord,
)

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

DEFAULT_WAIT_POLL_HZ = 20.0
"""Kept for those who import it: waits are woken by samples, not polled."""

CustomHandler: TypeAlias = Callable[
    ["MethodExecutor", CustomStep, ProcedureContext], Awaitable[None]
]


@dataclass(slots=True)
class MethodExecutor(StepKinds):
    """One run's walk through a method.

    ``current_step_index`` counts from 0: None before the first step, then the step that runs
    (between two calls: the one that runs next). ``cooldown_stop`` stands in for
    ``ctx.external_stop`` in clean-up after a stop: only the next stop sets it.
    """

    custom_handlers: dict[str, CustomHandler] = field(default_factory=dict)

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

    async def run_segment(self, steps: Step | Sequence[Step] | Method) -> None:
        """Run steps that are not the method's own: a clean-up, a phase in between.

        After a stop only ``safe_shutdown`` steps run, and only the next stop ends their dwell:
        the rig is cooled, never heated, by a segment that a stop overtook.
        """
        given = steps.steps if isinstance(steps, Method) else steps
        segment = given if isinstance(given, Sequence) else (given,)
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

    # --- one step -----------------------------------------------------------------------------

    async def _not_held(self, step: Step) -> None:
        """Return once nothing holds the method, or it is stopped; cooling is never held up."""
        if self.hold.is_set() and not isinstance(step, SafeShutdownStep):
            await self._held()

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
                f"{_named(step, index)} failed: {said_by(error)}",
                severity="error",
                metadata={**facts, "error_type": kind_of(error), "error": str(error)},
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

    async def _run_custom(self, step: CustomStep) -> None:
        handler = self.custom_handlers.get(step.handler_id)
        if handler is None:
            raise MethodExecutorError(
                f"custom step references unknown handler_id {step.handler_id!r}; "
                "loading procedure must register it before run"
            )
        walked: object = handler(self, step, self._context)
        if not inspect.isawaitable(walked):
            raise MethodExecutorError(
                f"the handler of {step.handler_id!r} must be `async def`: it returned {walked!r}, "
                "which can't be awaited"
            )
        await walked

    def _stopped_at(self, index: int, *, segment: bool = False) -> None:
        reason = getattr(self._context.external_stop, "reason", "")
        self._context.logger.info("method.executor.stopped", step_index=index, reason=reason)
        self._event(
            "method.executor.stopped",
            f"stopped at step {index + 1}" + (f": {reason}" if reason else ""),
            metadata={"step_index": index, "segment": segment, "reason": reason},
        )


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
