"""An experiment against the box: the right rig, a method that fits it, handlers that exist."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from capa.config.check import check_method
from capa.config.experiment import ExperimentConfig
from capa.config.hardware import HardwareProfile
from capa.config.load import ExperimentFile
from capa.config.problems import Problem, ProblemsError
from capa.config.reading import decode_text, parse_toml, read_bytes
from capa.experiment.procedures.base import Procedure, declared_handlers

__all__ = ["check_experiment", "is_path"]


def check_experiment(
    read: ExperimentFile,
    *,
    profile: HardwareProfile,
    profile_file: Path | None,
    folder: Path,
    procedures: Mapping[str, type[Procedure]] | None = None,
) -> list[Problem]:
    """Return what stands between an experiment and a rig; ``folder`` is the experiment's own."""
    problems = _other_rig(read, profile, profile_file, folder)
    experiment = read.experiment
    known = {} if procedures is None else procedures  # `or` would wait for every plug-in
    problems += _lacking(read, known) if experiment.method is None else _unused(read, known)
    inner, found = _inner(experiment, known)
    problems += [_placed(read, problem) for problem in found]
    walked = inner or [experiment]
    for one in walked:
        procedure = known.get(one.procedure.id)
        same = one.method == experiment.method
        if one.method is not None:
            problems += check_method(
                one.method,
                profile,
                handlers=None if procedure is None else declared_handlers(procedure),
                file=read.method_file or read.source.file,
                lines=read.method_lines if same else {},
            )
    told = {replace(problem, line=None) for problem in problems if problem.line is not None}
    return [one for one in dict.fromkeys(problems) if one.line is not None or one not in told]


def _placed(read: ExperimentFile, problem: Problem) -> Problem:
    """Name the file of what a procedure found in its config, which knows of none."""
    if problem.file is not None:
        return problem
    at = read.source.problem(problem.code, ("procedure", "config"), problem.message)
    return replace(problem, file=at.file, line=at.line)


def _lacking(read: ExperimentFile, procedures: Mapping[str, type[Procedure]]) -> list[Problem]:
    """Say so where a procedure that walks a method has none: it is its preflight that refuses."""
    named = read.experiment.procedure.id
    cls = procedures.get(named)
    if cls is None or not cls.uses_method or hasattr(cls, "inner_experiments"):
        return []
    message = f"{named} walks a method, and the experiment has none"
    hint = "add `method = ...`, or record without one with capa.builtin.free_run"
    code, where = "experiment.method_missing", "field method"
    path = ("procedure", "id")
    return [read.source.problem(code, path, message, where=where, hint=hint, blocking=False)]


def _unused(read: ExperimentFile, procedures: Mapping[str, type[Procedure]]) -> list[Problem]:
    """Say so where a method stands beside a procedure that walks none: it may refuse, or not."""
    named = read.experiment.procedure.id
    cls = procedures.get(named)
    if cls is None or cls.uses_method:
        return []
    message = f"{named} uses no method: none of its steps is run"
    hint = "take it out, or name a procedure that walks it, as capa.builtin.recipe_runner"
    code, where = "experiment.method_unused", "field method"
    path = ("method",)
    return [read.source.problem(code, path, message, where=where, hint=hint, blocking=False)]


def _inner(
    experiment: ExperimentConfig, procedures: Mapping[str, type[Procedure]]
) -> tuple[Sequence[ExperimentConfig], list[Problem]]:
    """Ask a procedure that conducts others which experiments it makes of this one."""
    inner = getattr(procedures.get(experiment.procedure.id), "inner_experiments", None)
    if inner is None:
        return [], []
    experiments, problems = inner(experiment)
    return experiments, list(problems)


def is_path(hardware: str) -> bool:
    """Whether ``hardware`` is the path of a profile; else it is a profile's name."""
    return hardware.endswith(".toml") or "/" in hardware


def _other_rig(
    read: ExperimentFile, profile: HardwareProfile, profile_file: Path | None, folder: Path
) -> list[Problem]:
    """Refuse an experiment that was written for another rig, and name both."""
    wanted = read.experiment.hardware
    if wanted is None or _meant(wanted, profile_file, folder) == profile.name:
        return []
    name = _meant(wanted, profile_file, folder)
    said = f"{name!r}" if name == wanted else f"{name!r} ({wanted})"
    file = "" if profile_file is None else f" ({profile_file})"
    message = f"is written for the rig {said}; this is {profile.name!r}{file}"
    hint = "run it on that rig, or change `hardware` if it is meant for this one"
    where = "field hardware"
    return [
        read.source.problem("experiment.other_rig", ("hardware",), message, where=where, hint=hint)
    ]


def _meant(wanted: str, profile_file: Path | None, folder: Path) -> str:
    """Return the name of the profile that is meant.

    A path leads to a profile with a name. Where it leads nowhere, as on a box that the file was
    copied to, the name of the file has to do.
    """
    if not is_path(wanted):
        return wanted
    path = folder / wanted
    if not path.exists() and profile_file is not None and path.name == profile_file.name:
        path = profile_file
    try:
        source = parse_toml(decode_text(read_bytes(path), file=str(path)), file=str(path))
    except ProblemsError:
        return path.stem
    return str(source.data.get("name", path.stem))
