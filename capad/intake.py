"""From a dropped file's bytes to a run that may be armed, or to all that is wrong with it."""

from dataclasses import dataclass
from pathlib import Path

from capa.config.check import check_method
from capa.config.experiment import ExperimentConfig, Operator
from capa.config.hardware import HardwareProfile
from capa.config.load import parse_experiment, parse_method
from capa.config.problems import Problem, ProblemsError
from capad.jobs import Job, kind_of, shown_name

__all__ = ["Intake", "Prepared", "check_name", "config_text"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that passed every check that needs no device."""

    experiment: ExperimentConfig
    method_text: str | None
    notes: tuple[Problem, ...]


class Intake:
    """Checks jobs against one rig. Pure but for the method that an experiment file names.

    Args:
        profile: the rig.
        methods: the folder that relative method names in experiment files start from.
        handlers: the ids of custom steps that installed procedures bring, if known.
    """

    def __init__(
        self, profile: HardwareProfile, *, methods: Path, handlers: frozenset[str] | None = None
    ) -> None:
        self._profile = profile
        self._methods = methods
        self._handlers = handlers

    def prepare(self, job: Job, data: bytes) -> Prepared:
        """Read and check a dropped file.

        Raises:
            ProblemsError: everything that is wrong with it.
        """
        file = shown_name(job.name)
        kind = check_name(job.name)
        text = data.decode("utf-8", "surrogateescape")
        if kind == "method":
            experiment = ExperimentConfig(method=parse_method(text, file=file))
        else:
            experiment = parse_experiment(text, file=file, folder=self._methods)
        method = experiment.method
        source = text if kind == "method" else None
        notes = self._against_rig(experiment, file, source)
        if method is not None and source is None:
            source = _toml(method.model_dump(mode="json", exclude_none=True))
        return Prepared(_with_operator(experiment, job), source, notes)

    def _against_rig(
        self, experiment: ExperimentConfig, file: str, text: str | None
    ) -> tuple[Problem, ...]:
        problems = []
        if experiment.hardware not in (None, self._profile.name):
            message = (
                f"is written for the rig {experiment.hardware!r}; this is {self._profile.name!r}"
            )
            problems.append(Problem("experiment.other_rig", message, file=file, where="hardware"))
        if experiment.method is not None:
            problems += check_method(
                experiment.method, self._profile, handlers=self._handlers, file=file, text=text
            )
        if any(problem.blocking for problem in problems):
            raise ProblemsError(problems)
        return tuple(problems)


def check_name(name: str) -> str:
    """Return what the name says the file is.

    Raises:
        ProblemsError: it says nothing.
    """
    kind = kind_of(name)
    if kind is None:
        message = "is not a name that says what the file is"
        hint = "call it NAME.method.toml, NAME.experiment.toml or NAME.experiment.yaml"
        raise ProblemsError([Problem("spool.name", message, file=shown_name(name), hint=hint)])
    return kind


def config_text(prepared: Prepared) -> str:
    """Return the experiment as TOML, for the bundle."""
    return _toml(prepared.experiment.model_dump(mode="json", exclude_none=True, exclude={"method"}))


def _toml(data: dict[str, object]) -> str:
    import tomli_w  # not needed before a run

    return tomli_w.dumps(data)


def _with_operator(experiment: ExperimentConfig, job: Job) -> ExperimentConfig:
    """Have the file's owner answer for the run, unless the experiment names an operator."""
    if "operator" in experiment.model_fields_set:
        return experiment
    return experiment.model_copy(update={"operator": Operator(id=job.owner)})
