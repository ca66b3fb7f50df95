"""The heat-flux tune: for each target flux, find the heater setpoint that gives it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel

from capa.experiment.procedures.base import (
    ChannelRequirement,
    Problem,
    Procedure,
    ProcedureContext,
    ProcedureError,
    ResolvedRecordingPlan,
)
from capa.experiment.procedures.builtin.heat_flux_tune.artifact import Artifact, TargetResult
from capa.experiment.procedures.builtin.heat_flux_tune.checks import check
from capa.experiment.procedures.builtin.heat_flux_tune.config import HeatFluxTuneConfig
from capa.experiment.procedures.builtin.heat_flux_tune.keeper import Keeper
from capa.experiment.procedures.builtin.heat_flux_tune.session import Session

__all__ = ["HeatFluxTune"]


@dataclass
class HeatFluxTune(Procedure):
    """Finds setpoints, and leaves them in a dated file beside the runs.

    A target that is not reached within its budgets is ``not_converged``; the tune goes on with
    the next one, which may well be reached, and the artifact says what each came to. At the end
    the run has crashed if any was not reached (``require_all = false``: if none was), so that a
    queue does not go on with setpoints that nobody found.
    """

    id: ClassVar[str] = "capa.builtin.heat_flux_tune"
    name: ClassVar[str] = "Heat-flux tune"
    version: ClassVar[str] = "1.0.0"
    config_model: ClassVar[type[BaseModel]] = HeatFluxTuneConfig
    required_capabilities: ClassVar[tuple[str, ...]] = ("setpoint",)
    required_channels: ClassVar[tuple[ChannelRequirement, ...]] = (
        ChannelRequirement(kind="heat_flux", reason="bind the gauge to a channel of this kind"),
        ChannelRequirement(kind="temperature", commandable=True, reason="bind the heater"),
    )
    uses_method: ClassVar[bool] = False

    cfg: HeatFluxTuneConfig

    @classmethod
    def from_config(cls, raw: dict[str, Any] | None) -> Self:
        """Make one from ``procedure.config``; pydantic's ``ValidationError`` for a bad one."""
        return cls(HeatFluxTuneConfig.model_validate(raw or {}))

    def plan_capture(self, default_plan: ResolvedRecordingPlan) -> ResolvedRecordingPlan:
        """Record the tune's own channels: a calibration needs neither balance nor video."""
        cfg = self.cfg
        own = (cfg.flux_channel, cfg.heater_pv_channel, cfg.heater_channel, *cfg.record_channels)
        return ResolvedRecordingPlan(
            channel_mode="only",
            recorded_channels=tuple(dict.fromkeys(own)),
            camera_mode="none",
            recorded_cameras=(),
            source="procedure_default",
        )

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        """Check the channels' kinds, units and limits, and that the targets can be reached."""
        return check(self.cfg, ctx)

    async def run(self, ctx: ProcedureContext) -> None:
        """Tune every target, or until a stop.

        Raises:
            ProcedureError: the gauge fell silent, something ran away, a setpoint was refused, a
                target was not reached, or the result could not be written.
        """
        run_id = getattr(ctx.bundle_writer, "run_id", None)
        source = f"procedure:{self.id}"
        keeper = Keeper(ctx, self.cfg.artifact_dir, run_id=run_id, source=source)
        artifact = self._artifact(ctx, run_id)
        ctx.logger.info("heat_flux_tune.start", targets=list(self.cfg.targets_kw_m2))
        session = Session(self.cfg, ctx, artifact, keeper)
        await session.run()
        self._judge(artifact, session.trouble, stopped=ctx.external_stop.is_set())
        await keeper.keep(artifact)
        ctx.metadata.setdefault("custom", {})["heat_flux_tune"] = _summary(artifact, keeper)
        ctx.logger.info("heat_flux_tune.end", status=artifact.status)
        if artifact.status == "crashed":
            raise ProcedureError(artifact.detail)
        if keeper.failed:
            raise ProcedureError(keeper.failed)

    def _artifact(self, ctx: ProcedureContext, run_id: str | None) -> Artifact:
        cfg = self.cfg
        return Artifact(
            begun_utc=ctx.clock.t_utc(),
            run_id=run_id,
            operator=ctx.authorization.issued_by,
            channels={
                "heater": cfg.heater_channel,
                "heater_pv": cfg.heater_pv_channel,
                "flux": cfg.flux_channel,
            },
            results=[TargetResult(target) for target in cfg.targets_kw_m2],
            config=cfg.model_dump(mode="json", exclude_none=True),
        )

    def _judge(self, artifact: Artifact, trouble: str, *, stopped: bool) -> None:
        """Say what the whole tune came to."""
        lacking = [result for result in artifact.results if not result.reached]
        if trouble:
            artifact.status, artifact.detail = "crashed", trouble
        elif stopped:
            artifact.status, artifact.detail = "aborted", "the run was stopped"
        elif not lacking:
            artifact.status = "completed"
        else:
            names = "; ".join(
                f"{one.target_kw_m2:g} kW/m^2 {one.detail or one.reason}" for one in lacking
            )
            artifact.detail = f"{len(lacking)} of {len(artifact.results)} targets missed: {names}"
            every_one = len(lacking) == len(artifact.results)
            artifact.status = "crashed" if self.cfg.require_all or every_one else "incomplete"


def _summary(artifact: Artifact, keeper: Keeper) -> dict[str, Any]:
    """Return the result for the manifest."""
    return {
        "artifact": str(keeper.path),
        "status": artifact.status,
        "targets": [
            {
                "target_kw_m2": result.target_kw_m2,
                "status": result.status,
                "setpoint_c": result.setpoint_c,
                "flux_kw_m2": result.flux_kw_m2,
            }
            for result in artifact.results
        ],
    }
