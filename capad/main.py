"""``capad``: from the command line to the daemon, by the shortest way.

Only argparse is imported before the flags are known: ``--help`` and a usage error answer at once,
and everything heavy is imported while something useful can be said about it.
"""

import argparse
import faulthandler
import gc
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    from capa.config.problems import ProblemsError
    from capad.settings import Settings

__all__ = ["main"]

USAGE, CONFIGURATION = 64, 78
SWITCH_INTERVAL_S = 0.001
"""What a computing thread may delay the loop by; Python's own 5 ms are a late ramp tick."""

_DESCRIPTION = """\
Run the methods that are dropped into the spool on the rig that the profile describes.

Drop NAME.method.toml into SPOOL/incoming/. SIGINT (Ctrl-C) aborts the run and holds the queue, a
second one ends a cooldown; SIGTERM makes the rig safe and ends the daemon; SIGHUP reads the
profile again once nothing runs. Flags win over the settings file."""

_EPILOG = """\
exit codes: 0 clean, 64 usage, 78 configuration. With --once, the worst job's: 0 completed and
sealed, 1 aborted (or the queue is held), 2 crashed (or a file was rejected), 3 not verified."""


class _Version(argparse.Action):
    """Tells the version; looks for it only when asked, for that takes milliseconds."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> Never:
        from importlib.metadata import version

        sys.stdout.write(f"capad {version('capa')}\n")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"capad: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="capad",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: /etc/capad/capad.toml)"
    )
    parser.add_argument("--hardware", type=Path, metavar="PROFILE", help="the rig to drive")
    parser.add_argument("--spool", type=Path, metavar="DIR", help="where methods are dropped")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where bundles go")
    parser.add_argument("--runtime-dir", type=Path, metavar="DIR", help="for what lasts till boot")
    parser.add_argument(
        "--twin", action="store_true", help="simulate the instruments (in RUNTIME-DIR/twin)"
    )
    parser.add_argument(
        "--once", action="store_true", help="run what is in the spool, then exit with its code"
    )
    parser.add_argument(
        "--check", action="store_true", help="print the settings in force and the problems; exit"
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="default: info for a service, warning for a terminal",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version; exit")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``capad``; returns the exit code."""
    # pydantic would import whatever a distribution declares for it, past the plug-ins' lock.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    arguments = _parser().parse_args(argv)
    service = "NOTIFY_SOCKET" in os.environ
    if service:
        # Never ends a service, and an early one waits for ``capad.signals``. Not by SIG_IGN, which
        # throws away what waits whenever it is set, and trio sets anew what it finds.
        signal.signal(signal.SIGINT, _unheard)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    gc.disable()  # until READY: imports make little garbage and much work for the collector
    faulthandler.enable()  # SIGABRT, the watchdog's signal, leaves the stacks in the journal
    from capa.config.problems import ProblemsError
    from capad.settings import load_settings

    try:
        settings = load_settings(arguments.config, _flags(arguments))
    except ProblemsError as error:
        return _refuse(error)
    if arguments.check:
        return _check(settings)
    return _run(settings, arguments, service=service)


def _unheard(_signum: int, _frame: object) -> None:
    """Do nothing: the daemon is not up yet, or at its end."""


def _flags(arguments: argparse.Namespace) -> dict[str, Path | None]:
    return {
        "rig.profile": arguments.hardware,
        "spool.root": arguments.spool,
        "runs.root": arguments.runs,
        "runtime.dir": arguments.runtime_dir,
    }


def _run(settings: "Settings", arguments: argparse.Namespace, *, service: bool) -> int:
    import trio

    from capa.config.problems import ProblemsError
    from capad.console import Console
    from capad.daemon import Daemon, Options
    from capad.logs import configure_logs
    from capad.supervision import Notifier

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    level = arguments.log_level or ("info" if service else "warning")
    options = Options(
        twin=arguments.twin,
        once=arguments.once,
        interactive=not service and sys.stdin.isatty(),
    )
    daemon = Daemon(
        settings,
        options,
        console=Console(None if service else sys.stdout),
        notifier=Notifier(os.environ),
        log=configure_logs(service=service, level=level),
    )
    code = 0
    try:
        code = trio.run(daemon.run)
    except* ProblemsError as group:
        code = max(_refuse(error) for error in _leaves(group))
    return code


def _leaves(group: "BaseExceptionGroup[ProblemsError]") -> list["ProblemsError"]:
    """Return the errors in a group of groups."""
    found: list[ProblemsError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _refuse(error: "ProblemsError") -> int:
    sys.stderr.write("capad: it can't start with this configuration\n")
    for problem in error.problems:
        sys.stderr.write(f"  {problem}\n")
    return CONFIGURATION


def _check(settings: "Settings") -> int:
    """Print the settings, then everything that is wrong with the profile, or does not fit it.

    Nothing is sent to an instrument: it may be asked beside a daemon that drives the rig.
    """
    from capa.config.load import inspect_profile
    from capa.config.problems import ProblemsError
    from capa.runtime.safe_plan import unguarded_problems
    from capad.check_runs import check_runs
    from capad.settings import settings_text

    sys.stdout.write(settings_text(settings) + "\n")
    try:
        profile, problems = inspect_profile(settings.rig.profile)
        if profile is not None:
            problems = [*problems, *check_runs(settings.runs, profile.safety.disk)]
            problems += unguarded_problems(profile, file=settings.rig.profile)
    except ProblemsError as error:
        problems = list(error.problems)
    for problem in problems:
        sys.stdout.write(f"{'problem' if problem.blocking else 'note'}: {problem}\n")
    if any(problem.blocking for problem in problems):
        return CONFIGURATION
    sys.stdout.write(
        f"nothing was sent; to see what the instruments are set to, with capad stopped:\n"
        f"  capa devices check {shlex.quote(str(settings.rig.profile))}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
