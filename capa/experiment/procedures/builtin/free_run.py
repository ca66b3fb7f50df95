"""Record what the rig does, and command nothing."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import trio
from pydantic import BaseModel, ConfigDict, Field

from capa.experiment.procedures.base import (
    ChannelRequirement,
    Problem,
    Procedure,
    ProcedureContext,
)

__all__ = ["FreeRun", "FreeRunConfig"]


class FreeRunConfig(BaseModel):
    """``procedure.config`` of the free run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    duration_s: float | None = Field(default=None, ge=0)
    """How long to record: null until it is stopped, 0 just to arm, open a bundle and seal it."""
    notes: str | None = None
    """The operator's comment; kept in the manifest."""


@dataclass
class FreeRun(Procedure):
    """Records until its time is over or it is stopped."""

    id: ClassVar[str] = "capa.builtin.free_run"
    name: ClassVar[str] = "Free run"
    version: ClassVar[str] = "1.0.0"
    config_model: ClassVar[type[BaseModel]] = FreeRunConfig
    required_capabilities: ClassVar[tuple[str, ...]] = ()
    required_channels: ClassVar[tuple[ChannelRequirement, ...]] = ()
    uses_method: ClassVar[bool] = False

    duration_s: float | None = None
    notes: str | None = None

    @classmethod
    def from_config(cls, raw: dict[str, Any] | None) -> Self:
        """Make one from ``procedure.config``; pydantic's ``ValidationError`` for a bad one."""
        config = FreeRunConfig.model_validate(raw or {})
        return cls(duration_s=config.duration_s, notes=config.notes)

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        """Refuse a method: its steps would be ignored, which nobody who wrote one expects."""
        if ctx.config.method is None:
            return []
        return [
            Problem(
                code="free_run.has_method",
                message=f"{self.id} walks no method, but the experiment has "
                f"{ctx.config.method.name!r}",
                hint="take the method out, or use capa.builtin.recipe_runner",
            )
        ]

    async def run(self, ctx: ProcedureContext) -> None:
        """Sleep; everything is recorded meanwhile."""
        if self.notes is not None:
            ctx.metadata.setdefault("custom", {})["notes"] = self.notes
        ctx.logger.info("free_run.start", duration_s=self.duration_s)
        with trio.move_on_after(float("inf") if self.duration_s is None else self.duration_s):
            await ctx.external_stop.wait()
        ctx.logger.info("free_run.end")
