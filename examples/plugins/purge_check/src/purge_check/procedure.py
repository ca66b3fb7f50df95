"""The recipe runner, with a step that proves the purge before anything heats."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capa.experiment.executor import MethodExecutor, MethodExecutorError
from capa.experiment.method import CustomStep
from capa.experiment.procedures.base import ProcedureContext, ProcedureError
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner

__all__ = ["PURGE", "PurgeCheckRunner", "PurgeParams"]

PURGE = "purge_check.purge"
_LOOK_EVERY_S = 0.2
_STALE_AFTER_S = 3.0


class PurgeParams(BaseModel):
    """The step's ``params``: capa leaves their meaning to the handler."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channel: str
    flow: float = Field(gt=0)
    tolerance: float | None = Field(default=None, gt=0)
    steady_s: float = Field(default=10.0, ge=0)
    timeout_s: float = Field(default=60.0, gt=0)

    @property
    def band(self) -> float:
        """How far the measured flow may lie from the wanted one."""
        return 0.1 * self.flow if self.tolerance is None else self.tolerance


@dataclass
class PurgeCheckRunner(RecipeRunner):
    """Walks the method; adds the step ``purge_check.purge``."""

    id: ClassVar[str] = "purge_check.recipe_runner"
    name: ClassVar[str] = "Recipe runner with a purge check"
    version: ClassVar[str] = "0.1.0"
    custom_handler_ids: ClassVar[tuple[str, ...]] = (PURGE,)

    async def run(self, ctx: ProcedureContext) -> None:
        """Register the step, then walk the method."""
        executor = ctx.method_executor
        if executor is None:
            raise ProcedureError("the engine handed over no method executor")
        executor.custom_handlers[PURGE] = self._purge
        await super().run(ctx)

    async def _purge(
        self, executor: MethodExecutor, step: CustomStep, ctx: ProcedureContext
    ) -> None:
        try:
            params = PurgeParams.model_validate(dict(step.params))
        except ValidationError as error:
            raise MethodExecutorError(f"{PURGE}: {error}") from error
        await _open(params, ctx)
        with anyio.move_on_after(params.timeout_s):
            if await _steady(params, ctx):
                said = f"{params.channel} steady at {params.flow:g}"
                _record(ctx, "purge_check.purged", said, {"flow": params.flow})
            return
        raise MethodExecutorError(
            f"{PURGE}: {params.channel} was not within {params.band:g} of {params.flow:g} for "
            f"{params.steady_s:g} s in {params.timeout_s:g} s; it shows {_shown(params, ctx)}"
        )


async def _open(params: PurgeParams, ctx: ProcedureContext) -> None:
    channel = ctx.instruments.resolve(params.channel)
    if channel.binding is None:
        raise MethodExecutorError(f"{PURGE}: {params.channel} is bound to no device")
    device = channel.binding.device
    command = ctx.authorization.issue(
        kind="set_setpoint",
        target=params.channel,
        payload={"value": params.flow, "channel": params.channel, "device": device},
    )
    result = await ctx.dispatcher.dispatch(device, command)
    if not result.accepted:
        raise MethodExecutorError(f"{PURGE}: {params.channel} refused: {result.detail}")
    _record(ctx, "purge_check.opened", f"{params.channel} set to {params.flow:g}")


async def _steady(params: PurgeParams, ctx: ProcedureContext) -> bool:
    """Return True once the flow has stayed in its band; False on a stop."""
    since_s = math.inf
    while not ctx.external_stop.is_set():
        now_s = ctx.clock.t_mono_s()
        since_s = min(since_s, now_s) if _flowing(params, ctx) else math.inf
        if now_s - since_s >= params.steady_s:
            return True
        with anyio.move_on_after(_LOOK_EVERY_S):
            await ctx.external_stop.wait()
    return False


def _flowing(params: PurgeParams, ctx: ProcedureContext) -> bool:
    """Whether a fresh and usable sample lies in the band; an old one proves nothing."""
    sample, age_s = ctx.databus.latest(params.channel), ctx.databus.age_s(params.channel)
    if sample is None or age_s is None or age_s > _STALE_AFTER_S or not sample.usable:
        return False
    return abs(sample.value - params.flow) <= params.band


def _shown(params: PurgeParams, ctx: ProcedureContext) -> str:
    sample = ctx.databus.latest(params.channel)
    return "nothing" if sample is None else f"{sample.value:g} ({sample.status})"


def _record(
    ctx: ProcedureContext, kind: str, message: str, facts: dict[str, Any] | None = None
) -> None:
    ctx.bundle_writer.write_event(
        kind=kind,
        message=message,
        severity="info",
        source=f"procedure:{PurgeCheckRunner.id}",
        t_mono_ns=ctx.clock.t_mono_ns(),
        t_utc=datetime.now(UTC),
        metadata=facts,
    )
