"""An experiment file: which method, which procedure, whose sample, on which rig."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from capa.experiment.method import Method
from capa.models import Frozen, Whole

__all__ = ["DEFAULT_PROCEDURE", "ExperimentConfig", "Operator", "ProcedureRef"]

DEFAULT_PROCEDURE = "capa.builtin.recipe_runner"


def _no_number(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError("must be a date and a time, like 2026-11-22T06:00:00+01:00")  # noqa: TRY004 - pydantic takes only this for a finding
    return value


def _with_offset(instant: datetime) -> datetime:
    """Take a time without an offset for the local time of this box; seconds, no more."""
    if not 2000 <= instant.year < 3000:
        raise ValueError("must lie between the years 2000 and 2999")
    return instant.astimezone().replace(microsecond=0)


Instant = Annotated[datetime, BeforeValidator(_no_number), AfterValidator(_with_offset)]
"""A date and a time. Without an offset it is local time where the file is read."""


class ProcedureRef(Frozen):
    """The procedure that drives the run; ``config`` is validated by the procedure's own model."""

    id: str = Field(default=DEFAULT_PROCEDURE, min_length=1)
    version: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)


class Operator(Frozen):
    """Who answers for the run: ``id`` becomes ``issued_by`` on every command."""

    id: str = Field(min_length=1)
    name: str | None = None


class ExperimentConfig(Frozen):
    """One run as its author wants it.

    In a file, ``method`` is the path of a ``*.method.toml``, relative to the file, or the method
    itself as a table; the loader makes a ``Method`` of either. Where the file names no operator
    (``"operator" not in config.model_fields_set``) the spool puts the file's owner there.
    ``priority`` and ``not_before`` are for the spool: of the jobs that may start, the one with
    the highest priority does, and of those of one priority the one that came first.
    """

    method: Method | None = None
    procedure: ProcedureRef = ProcedureRef()
    operator: Operator = Operator(id="unknown")
    sample: dict[str, Any] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    custom: dict[str, Any] = Field(default_factory=dict)
    hardware: str | None = None
    priority: Annotated[Whole, Field(ge=-100, le=100)] = 0
    not_before: Instant | None = None
