"""Load methods, hardware profiles and experiments; every problem of a file at once, or a value."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from capa.config.beside import files_beside
from capa.config.check import check_readable_steps
from capa.config.experiment import ExperimentConfig
from capa.config.explain import explain, nearest, where_of
from capa.config.hardware import HardwareProfile
from capa.config.locate import Path, toml_lines
from capa.config.problems import Problem, ProblemsError
from capa.config.procedure_config import procedure_problems
from capa.config.profile import examine_profile
from capa.config.reading import Source, decode_text, parse_toml, parse_yaml, read_bytes
from capa.config.shapes import child, table_at
from capa.devices.adapter import AdapterFamily
from capa.experiment.method import STEP_MODELS, Method, missing_one_of
from capa.experiment.procedures.base import Procedure

__all__ = [
    "ExperimentFile",
    "inspect_profile",
    "load_experiment",
    "load_method",
    "load_profile",
    "parse_experiment",
    "parse_method",
    "read_experiment",
]

_MOST_PROBLEMS = 100
_METHOD_END = ".method.toml"

ModelT = TypeVar("ModelT", bound=BaseModel)


def load_method(path: FilePath, *, rig: HardwareProfile | None = None) -> Method:
    """Load a ``*.method.toml``; see :func:`parse_method`.

    Raises:
        ProblemsError: everything that is wrong with it.
    """
    return parse_method(decode_text(read_bytes(path), file=str(path)), file=str(path), rig=rig)


def parse_method(text: str, *, file: str, rig: HardwareProfile | None = None) -> Method:
    """Make a method of TOML text; ``file`` is the name to use in messages.

    A method that can be made is not held against ``rig``: that is for ``check_method``. Of one
    that can't, the steps that can be read are, so that no second round of mistakes follows.

    Raises:
        ProblemsError: everything that is wrong with it.
    """
    source = parse_toml(_checked(text, file), file=file)
    method, problems = _read(source, Method, "method")
    problems += _missing_pairs(source, (), problems)
    if rig is not None and method is None:
        problems += check_readable_steps(source, rig)
    return _settled(method, problems)


def load_profile(
    path: FilePath, families: Mapping[str, AdapterFamily] | None = None
) -> HardwareProfile:
    """Load a hardware profile and check that it hangs together.

    ``families`` are the instrument families known; by default the installed ones, of which only
    those that the profile names are loaded.

    Raises:
        ProblemsError: everything that is wrong with it.
    """
    profile, problems = inspect_profile(path, families)
    return _settled(profile, problems)


def inspect_profile(
    path: FilePath, families: Mapping[str, AdapterFamily] | None = None
) -> tuple[HardwareProfile | None, list[Problem]]:
    """Return the profile, if its shape is right, and all problems, also those that do not block.

    Raises:
        ProblemsError: the file can't be read, or is not TOML.
    """
    source = parse_toml(decode_text(read_bytes(path), file=str(path)), file=str(path))
    source = replace(source, data=files_beside(source.data, path.parent))
    return examine_profile(source, families)


def load_experiment(path: FilePath) -> ExperimentConfig:
    """Load a ``*.experiment.toml`` or ``*.experiment.yaml``, and the method that it names.

    Raises:
        ProblemsError: everything that is wrong with it, or with its method.
    """
    text = decode_text(read_bytes(path), file=str(path))
    return parse_experiment(text, file=str(path), folder=path.parent)


def parse_experiment(text: str, *, file: str, folder: FilePath) -> ExperimentConfig:
    """Make an experiment of text: YAML if ``file`` ends so, else TOML.

    Raises:
        ProblemsError: everything that is wrong with it, or with its method.
    """
    return read_experiment(text, file=file, folder=folder).experiment


@dataclass(frozen=True, slots=True)
class ExperimentFile:
    """An experiment with what its messages need: where things stand in which file.

    ``method_text`` is the text of the method's own file; None for one that stands inline.
    """

    experiment: ExperimentConfig
    source: Source
    method_file: str | None = None
    method_text: str | None = None

    @property
    def method_lines(self) -> Mapping[Path, int]:
        """Return the lines of the method's keys, in whichever file they stand."""
        if self.method_text is not None:
            return toml_lines(self.method_text)
        lines = self.source.lines.items()
        return {path[1:]: line for path, line in lines if path[:1] == ("method",)}


def read_experiment(
    text: str,
    *,
    file: str,
    folder: FilePath,
    procedures: Mapping[str, type[Procedure]] | None = None,
    method_text: str | None = None,
    rig: HardwareProfile | None = None,
) -> ExperimentFile:
    """Make an experiment of text, and check its procedure against those that there are.

    A relative method is looked for from ``folder``, unless ``method_text`` has it already; its
    file is read as :func:`parse_method` does.

    Raises:
        ProblemsError: everything that is wrong with it, or with its method.
    """
    is_yaml = file.endswith((".yaml", ".yml"))
    source = (parse_yaml if is_yaml else parse_toml)(_checked(text, file), file=file)
    problems: list[Problem] = []
    method = source.data.get("method")
    method_file = None
    if isinstance(method, str):
        method_file = str(folder / method)
        source.data.pop("method")
        method_text = _named_text(folder / method, source, problems, known=method_text)
        source.data["method"] = _named_method(method_text, method_file, problems, rig)
    experiment, more = _read(source, ExperimentConfig, "experiment")
    more += _missing_pairs(source, ("method",), more)
    if procedures is not None:
        more += procedure_problems(source, procedures)
    settled = _settled(experiment, problems + more)
    return ExperimentFile(settled, source, method_file, method_text if method_file else None)


def _named_text(
    path: FilePath, source: Source, problems: list[Problem], *, known: str | None
) -> str | None:
    """Read a method's file; nothing but a method is read, whoever names it."""
    if known is not None:
        return known
    message = f"the method is not called NAME{_METHOD_END}: {path}"
    if _is_called_method(path):
        try:
            return decode_text(read_bytes(path), file=str(path))
        except ProblemsError as error:
            if error.problems[0].code != "file.unreadable":
                problems.extend(error.problems)
                return None
            message = f"the method {error.problems[0].message}: {path}"
    hint = "a relative name is looked for from the experiment's own folder"
    where = "field method"
    problems.append(
        source.problem("experiment.no_method", ("method",), message, where=where, hint=hint)
    )
    return None


def _is_called_method(path: FilePath) -> bool:
    """Whether a file, and what a link may lead to, has a method's name."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in the name
        real = path
    return path.name.endswith(_METHOD_END) and real.name.endswith(_METHOD_END)


def _named_method(
    text: str | None, file: str, problems: list[Problem], rig: HardwareProfile | None
) -> Method | None:
    if text is None:
        return None
    try:
        return parse_method(text, file=file, rig=rig)
    except ProblemsError as error:
        problems.extend(error.problems)
        return None


def _checked(text: str, file: str) -> str:
    """Refuse text that is empty or holds lone surrogates, as the bytes of a file would be."""
    return decode_text(text.encode("utf-8", "surrogateescape"), file=file)


def _read(source: Source, model: type[ModelT], area: str) -> tuple[ModelT | None, list[Problem]]:
    try:
        return model.model_validate(source.data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, explain(details, source, model, area=area)


def _missing_pairs(source: Source, at: Path, problems: list[Problem]) -> list[Problem]:
    """Report steps that lack both of a pair; their models say so only if nothing else is wrong."""
    steps = table_at(source.data, at).get("steps")
    said = {(problem.where, problem.message) for problem in problems}
    found = []
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        message = _missing_pair(step)
        path = (*at, "steps", index)
        where = where_of(path, source.data)
        if message and (where, message) not in said:
            found.append(source.problem("method.incomplete", path, message, where=where))
    return found


def _missing_pair(step: object) -> str | None:
    kind = child(step, "kind")
    if not isinstance(step, dict) or not isinstance(kind, str):
        return None
    model = STEP_MODELS.get(kind)
    if model is None or model.one_of is None or any(name in step for name in model.one_of):
        return None
    unknown = [key for key in step if key not in model.model_fields]
    if any(nearest(key, model.one_of) for key in unknown):
        return None  # a misspelt one is reported as such
    return missing_one_of(kind, model.one_of)


def _settled(value: ModelT | None, problems: list[Problem]) -> ModelT:
    """Return the value, or raise with the problems in the order of the file."""
    if value is not None and not any(problem.blocking for problem in problems):
        return value
    ordered = sorted(problems, key=lambda p: (p.file or "", p.line or 0))
    if len(ordered) > _MOST_PROBLEMS:
        rest = len(ordered) - _MOST_PROBLEMS
        message = f"and {rest} more problems, not listed"
        ordered = [*ordered[:_MOST_PROBLEMS], Problem("file.more", message, file=ordered[0].file)]
    raise ProblemsError(ordered)
