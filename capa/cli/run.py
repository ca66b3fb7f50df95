"""``capa run``: one experiment, or one method, in the foreground."""

import getpass
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from capa.config.box import BOX_RUNTIME_DIR, BOX_SETTINGS
from capa.runtime.rig_lock import RigLock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from structlog.typing import EventDict, FilteringBoundLogger

    from capa.config.load import ExperimentFile
    from capa.config.problems import Problem
    from capa.experiment.procedures.base import Procedure
    from capa.runtime.parts import Parts
    from capa.runtime.report import RunRequest

__all__ = ["run"]

_REFUSED = 2


def run(
    file: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="*.experiment.toml, .yaml, *.method.toml")
    ],
    twin: Annotated[bool, typer.Option("--twin", help="Simulate the instruments.")] = False,
    runs: Annotated[
        Path | None,
        typer.Option(
            "--runs",
            metavar="DIR",
            help="Where the bundle goes: else CAPA_RUNS_ROOT or CAPA_RUNS, else ./runs.",
        ),
    ] = None,
    hardware: Annotated[
        Path | None,
        typer.Option(
            "--hardware", metavar="PROFILE", help="The rig, if the experiment names none by path."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print the steps with their times, end.")
    ] = False,
    runtime_dir: Annotated[
        Path | None,
        typer.Option(
            "--runtime-dir",
            metavar="DIR",
            help="Where a daemon that drives this rig would say so, if not where --config says.",
        ),
    ] = None,
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The settings of the box: its trips forbid a run, its key signs the bundle.",
        ),
    ] = BOX_SETTINGS,
) -> None:
    """Run EXPERIMENT now, and watch it; Ctrl-C aborts it, a second one ends its cooldown.

    The rig is made safe before and after. Exit codes: 0 completed and sealed, 1 aborted,
    2 crashed or refused, 3 the bundle could not be verified.
    """
    from capa.config.problems import ProblemsError
    from capa.errors import CapaError

    code = _REFUSED
    lock = state = None
    try:
        if not (twin or dry_run):
            state, runtime = _box(config)
            lock = RigLock(runtime_dir or runtime)
            lock.acquire_if_there(make=state is not None)
            _refuse_tripped(state)
        sign_key = None if dry_run else _sign_key(config)
        code = _run(file, hardware, _runs_root(runs), state, sign_key, twin=twin, dry_run=dry_run)
    except* ProblemsError as refused:
        for error in _leaves(refused):
            _tell(error.problems)
    except* CapaError as failed:
        for other in _leaves(failed):
            typer.echo(f"capa run: {other}", err=True)
    finally:
        if lock is not None:
            lock.release()
    raise typer.Exit(code)


def _box(settings: Path) -> tuple[Path | None, Path]:
    """Return where the box keeps its trips and what is due (None without a box), and its lock.

    Raises:
        CapaError: nobody can know.
    """
    from capa.config.box import runtime_of_box, state_of_box
    from capa.errors import CapaError

    try:
        return state_of_box(settings), runtime_of_box(settings) or BOX_RUNTIME_DIR
    except CapaError as error:
        raise CapaError(f"nobody knows what is latched: {error}") from error


def _refuse_tripped(state: Path | None) -> None:
    """Look for trips, now that nobody else can latch one.

    Raises:
        CapaError: one is latched, or nobody can know.
    """
    from capa.cli.foreground import CLEARING
    from capa.errors import CapaError
    from capa.runtime.trips import TripStore

    latched = () if state is None else TripStore(state).load()
    if latched:
        words = "; ".join(trip.message for trip in latched)
        raise CapaError(f"the rig is TRIPPED: {words}; {CLEARING}")


def _sign_key(settings: Path) -> Path | None:
    """Return the key of the box; one that does not sign costs the signature, and not the run."""
    from capa.config.box import sign_key_of_box
    from capa.errors import CapaError

    try:
        key = sign_key_of_box(settings)
    except CapaError as error:
        typer.echo(f"warning: the bundle is not signed: {error}", err=True)
        return None
    if key is not None and not os.access(key, os.R_OK):
        why = "you may not read it" if key.exists() else "there is no such key"
        typer.echo(f"warning: the bundle is not signed: {key}: {why}", err=True)
    return key


def _run(
    file: Path,
    hardware: Path | None,
    runs: Path,
    state: Path | None,
    sign_key: Path | None,
    *,
    twin: bool,
    dry_run: bool,
) -> int:
    """Check everything that needs no device, then run; return the exit code.

    Raises:
        CapaError (also in groups): what stands in the way.
    """
    from capa.config.check_experiment import check_experiment
    from capa.plugins.discovery import load_procedures_here
    from capa.runtime.parts import load_parts

    procedures = load_procedures_here()
    read = _read(file, procedures)
    profile_file = _profile_file(read, file, hardware)
    parts = load_parts(profile_file, procedures)
    problems = check_experiment(
        read,
        profile=parts.profile,
        profile_file=profile_file,
        folder=file.parent,
        procedures=procedures,
    )
    _tell(problems)
    if any(problem.blocking for problem in problems):
        return _REFUSED
    if dry_run:
        _tell_steps(parts, read, procedures)
        return 0
    return _conducted(parts, _request(parts, read, file), runs, state, sign_key, twin=twin)


def _read(file: Path, procedures: "Mapping[str, type[Procedure]]") -> "ExperimentFile":
    """Read an experiment, or make one of a method.

    Raises:
        ProblemsError: everything that is wrong with it.
    """
    from capa.config.experiment import ExperimentConfig
    from capa.config.load import ExperimentFile, parse_method, read_experiment
    from capa.config.reading import decode_text, parse_toml, read_bytes

    text = decode_text(read_bytes(file), file=str(file))
    if not file.name.endswith(".method.toml"):
        return read_experiment(text, file=str(file), folder=file.parent, procedures=procedures)
    experiment = ExperimentConfig(method=parse_method(text, file=str(file)))
    return ExperimentFile(experiment, parse_toml(text, file=str(file)), str(file), text)


def _profile_file(read: "ExperimentFile", file: Path, hardware: Path | None) -> Path:
    """Return the profile to use: the one that was said, else the one that the experiment names.

    Raises:
        ProblemsError: there is none.
    """
    from capa.config.check_experiment import is_path
    from capa.config.problems import Problem, ProblemsError

    if hardware is not None:
        return hardware
    wanted = read.experiment.hardware
    if wanted is not None and is_path(wanted):
        return file.parent / wanted
    message = "names no rig" if wanted is None else f"names the rig {wanted!r}, but not its file"
    hint = "say which: capa run --hardware PROFILE"
    raise ProblemsError([Problem("run.no_profile", message, file=str(file), hint=hint)])


def _runs_root(runs: Path | None) -> Path:
    from capa.storage.find import named_runs

    return (named_runs(runs) or Path("runs")).absolute()


def _request(parts: "Parts", read: "ExperimentFile", file: Path) -> "RunRequest":
    from capa.config.write import experiment_text, method_text
    from capa.runtime.report import RunRequest

    experiment = read.experiment
    if "operator" not in experiment.model_fields_set:
        operator = experiment.operator.model_copy(update={"id": getpass.getuser()})
        experiment = experiment.model_copy(update={"operator": operator})
    text = read.method_text
    if text is None and experiment.method is not None:
        text = method_text(experiment.method)
    return RunRequest(
        experiment=experiment,
        source_name=file.name,
        method_text=text,
        hardware_text=parts.profile_text,
        config_text=experiment_text(experiment),
        operator_id=experiment.operator.id,
    )


def _conducted(
    parts: "Parts",
    request: "RunRequest",
    runs: Path,
    state: Path | None,
    sign_key: Path | None,
    *,
    twin: bool,
) -> int:
    """Run it, with the twin in a folder that goes away afterwards."""
    import trio

    from capa.cli.foreground import ForegroundRun
    from capa.runtime.console import RunConsole

    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="capa-twin-") as folder:
        foreground = ForegroundRun(
            parts=parts,
            request=request,
            runs_root=runs,
            twin_dir=Path(folder) if twin else None,
            console=RunConsole(sys.stdout),
            log=_logger(),
            keyboard=sys.stdin.fileno() if sys.stdin.isatty() else None,
            state=state,
            sign_key=sign_key,
        )
        return trio.run(foreground.run)


def _logger() -> "FilteringBoundLogger":
    """Warnings go to standard error; what a person is to read goes to the console."""
    import structlog

    processors = structlog.get_config()["processors"]
    structlog.configure(
        processors=[*processors[:-1], _traceback_below, processors[-1]],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    log: FilteringBoundLogger = structlog.get_logger("capa")
    return log


def _traceback_below(_logger: object, _name: str, event: "EventDict") -> "EventDict":
    """Have a traceback printed as lines of its own, below the event."""
    if "traceback" in event:
        event["exception"] = event.pop("traceback")
    return event


def _tell_steps(
    parts: "Parts", read: "ExperimentFile", procedures: "Mapping[str, type[Procedure]]"
) -> None:
    from capa.cli.outline import outline, outline_config

    experiment = read.experiment
    typer.echo(f"{read.source.file}: {experiment.procedure.id} on {parts.profile.name}")
    if experiment.method is None:
        cls = procedures[experiment.procedure.id]
        for line in outline_config(cls, experiment.procedure.config, parts.profile.safe_state):
            typer.echo(f"  {line}")
        return
    units = {channel.name: channel.unit for channel in parts.profile.channels}
    safe = parts.profile.safe_state
    for line in outline(experiment.method, units, safe[0].set if safe else {}):
        typer.echo(f"  {line}")


def _tell(problems: "Sequence[Problem]") -> None:
    for problem in problems:
        typer.echo(f"{'error' if problem.blocking else 'warning'}: {problem}", err=True)


ErrorT = TypeVar("ErrorT", bound=Exception)


def _leaves(group: "ExceptionGroup[ErrorT]") -> list[ErrorT]:
    """Return the errors in a group of groups."""
    found: list[ErrorT] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, ExceptionGroup) else [error]
    return found
