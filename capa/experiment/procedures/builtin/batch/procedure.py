"""Conducts the replicates of a batch, one whole run after the other."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel

from capa.config.experiment import ExperimentConfig
from capa.config.explain import did_you_mean
from capa.errors import CapaError
from capa.experiment.executor import MethodExecutorError
from capa.experiment.method import EndCondition, WaitStep
from capa.experiment.procedures.base import (
    ChannelRequirement,
    InnerOutcome,
    InnerRun,
    InnerRuns,
    Problem,
    Procedure,
    ProcedureContext,
    ProcedureError,
    ResolvedRecordingPlan,
)
from capa.experiment.procedures.builtin.batch.config import BatchConfig
from capa.experiment.procedures.builtin.batch.plan import Replicate, plan_batch

__all__ = ["Batch", "BatchError"]


class BatchError(CapaError):
    """A batch in which not every replicate completed: which, and how each ended."""


@dataclass
class Batch(Procedure):
    """Runs an inner procedure N times, with its own authorization, bundle and safe state each.

    The batch commands nothing itself. Its own bundle holds no samples, only the events that name
    each replicate's run and how it ended.
    """

    id: ClassVar[str] = "capa.builtin.batch"
    name: ClassVar[str] = "Batch"
    version: ClassVar[str] = "1.0.0"
    config_model: ClassVar[type[BaseModel]] = BatchConfig
    required_capabilities: ClassVar[tuple[str, ...]] = ()
    required_channels: ClassVar[tuple[ChannelRequirement, ...]] = ()
    uses_method: ClassVar[bool] = True

    config: BatchConfig = field(default_factory=lambda: BatchConfig(replicates=1))
    _failed: list[str] = field(default_factory=list)

    @classmethod
    def from_config(cls, raw: dict[str, Any] | None) -> Self:
        """Make one from ``procedure.config``; pydantic's ``ValidationError`` for a bad one."""
        return cls(config=BatchConfig.model_validate(raw or {}))

    @classmethod
    def inner_experiments(
        cls, experiment: ExperimentConfig
    ) -> tuple[list[ExperimentConfig], list[Problem]]:
        """Return what each replicate will be, for checks that are made at the desk."""
        config = BatchConfig.model_validate(experiment.procedure.config)
        replicates, problems = plan_batch(config, experiment)
        if config.procedure.id == cls.id:
            problems.append(_recursion())
        return [replicate.experiment for replicate in replicates], problems

    def plan_capture(self, default_plan: ResolvedRecordingPlan) -> ResolvedRecordingPlan:
        """Record nothing: the samples are in the replicates' own bundles."""
        return ResolvedRecordingPlan(
            channel_mode="only", camera_mode="none", source="procedure_default"
        )

    # --- before the first one heats ---------------------------------------------------------------

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        """Check every replicate as it will be run, its changed values included."""
        if ctx.runs is None or self.config.procedure.id == self.id:
            return [_recursion()]
        replicates, problems = plan_batch(self.config, ctx.config)
        problems += self._cooldown_problems(ctx)
        return problems + await _checked(ctx.runs, replicates)

    def _cooldown_problems(self, ctx: ProcedureContext) -> list[Problem]:
        until = self.config.cooldown_until
        if until is None or until.channel in ctx.instruments:
            return []
        return [
            Problem(
                code="batch.cooldown_channel",
                message=f"no channel is called {until.channel!r}",
                where="procedure.config.cooldown_until.channel",
                hint=did_you_mean(until.channel, ctx.instruments.names),
            )
        ]

    # --- the runs ---------------------------------------------------------------------------------

    async def run(self, ctx: ProcedureContext) -> None:
        """Conduct the replicates; a stop ends the one under way and the batch.

        Raises:
            BatchError: not every replicate completed; says which.
        """
        replicates, _ = plan_batch(self.config, ctx.config)
        self._begun(ctx, replicates)
        for position, replicate in enumerate(replicates):
            await self._cool_down(ctx, replicate, after_another=position > 0)
            if ctx.external_stop.is_set():
                return
            if not await self._replicate(ctx, replicate):
                return
        _status(ctx, "")
        if self._failed:
            raise BatchError(self._failures())
        _event(ctx, "batch.completed", f"all {len(replicates)} replicates completed")

    async def _replicate(self, ctx: ProcedureContext, replicate: Replicate) -> bool:
        """Conduct one replicate; False if the batch was stopped with it.

        Raises:
            BatchError: it failed, and the batch is not to go on.
        """
        facts = {"iteration": replicate.index, "sample_id": replicate.sample_id}
        _status(ctx, "")
        ctx.metadata["exit_note"] = f"in {replicate.label}"
        _event(ctx, "batch.replicate.started", f"{replicate.label} begins", metadata=facts)
        run = InnerRun(experiment=replicate.experiment, label=replicate.label)
        outcome = await _runs(ctx).run(run)
        ctx.metadata["exit_note"] = f"in {replicate.label} (run {outcome.run_id})"
        self._ended(ctx, replicate, outcome, facts)
        if ctx.external_stop.is_set():
            return False
        if outcome.unreachable:
            names = ", ".join(outcome.unreachable)
            raise BatchError(f"{self._failures()}; the batch ends, as {names} is not proven safe")
        if not _good(outcome) and self.config.fail_fast:
            raise BatchError(f"{self._failures()}; the batch ends (fail_fast)")
        return True

    async def _cool_down(
        self, ctx: ProcedureContext, replicate: Replicate, *, after_another: bool
    ) -> None:
        """Wait as long as it takes before a replicate; nothing before the first of all."""
        executor, steps = ctx.method_executor, self._cooldown_steps(after_another=after_another)
        if not steps or replicate.index == 1 or executor is None:
            return
        ctx.metadata["exit_note"] = f"in the cooldown before {replicate.label}"
        _status(ctx, f"cooldown before {replicate.label}")
        _event(ctx, "batch.cooldown.started", f"cooling down before {replicate.label}")
        try:
            await executor.run_segment(steps)
        except MethodExecutorError as error:
            raise BatchError(f"cooldown before {replicate.label}: {error}") from error
        if not ctx.external_stop.is_set():
            _event(ctx, "batch.cooldown.ended", f"cooled down before {replicate.label}")

    def _cooldown_steps(self, *, after_another: bool) -> list[WaitStep]:
        """Return the waits; a batch that is resumed waits for the condition, not for the time."""
        steps = []
        if self.config.cooldown_s > 0 and after_another:
            steps.append(WaitStep(duration_s=self.config.cooldown_s))
        until = self.config.cooldown_until
        if until is not None:
            condition = EndCondition(channel=until.channel, op=until.op, value=until.value)
            steps.append(
                WaitStep(
                    end_condition=condition, timeout_s=until.timeout_s, on_timeout=until.on_timeout
                )
            )
        return steps

    # --- what is left of it -----------------------------------------------------------------------

    def _begun(self, ctx: ProcedureContext, replicates: list[Replicate]) -> None:
        """Say what is going to be run; the manifest gets the replicates as they end."""
        ctx.metadata.setdefault("custom", {})["batch"] = []
        first, last = replicates[0].index, replicates[-1].index
        _event(
            ctx,
            "batch.started" if first == 1 else "batch.resumed",
            f"replicates {first} to {last} of {self.config.replicates} with "
            f"{self.config.procedure.id}",
            metadata={"first": first, "replicates": self.config.replicates},
        )

    def _ended(
        self,
        ctx: ProcedureContext,
        replicate: Replicate,
        outcome: InnerOutcome,
        facts: dict[str, Any],
    ) -> None:
        good = _good(outcome)
        facts = {
            **facts,
            "run_id": outcome.run_id,
            "run_status": outcome.run_status,
            "bundle_status": outcome.bundle_status,
            "exit_reason": outcome.exit_reason,
        }
        ended = f"{outcome.run_status}, bundle {outcome.bundle_status}: {outcome.exit_reason}"
        message = f"{replicate.label} (run {outcome.run_id}) {ended}"
        if not good:
            self._failed.append(message)
        ctx.metadata["custom"]["batch"].append(facts)
        _event(
            ctx,
            "batch.replicate.ended",
            message,
            severity="info" if good else "error",
            metadata=facts,
        )

    def _failures(self) -> str:
        count = len(self._failed)
        of = f"{count} of {self.config.replicates} replicates did not complete"
        return f"{of}: " + "; ".join(self._failed)


async def _checked(runs: InnerRuns, replicates: list[Replicate]) -> list[Problem]:
    """Check each replicate; what is wrong with several of them is said once."""
    found: dict[Problem, list[int]] = {}
    for replicate in replicates:
        run = InnerRun(experiment=replicate.experiment, label=replicate.label)
        problems = await runs.check(run)
        for problem in problems:
            found.setdefault(problem, []).append(replicate.index)
        if any(problem.code == "procedure.preflight_hangs" for problem in problems):
            break  # the next one would hang as well
    return [_of_some(problem, which, len(replicates)) for problem, which in found.items()]


def _recursion() -> Problem:
    return Problem(
        code="batch.recursion",
        message="a batch can't be run by a batch",
        where="procedure.config.procedure.id",
        hint="give it the procedure of one replicate, as capa.builtin.recipe_runner",
    )


def _of_some(problem: Problem, which: list[int], count: int) -> Problem:
    if len(which) == count:
        return problem
    numbers = ", ".join(str(index) for index in which)
    who = "replicate" if len(which) == 1 else "replicates"
    place = ": ".join(part for part in (f"{who} {numbers}", problem.where) if part)
    return replace(problem, where=place)


def _good(outcome: InnerOutcome) -> bool:
    """Whether a replicate counts: it completed, and its bundle is what was recorded."""
    return (
        outcome.run_status == "completed"
        and outcome.bundle_status != "verification_failed"
        and not outcome.unreachable
    )


def _runs(ctx: ProcedureContext) -> InnerRuns:
    if ctx.runs is None:
        raise ProcedureError("the engine lets no run begin here: a batch inside a batch")
    return ctx.runs


def _status(ctx: ProcedureContext, text: str) -> None:
    ctx.metadata["status"] = text


def _event(
    ctx: ProcedureContext,
    kind: str,
    message: str,
    *,
    severity: Literal["info", "error"] = "info",
    metadata: dict[str, Any] | None = None,
) -> None:
    t_mono_ns = ctx.clock.t_mono_ns()
    ctx.bundle_writer.write_event(
        kind=kind,
        message=message,
        severity=severity,
        source=f"procedure:{Batch.id}",
        t_mono_ns=t_mono_ns,
        t_utc=ctx.clock.utc_at(t_mono_ns),
        metadata=metadata,
    )
