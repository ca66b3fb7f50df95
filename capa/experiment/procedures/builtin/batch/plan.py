"""What each replicate of a batch will be, worked out and checked before the first one heats."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from capa.config.experiment import ExperimentConfig
from capa.config.explain import did_you_mean, explain, shown
from capa.config.problems import Problem
from capa.config.reading import Source
from capa.experiment.method import Method
from capa.experiment.procedures.builtin.batch.config import BatchConfig

__all__ = ["Replicate", "overridden", "plan_batch"]


@dataclass(frozen=True, slots=True)
class Replicate:
    """One run of the batch; ``index`` counts from 1."""

    index: int
    label: str
    experiment: ExperimentConfig

    @property
    def sample_id(self) -> object:
        """What its sample is called; None if nothing says so."""
        return self.experiment.sample.get("id")


def plan_batch(
    config: BatchConfig, experiment: ExperimentConfig
) -> tuple[list[Replicate], list[Problem]]:
    """Return the replicates that are to be run, and what is wrong with their overrides."""
    replicates: list[Replicate] = []
    problems: list[Problem] = []
    for index in range(config.resume_from, config.replicates + 1):
        label = f"replicate {index}/{config.replicates}"
        method, found = _method(config, experiment, index)
        problems += found
        if not found:
            changes = {
                "method": method,
                "procedure": config.procedure,
                "sample": _sample(config, experiment, index),
                "custom": {
                    **experiment.custom,
                    "batch": {"iteration": index, "replicates": config.replicates},
                },
            }
            replicates.append(Replicate(index, label, experiment.model_copy(update=changes)))
    return replicates, problems


def _sample(config: BatchConfig, experiment: ExperimentConfig, index: int) -> dict[str, Any]:
    """Lay the replicate's own values over the experiment's; an explicit id rules."""
    sample_id = config.sample_id(index)
    named = {} if sample_id is None else {"id": sample_id}
    return {**experiment.sample, **named, **config.override(index).sample}


def _method(
    config: BatchConfig, experiment: ExperimentConfig, index: int
) -> tuple[Method | None, list[Problem]]:
    changes = config.override(index).steps
    if not changes:
        return experiment.method, []
    where = f"overrides of iteration {index}"
    if experiment.method is None:
        message = "change steps, and the experiment has no method"
        return None, [Problem("batch.override", message, where=where)]
    return overridden(experiment.method, changes, where=where)


def overridden(
    method: Method, changes: Mapping[str, Mapping[str, Any]], *, where: str
) -> tuple[Method | None, list[Problem]]:
    """Return a method with some values changed; or None, and what is wrong with the changes."""
    data = method.model_dump(exclude_unset=True)
    problems = []
    for key, fields in changes.items():
        index = _step_index(method, key)
        if isinstance(index, Problem):
            problems.append(_placed(index, where))
            continue
        step = method.steps[index]
        known = [name for name in type(step).model_fields if name != "kind"]
        for name in fields:
            if name not in known:
                message = f"step {index + 1} ({step.kind}) has no field {shown(name)}"
                hint = did_you_mean(name, known)
                problems.append(Problem("batch.override", message, where=where, hint=hint))
        merged = _merged(data["steps"][index], fields)
        data["steps"] = [*data["steps"][:index], merged, *data["steps"][index + 1 :]]
    for table, step in zip(data["steps"], method.steps, strict=True):
        table["kind"] = step.kind
    return (None, problems) if problems else _validated(data, where)


def _validated(data: dict[str, Any], where: str) -> tuple[Method | None, list[Problem]]:
    try:
        return Method.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        found = explain(details, Source(None, data), Method, area="method")
        return None, [_placed(problem, where) for problem in found]


def _placed(problem: Problem, where: str) -> Problem:
    """Say which override a problem is of."""
    place = ": ".join(part for part in (where, problem.where) if part)
    return Problem(problem.code, problem.message, where=place, hint=problem.hint)


def _step_index(method: Method, key: str) -> int | Problem:
    """Find a step by its number, counted from 1, or by its notes."""
    count = len(method.steps)
    if key.isdecimal() and len(key) < 6:
        if 1 <= int(key) <= count:
            return int(key) - 1
        message = f"there is no step {key}; {shown(method.name)} has {count}"
        return Problem("batch.override", message)
    found = [index for index, step in enumerate(method.steps) if step.notes == key]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = " and ".join(str(index + 1) for index in found)
        message = f"the notes {shown(key)} stand at steps {numbers}; use the number"
        return Problem("batch.override", message)
    notes = [step.notes for step in method.steps if step.notes]
    hint = did_you_mean(key, notes, otherwise=f"steps are 1 to {count}; notes")
    return Problem("batch.override", f"no step has the notes {shown(key)}", hint=hint)


def _merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(table)
    for key, value in changes.items():
        inner = result.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            result[key] = _merged(inner, value)
        else:
            result[key] = value
    return result
