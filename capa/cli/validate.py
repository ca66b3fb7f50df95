"""``capa validate``: name every mistake in a file while its author still sits at the desk."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capa.config.hardware import HardwareProfile
    from capa.config.problems import Problem
    from capa.experiment.method import Method

__all__ = ["validate"]

_EXIT_PROBLEMS = 2


class _Verdict(NamedTuple):
    """What was found in one file: the problems, and a line about it if it can be used."""

    problems: "Sequence[Problem]"
    summary: str = ""


def validate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Methods (*.method.toml), experiments (*.experiment.toml, .yaml) or profiles.",
            show_default=False,
        ),
    ],
    hardware: Annotated[
        Path | None,
        typer.Option(
            "--hardware",
            metavar="PROFILE",
            help="The rig to check methods against: names, limits, alarms.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check methods, experiments and profiles.

    Prints every problem at once: where it is, what is wrong, what would be right. Without
    --hardware a method is checked for itself only, an experiment against the profile whose path
    it gives. Exits with 0 if every file can be used, and
    with 2 if one cannot.
    """
    from capa.config.problems import ProblemsError

    profile = None
    good = True
    if hardware is not None and hardware not in files:
        verdict, profile = _profile(hardware)
        good = _tell(hardware, verdict)
    elif hardware is not None:
        profile = _profile(hardware)[1]
    for file in files:
        try:
            verdict = _examined(file, profile, hardware)
        except ProblemsError as error:
            verdict = _Verdict(error.problems)
        good = _tell(file, verdict) and good
    if not good:
        raise typer.Exit(_EXIT_PROBLEMS)


def _examined(file: Path, profile: "HardwareProfile | None", hardware: Path | None) -> _Verdict:
    """Check a file as what it is.

    Raises:
        ProblemsError: it can't be used.
    """
    from capa.config.load import load_method

    match _kind(file):
        case "experiment":
            return _experiment(file, profile, hardware)
        case "profile":
            return _profile(file)[0]
        case "settings":
            return _refused(file, "is a daemon's settings", f"try: capad --check --config {file}")
        case _:
            return _method(load_method(file, rig=profile), file, profile)


def _kind(file: Path) -> str:
    """Tell what a file is by its name, and failing that by its tables."""
    from capa.config.reading import decode_text, parse_toml, read_bytes

    name = file.name
    if name.endswith((".experiment.toml", ".experiment.yaml", ".experiment.yml")):
        return "experiment"
    if name.endswith(".method.toml"):
        return "method"
    tables = parse_toml(decode_text(read_bytes(file), file=str(file)), file=str(file)).data
    if tables.keys() & {"links", "devices", "channels", "safe_state"}:
        return "profile"
    if tables.keys() & {"rig", "spool", "runs", "runtime"}:
        return "settings"
    return "experiment" if tables.keys() & {"procedure", "operator", "method"} else "method"


def _refused(file: Path, message: str, hint: str) -> _Verdict:
    from capa.config.problems import Problem

    return _Verdict([Problem("file.wrong_kind", message, file=str(file), hint=hint)])


def _profile(file: Path) -> "tuple[_Verdict, HardwareProfile | None]":
    """Check a profile; it is None if it can't be used."""
    from capa.config.load import inspect_profile
    from capa.config.problems import ProblemsError
    from capa.runtime.safe_plan import unguarded_problems

    try:
        profile, problems = inspect_profile(file)
    except ProblemsError as error:
        return _Verdict(error.problems), None
    if profile is None or any(problem.blocking for problem in problems):
        return _Verdict(problems), None
    problems = [*problems, *unguarded_problems(profile, file=file)]
    counts = (
        f"{len(profile.devices)} devices on {len(profile.links)} links, "
        f"{len(profile.channels)} channels, {len(profile.safe_state)} safe-state stages"
    )
    return _Verdict(problems, f"profile {profile.name}: {counts}"), profile


def _method(method: "Method", file: Path, profile: "HardwareProfile | None") -> _Verdict:
    from capa.config.reading import decode_text, read_bytes

    text = decode_text(read_bytes(file), file=str(file))
    problems = _checked(method, profile, file, text)
    return _Verdict(problems, f"method {method.name}: {_outline(method)}{_against(profile)}")


def _experiment(file: Path, profile: "HardwareProfile | None", hardware: Path | None) -> _Verdict:
    """Check an experiment, its procedure's config included.

    Raises:
        ProblemsError: it can't be used.
    """
    from capa.config.check_experiment import check_experiment, is_path
    from capa.config.load import load_profile, read_experiment
    from capa.config.reading import decode_text, read_bytes
    from capa.plugins.discovery import load_procedures_here

    procedures = load_procedures_here()
    text = decode_text(read_bytes(file), file=str(file))
    read = read_experiment(
        text, file=str(file), folder=file.parent, procedures=procedures, rig=profile
    )
    problems = []
    own = read.experiment.hardware
    if profile is None and own is not None and is_path(own):
        hardware = file.parent / own
        profile = load_profile(hardware)
    if profile is not None:
        problems = check_experiment(
            read,
            profile=profile,
            profile_file=hardware,
            folder=file.parent,
            procedures=procedures,
        )
    method = read.experiment.method
    about = f", method {method.name}: {_outline(method)}" if method is not None else ""
    summary = f"experiment with {read.experiment.procedure.id}{about}{_against(profile)}"
    return _Verdict(problems, summary)


def _checked(
    method: "Method", profile: "HardwareProfile | None", file: Path, text: str | None
) -> "list[Problem]":
    from capa.config.check import check_method

    if profile is None:
        return []
    return check_method(method, profile, file=str(file), text=text)


def _against(profile: "HardwareProfile | None") -> str:
    return f"; fits {profile.name}" if profile else "; not checked against a rig (--hardware)"


def _outline(method: "Method") -> str:
    """Say how many steps, and how long they take if that is fixed."""
    count = len(method.steps)
    steps = f"{count} step" if count == 1 else f"{count} steps"
    total_s = method.total_duration_s()
    return f"{steps}, {_span(total_s) if total_s is not None else 'duration not fixed'}"


def _span(total_s: float) -> str:
    """Write a time as a person says it."""
    if total_s < 120:
        return f"{total_s:g} s"
    hours, minutes = divmod(round(total_s / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _tell(file: Path, verdict: _Verdict) -> bool:
    """Print what was found in a file; return whether it can be used."""
    blocking = [problem for problem in verdict.problems if problem.blocking]
    for problem in verdict.problems:
        label, colour = ("error", "red") if problem.blocking else ("warning", "yellow")
        _line(label, colour, str(problem))
    if blocking:
        count = f"{len(blocking)} problem" + ("" if len(blocking) == 1 else "s")
        _line("refused", "red", f"{file}: {count}")
        return False
    _line("ok", "green", f"{file}: {verdict.summary}")
    return True


def _line(label: str, colour: str, text: str) -> None:
    """Print one line; coloured on a terminal, plain in a pipe, never broken across lines there."""
    if not sys.stdout.isatty():
        print(f"{label}: {text}")
        return
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text.assemble((label, f"bold {colour}"), ": ", text))
