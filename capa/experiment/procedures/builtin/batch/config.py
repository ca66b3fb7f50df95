"""``procedure.config`` of a batch."""

from string import Formatter
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from capa.channels.spec import Op
from capa.config.experiment import ProcedureRef
from capa.models import Flag, Frozen, Number, Whole

__all__ = ["BatchConfig", "CooldownUntil", "Override"]

_TEMPLATE_FIELDS = frozenset({"index", "replicates"})


class CooldownUntil(Frozen):
    """What must hold on the rig, besides the time, before the next replicate begins.

    A rig that is not ready within ``timeout_s`` ends the batch; with ``on_timeout = "warn"`` the
    next replicate begins all the same.
    """

    channel: str = Field(min_length=1)
    op: Op
    value: Number
    timeout_s: Number = Field(default=7200.0, gt=0)
    on_timeout: Literal["abort", "warn"] = "abort"


class Override(Frozen):
    """What is different in one replicate.

    ``steps`` changes named values of the method: the key is the step's number, counted from 1 as
    in every message, or its ``notes``; the value is a table of the step's own fields, and a table
    inside it is merged (``steps.2.end_condition.value = 350.0``).
    """

    iteration: Whole = Field(ge=1)
    sample: dict[str, Any] = Field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("steps", mode="before")
    @classmethod
    def _numbers_are_keys(cls, value: object) -> object:
        """Take YAML's ``3:`` for the ``"3"`` that TOML makes of it."""
        return {str(key): item for key, item in value.items()} if isinstance(value, dict) else value


class BatchConfig(Frozen):
    """N runs of one procedure, with the experiment's method, one after the other."""

    replicates: Whole = Field(ge=1, le=1000)
    procedure: ProcedureRef = ProcedureRef()
    sample_id_template: str | None = None
    """Python format of ``sample.id``, with ``index`` (from 1) and ``replicates``."""
    cooldown_s: Number = Field(default=0.0, ge=0)
    cooldown_until: CooldownUntil | None = None
    fail_fast: Flag = True
    """Whether a replicate that does not complete ends the batch at once."""
    resume_from: Whole = Field(default=1, ge=1)
    """The first replicate to run; the ones before it were run by an earlier batch."""
    overrides: tuple[Override, ...] = ()

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if self.resume_from > self.replicates:
            raise ValueError(
                f"resume_from is {self.resume_from}, and there are {self.replicates} replicates"
            )
        iterations = [override.iteration for override in self.overrides]
        for iteration in iterations:
            if iteration > self.replicates:
                raise ValueError(
                    f"overrides name iteration {iteration} of {self.replicates} replicates"
                )
            if iterations.count(iteration) > 1:
                raise ValueError(f"overrides name iteration {iteration} twice; make it one table")
        return self

    @model_validator(mode="after")
    def _template_tells_replicates_apart(self) -> Self:
        if self.sample_id_template is None:
            return self
        fields = _fields(self.sample_id_template)
        if unknown := sorted(fields - _TEMPLATE_FIELDS):
            raise ValueError(
                f"sample_id_template has {{{unknown[0]}}}; there are {{index}} and {{replicates}}, "
                'as in "PMMA-{index:02}"'
            )
        if "index" not in fields and self.replicates > 1:
            raise ValueError(
                "sample_id_template has no {index}: every replicate would be the same sample; "
                'write it as in "PMMA-{index:02}"'
            )
        try:
            self.sample_id(1)
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError(f"sample_id_template does not work: {error}") from None
        return self

    def sample_id(self, index: int) -> str | None:
        """Return the id of a replicate's sample; None without a template."""
        if self.sample_id_template is None:
            return None
        return self.sample_id_template.format(index=index, replicates=self.replicates)

    def override(self, index: int) -> Override:
        """Return what is different in a replicate."""
        for override in self.overrides:
            if override.iteration == index:
                return override
        return Override(iteration=index)


def _fields(template: str) -> frozenset[str]:
    """Return the names in a format string.

    Raises:
        ValueError: it is no format string.
    """
    parts = list(Formatter().parse(template))
    return frozenset(name for _, name, _, _ in parts if name is not None)
