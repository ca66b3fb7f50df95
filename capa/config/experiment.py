"""An experiment file: which method, which procedure, whose sample, on which rig."""

from typing import Any

from pydantic import Field

from capa.experiment.method import Method
from capa.models import Frozen

__all__ = ["DEFAULT_PROCEDURE", "ExperimentConfig", "Operator", "ProcedureRef"]

DEFAULT_PROCEDURE = "capa.builtin.recipe_runner"


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
    """

    method: Method | None = None
    procedure: ProcedureRef = ProcedureRef()
    operator: Operator = Operator(id="unknown")
    sample: dict[str, Any] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    custom: dict[str, Any] = Field(default_factory=dict)
    hardware: str | None = None
