"""The standard procedure: walk the method to its end."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from capa.experiment.executor import MethodExecutor
from capa.experiment.method import Method
from capa.experiment.procedures.base import (
    ChannelRequirement,
    Problem,
    Procedure,
    ProcedureContext,
    ProcedureError,
)

__all__ = ["RecipeRunner", "RecipeRunnerConfig"]


class RecipeRunnerConfig(BaseModel):
    """``procedure.config`` of the recipe runner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auto_acknowledge_prompts: bool = False
    """Confirm prompts at once: for tests and batches, where nobody is there to ask."""
    notes: str | None = None
    """The operator's comment; kept in the manifest."""


@dataclass
class RecipeRunner(Procedure):
    """Hands the method to the executor. Subclass it for phases before or after the walk."""

    id: ClassVar[str] = "capa.builtin.recipe_runner"
    name: ClassVar[str] = "Recipe runner"
    version: ClassVar[str] = "1.0.0"
    config_model: ClassVar[type[BaseModel]] = RecipeRunnerConfig
    required_capabilities: ClassVar[tuple[str, ...]] = ()
    required_channels: ClassVar[tuple[ChannelRequirement, ...]] = ()
    uses_method: ClassVar[bool] = True
    custom_handler_ids: ClassVar[tuple[str, ...]] = ()
    """It handles no custom step; a subclass that does has a ``run`` of its own."""

    auto_acknowledge_prompts: bool = False
    notes: str | None = None

    @classmethod
    def from_config(cls, raw: dict[str, Any] | None) -> Self:
        """Make one from ``procedure.config``; pydantic's ``ValidationError`` for a bad one.

        A subclass with settings of its own takes them by the names they have in its
        ``config_model``, or has a ``from_config`` of its own.
        """
        return cls(**dict(cls.config_model.model_validate(raw or {})))

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        """Refuse to arm without a method, or without an executor to walk it.

        Raises:
            ProcedureError: the experiment has no method.
        """
        _method_of(ctx)
        if ctx.method_executor is None:
            return [
                Problem(
                    code="recipe_runner.no_executor",
                    message="the engine handed the recipe runner no method executor",
                    hint="this is a fault of the engine, not of the experiment; report it",
                )
            ]
        return []

    async def run(self, ctx: ProcedureContext) -> None:
        """Walk the method; a step that raises ends the run as crashed."""
        executor, method = _executor_of(ctx), _method_of(ctx)
        executor.auto_acknowledge_prompts = self.auto_acknowledge_prompts
        if self.notes is not None:
            ctx.metadata.setdefault("custom", {})["notes"] = self.notes
        ctx.logger.info(
            "recipe_runner.start", method=method.name, steps=len(method.steps), notes=self.notes
        )
        await executor.run_to_completion(method)
        ctx.logger.info("recipe_runner.end")


def _method_of(ctx: ProcedureContext) -> Method:
    if ctx.config.method is None:
        raise ProcedureError(
            f"{RecipeRunner.id} needs a method and the experiment has none; "
            "add one, or record without one with capa.builtin.free_run"
        )
    return ctx.config.method


def _executor_of(ctx: ProcedureContext) -> MethodExecutor:
    if ctx.method_executor is None:
        raise ProcedureError("the engine handed the recipe runner no method executor")
    return ctx.method_executor
