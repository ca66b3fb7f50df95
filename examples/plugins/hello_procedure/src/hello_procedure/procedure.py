"""Drive one channel to a setpoint, hold it, exit."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import anyio
from pydantic import BaseModel, ConfigDict, Field

from capa.experiment.procedures.base import (
    ChannelRequirement,
    Problem,
    Procedure,
    ProcedureContext,
)

__all__ = ["HoldSetpoint", "HoldSetpointConfig"]


class HoldSetpointConfig(BaseModel):
    """What stands under ``procedure.config`` in the experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target_channel: str = Field(description="Channel to command.", min_length=1)
    value: float = Field(description="Setpoint, in the channel's unit.")
    duration_s: float = Field(description="How long to hold it, in seconds.", gt=0)


@dataclass(slots=True)
class HoldSetpoint(Procedure):
    """Commands once, then waits for the time to pass or for a stop."""

    id: ClassVar[str] = "hello.procedure.hold_setpoint"
    name: ClassVar[str] = "Hold a setpoint"
    version: ClassVar[str] = "0.1.0"
    config_model: ClassVar[type[BaseModel]] = HoldSetpointConfig
    required_capabilities: ClassVar[tuple[str, ...]] = ()
    required_channels: ClassVar[tuple[ChannelRequirement, ...]] = ()
    uses_method: ClassVar[bool] = False

    target_channel: str = ""
    value: float = 0.0
    duration_s: float = 0.0

    @classmethod
    def from_config(cls, raw: dict[str, object] | None) -> "HoldSetpoint":
        """Validate ``procedure.config`` and make a procedure of it."""
        return cls(**HoldSetpointConfig.model_validate(raw or {}).model_dump())

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        """Refuse to arm unless the channel is there and takes commands."""
        if self.target_channel not in ctx.instruments:
            known = ", ".join(ctx.instruments.names)
            said, hint = f"the rig has no channel {self.target_channel!r}", f"it has: {known}"
            return [Problem(code="hello.unknown_channel", message=said, hint=hint)]
        if not ctx.instruments.resolve(self.target_channel).spec.commandable:
            said = f"channel {self.target_channel!r} can only be read"
            return [Problem(code="hello.not_commandable", message=said)]
        return []

    async def run(self, ctx: ProcedureContext) -> None:
        """Command, hold, return; the engine makes the rig safe afterwards."""
        await self._command(ctx)
        with anyio.move_on_after(self.duration_s):
            await ctx.external_stop.wait()
        reason = "stopped" if ctx.external_stop.is_set() else "held to the end"
        self._record(ctx, "hello.ended", f"{self.target_channel}: {reason}")

    async def _command(self, ctx: ProcedureContext) -> None:
        binding = ctx.instruments.resolve(self.target_channel).binding
        if binding is None:
            raise RuntimeError(f"{self.target_channel} is bound to no device")
        command = ctx.authorization.issue(
            kind="set_setpoint",
            target=self.target_channel,
            payload={
                "value": self.value,
                "channel": self.target_channel,
                "device": binding.device,
            },
        )
        result = await ctx.dispatcher.dispatch(binding.device, command)
        said = f"{self.target_channel} = {self.value:g} (accepted: {result.accepted})"
        facts = {"value": self.value, "accepted": result.accepted}
        self._record(ctx, "hello.setpoint.commanded", said, facts)
        if not result.accepted:
            raise RuntimeError(f"{self.target_channel} = {self.value:g} refused: {result.detail}")

    def _record(
        self, ctx: ProcedureContext, kind: str, message: str, facts: dict[str, Any] | None = None
    ) -> None:
        ctx.bundle_writer.write_event(
            kind=kind,
            message=message,
            severity="info",
            source=f"procedure:{self.id}",
            t_mono_ns=ctx.clock.t_mono_ns(),
            t_utc=datetime.now(UTC),
            metadata=facts,
        )
