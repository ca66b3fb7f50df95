"""From a dropped file's bytes to a run that may be armed, or to all that is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from capa.config.check_experiment import check_experiment
from capa.config.experiment import ExperimentConfig, Operator
from capa.config.hardware import HardwareProfile
from capa.config.load import ExperimentFile, parse_method, read_experiment
from capa.config.problems import Problem, ProblemsError
from capa.config.reading import parse_toml
from capa.config.write import experiment_text, method_text
from capa.experiment.procedures.base import Procedure
from capad.jobs import Job, kind_of, shown_name

__all__ = ["Intake", "Prepared", "check_name", "config_text"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that passed every check that needs no device.

    ``companion`` is the text of the method's own file, for the job to keep: what was checked is
    what is run, whatever becomes of that file meanwhile.
    """

    experiment: ExperimentConfig
    method_text: str | None
    notes: tuple[Problem, ...]
    companion: str | None = None


class Intake:
    """Checks jobs against one rig. Pure but for the method that an experiment file names.

    Args:
        profile: the rig.
        profile_file: the file it came from.
        incoming: the folder that files are dropped into; a relative method name in an experiment
            file starts there, as it would where the file was written.
        procedures: the procedures there are; None leaves them to preflight.
    """

    def __init__(
        self,
        profile: HardwareProfile,
        *,
        incoming: Path,
        profile_file: Path | None = None,
        procedures: Mapping[str, type[Procedure]] | None = None,
    ) -> None:
        self._profile = profile
        self._profile_file = profile_file
        self._incoming = incoming
        self._procedures = procedures

    def prepare(self, job: Job, data: bytes, companion: str | None = None) -> Prepared:
        """Read and check a dropped file; ``companion`` is the method that the job keeps already.

        Raises:
            ProblemsError: everything that is wrong with it.
        """
        file = shown_name(job.name)
        text = data.decode("utf-8", "surrogateescape")
        if check_name(job.name) == "method":
            experiment = ExperimentConfig(method=parse_method(text, file=file, rig=self._profile))
            read = ExperimentFile(experiment, parse_toml(text, file=file), file, text)
        else:
            read = read_experiment(
                text,
                file=file,
                folder=self._incoming,
                procedures=self._procedures,
                method_text=companion,
                rig=self._profile,
            )
            companion = read.method_text
            self._refuse_a_job_of_its_own(read)
        experiment = read.experiment
        notes = self._against_rig(read)
        kept = read.method_text
        if kept is None and experiment.method is not None:
            kept = method_text(experiment.method)
        return Prepared(_with_operator(experiment, job), kept, notes, companion)

    def _against_rig(self, read: ExperimentFile) -> tuple[Problem, ...]:
        problems = check_experiment(
            read,
            profile=self._profile,
            profile_file=self._profile_file,
            folder=self._incoming,
            procedures=self._procedures,
        )
        if any(problem.blocking for problem in problems):
            raise ProblemsError(problems)
        return tuple(problems)

    def _refuse_a_job_of_its_own(self, read: ExperimentFile) -> None:
        """A method that lies in ``incoming/`` itself would be run, once here and once by itself."""
        if read.method_file is None or Path(read.method_file).parent != self._incoming:
            return
        name = Path(read.method_file).name
        message = f"a method beside it in incoming/ is a job of its own: {shown_name(name)}"
        hint = f'put it into incoming/methods/ and write method = "methods/{shown_name(name)}"'
        where = "field method"
        code = "experiment.method_is_a_job"
        problem = read.source.problem(code, ("method",), message, where=where, hint=hint)
        raise ProblemsError([problem])


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
    return experiment_text(prepared.experiment)


def _with_operator(experiment: ExperimentConfig, job: Job) -> ExperimentConfig:
    """Have the file's owner answer for the run, unless the experiment names an operator."""
    if "operator" in experiment.model_fields_set:
        return experiment
    return experiment.model_copy(update={"operator": Operator(id=job.owner)})
