"""The ``procedure`` table of an experiment against the procedures that there are."""

from collections.abc import Mapping

from pydantic import ValidationError

from capa.config.experiment import DEFAULT_PROCEDURE, ProcedureRef
from capa.config.explain import did_you_mean, explain, shown, where_of
from capa.config.locate import Path
from capa.config.problems import Problem
from capa.config.reading import Source
from capa.config.shapes import child, table_at
from capa.experiment.procedures.available import why_missing
from capa.experiment.procedures.base import Procedure

__all__ = ["procedure_problems"]


def procedure_problems(
    source: Source, procedures: Mapping[str, type[Procedure]], *, at: Path = ("procedure",)
) -> list[Problem]:
    """Return what is wrong with the procedure that the table at ``at`` names, with its lines.

    A table that is no table at all is for the experiment's own model to complain of.
    """
    table = table_at(source.data, at)
    named = table.get("id", DEFAULT_PROCEDURE)
    if not isinstance(named, str):
        return []
    cls = procedures.get(named)
    if cls is None and (refused := why_missing(procedures, named)):
        return [_problem(source, "refused", (*at, "id"), refused, None)]
    if cls is None:
        message = f"no procedure {shown(named)} is installed"
        hint = did_you_mean(named, sorted(procedures), otherwise="there are")
        return [_problem(source, "unknown", (*at, "id"), message, hint)]
    problems = []
    version = table.get("version")
    if isinstance(version, str) and version != cls.version:
        message = f"{named} {version} is asked for, installed is {cls.version}"
        hint = "install that version, or change the experiment"
        problems.append(_problem(source, "version", (*at, "version"), message, hint))
    return problems + _config_problems(source, cls, procedures, (*at, "config"))


def _config_problems(
    source: Source, cls: type[Procedure], procedures: Mapping[str, type[Procedure]], at: Path
) -> list[Problem]:
    problems: list[Problem] = []
    model = cls.config_model
    config: object = source.data
    for part in at:
        config = child(config, part)
    if config is not None and not isinstance(config, dict):
        return []
    try:
        model.model_validate(config or {})
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = explain(details, source, model, area="procedure", at=at)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in's validator raises anything
        message = f"{cls.id}: config_model raised {type(error).__name__}: {error}"
        hint = "report this to the author of the procedure"
        problems.append(_problem(source, "config_raised", at, message, hint))
    inner = model.model_fields.get("procedure")
    if inner is not None and inner.annotation is ProcedureRef:
        problems += procedure_problems(source, procedures, at=(*at, "procedure"))
    return problems


def _problem(source: Source, code: str, path: Path, message: str, hint: str | None) -> Problem:
    where = where_of(path, source.data)
    return source.problem(f"procedure.{code}", path, message, where=where, hint=hint)
