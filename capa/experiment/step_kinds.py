"""What each kind of step does; the executor walks them."""

import trio

from capa.experiment.method import (
    HoldStep,
    PromptStep,
    RampStep,
    SafeShutdownStep,
    WaitStep,
)
from capa.experiment.procedures.base import Stop
from capa.experiment.ramp import Trajectory
from capa.experiment.step_tools import MethodExecutorError, StepTools
from capa.experiment.waiting import WaitEnd

__all__ = ["DEFAULT_RAMP_TICK_HZ", "PROMPT_HEADLESS_DEFAULT_TIMEOUT_S", "StepKinds"]

DEFAULT_RAMP_TICK_HZ = 10.0
PROMPT_HEADLESS_DEFAULT_TIMEOUT_S = 30.0
_PROMPT_POLL_HZ = 10.0
_CONFIRMED = "_prompt_confirmed"


class StepKinds(StepTools):
    """The kinds that are more than one command or one wait."""

    __slots__ = ()

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

    # --- ramp ---------------------------------------------------------------------------------

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
        attended = ctx.metadata.get("_operator_attached", ctx.ui_sink is not None)
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


def _request(stop: Stop, reason: str) -> None:
    """Set a stop, with its reason where it can keep one (a bare event can't)."""
    if hasattr(stop, "reason"):
        stop.set(reason)  # type: ignore[call-arg]  # the protocol is the smaller one of an event
    else:
        stop.set()
