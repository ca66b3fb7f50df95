"""``capa bundle``: find, read, check and export what was recorded."""

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from capa.storage.open import Bundle

__all__ = ["bundle"]

_TROUBLE, _NOT_WHOLE = 1, 3
_FOLLOW_S = 0.5
_Result = TypeVar("_Result")

bundle = typer.Typer(
    help="""Find, read, check and export what runs recorded.

RUN is a bundle's folder, a run id, the beginning of one, or last. Runs are looked for in --runs,
else in CAPA_RUNS, else in ./runs, else in /var/lib/capad/runs.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Runs = Annotated[
    Path | None, typer.Option("--runs", metavar="DIR", help="Where the runs are recorded.")
]
_Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder, run id, its beginning, or last.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
_Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write here.")]


@bundle.command("list")
def list_(
    status: Annotated[
        str, typer.Option(help="Only runs that are completed, aborted, crashed, sealed, open ...")
    ] = "",
    operator: Annotated[str, typer.Option(help="Only this operator's.")] = "",
    sample: Annotated[str, typer.Option(help="Only runs whose sample says this.")] = "",
    method: Annotated[str, typer.Option(help="Only runs of this method.")] = "",
    tag: Annotated[str, typer.Option(help="Only runs with this tag.")] = "",
    since: Annotated[
        datetime | None, typer.Option(help="Only runs since this local date or time.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Only runs before this local date or time.")
    ] = None,
    runs: _Runs = None,
    as_json: _Json = False,
) -> None:
    """List runs, oldest first. Texts match anywhere, in capitals or not.

    Example: capa bundle list --status crashed --since 2026-11-01
    """
    from capa.cli.bundle_pages import list_lines
    from capa.storage.catalog import Filter, catalogued
    from capa.storage.find import runs_folder

    wanted = Filter(
        status=status,
        operator=operator,
        sample=sample,
        method=method,
        tag=tag,
        since=None if since is None else since.astimezone(),
        until=None if until is None else until.astimezone(),
    )
    root = runs_folder(runs)
    rows = _or_exit(lambda: catalogued(root, wanted))
    if as_json:
        from dataclasses import asdict

        for row in rows:
            told = asdict(row)
            told |= {"sample": json.loads(row.sample), "tags": json.loads(row.tags)}
            print(json.dumps(told, ensure_ascii=False))
    else:
        print("\n".join(list_lines(rows, root)))


@bundle.command(no_args_is_help=True)
def show(run: _Run, runs: _Runs = None) -> None:
    """Print a page on one run: outcome, steps, safe state, channels, what went wrong."""
    from capa.cli.bundle_pages import show_lines

    opened = _opened(run, runs)
    print("\n".join(show_lines(opened)))


@bundle.command(no_args_is_help=True)
def verify(
    wanted: Annotated[list[str], typer.Argument(metavar="RUN...", help="As many as you like.")],
    runs: _Runs = None,
) -> None:
    """Hash every file again and compare. Exits with 0 when all are whole, with 3 when one is not.

    The same without capa: sha256sum -c manifest.sha256 in the bundle's folder.
    """
    from capa.storage.find import find_bundle, runs_folder
    from capa.storage.verify import verify_bundle

    whole = True
    for name in wanted:
        path = _or_exit(lambda name=name: find_bundle(name, runs_folder(runs)))  # type: ignore[misc]  # mypy can't see a lambda's default
        problems = verify_bundle(path)
        broken = [problem for problem in problems if problem.blocking]
        whole = whole and not broken
        print(f"{path}: {'NOT WHOLE' if broken else 'whole: every file is what was sealed'}")
        for problem in problems:
            print(f"  {problem}")
    raise typer.Exit(0 if whole else _NOT_WHOLE)


@bundle.command(no_args_is_help=True)
def finalize(run: _Run, runs: _Runs = None) -> None:
    """Seal a bundle that was left open: after a power cut, a full disk, a kill.

    Does nothing to a bundle that is sealed but verify it. Exits with 0 when it is sealed, with 3
    when it does not verify, with 1 when it could not be finished (the message says why).
    """
    import trio

    from capa.storage.finalize import finalize_in_child
    from capa.storage.find import find_bundle, runs_folder

    path = _or_exit(lambda: find_bundle(run, runs_folder(runs)))
    result = trio.run(finalize_in_child, path)
    print(f"{path}: {result.bundle_status}{': ' if result.detail else ''}{result.detail}")
    codes = {"sealed": 0, "verification_failed": _NOT_WHOLE}
    raise typer.Exit(codes.get(result.bundle_status, _TROUBLE))


@bundle.command(no_args_is_help=True)
def events(
    run: _Run,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on while the run is recorded.")
    ] = False,
    kind: Annotated[
        str | None, typer.Option(help="Only this kind; all that begin with it: method.step.")
    ] = None,
    at_least: Annotated[
        str, typer.Option(help="debug, info, warning, error or critical, and above.")
    ] = "debug",
    runs: _Runs = None,
    as_json: _Json = False,
) -> None:
    """Print what happened, in order.

    Example: capa bundle events last --follow --at-least warning
    """
    from capa.cli.bundle_pages import event_line

    opened = _opened(run, runs)
    after_id = 0
    while True:
        going_on = _opened(str(opened.path), None).manifest.run_status == "running"
        for event in _or_exit(
            lambda: opened.events(kind=kind, at_least=at_least, after_id=after_id)  # noqa: B023 - called at once
        ):
            print(event_line(event, as_json=as_json), flush=follow)
            after_id = event.id
        if not follow or not going_on:
            return
        time.sleep(_FOLLOW_S)


@bundle.command(no_args_is_help=True)
def export(
    run: _Run,
    csv: Annotated[bool, typer.Option("--csv", help="CSV, one sample a line.")] = False,
    parquet_wide: Annotated[
        bool, typer.Option("--parquet-wide", help="Parquet, one column a channel.")
    ] = False,
    every_s: Annotated[
        float | None,
        typer.Option(
            help="One row every so many seconds and one column a channel (wide).", min=0.001
        ),
    ] = None,
    out: _Out = None,
    runs: _Runs = None,
) -> None:
    """Write the samples for other programs.

    CSV goes to the terminal unless --out says where. In a wide table each row has the latest
    measurement of each channel, and none where it is older than 5 s.
    """
    from capa.storage.export import EVERY_S, write_csv, write_wide_parquet

    if csv == parquet_wide:
        _refuse("say either --csv or --parquet-wide")
    opened = _opened(run, runs)
    if parquet_wide:
        target = out or Path(f"{opened.run_id}.wide.parquet")
        rows = _or_exit(lambda: write_wide_parquet(opened, target, every_s=every_s or EVERY_S))
    elif out is None:
        _or_exit(lambda: write_csv(opened, sys.stdout.buffer, every_s=every_s))
        return
    else:
        target = out
        with _or_exit(lambda: target.open("wb")) as file:
            rows = _or_exit(lambda: write_csv(opened, file, every_s=every_s))
    print(f"{target}: {rows} rows")


@bundle.command(no_args_is_help=True)
def report(
    run: _Run,
    png: Annotated[bool, typer.Option("--png", help="Only the plots, as one picture.")] = False,
    out: _Out = None,
    runs: _Runs = None,
) -> None:
    """Write a report: one HTML file with everything in it, plots of every channel included."""
    from capa.storage.plots import plots_png
    from capa.storage.report_page import report_html

    opened = _opened(run, runs)
    target = out or Path(f"{opened.run_id}.{'png' if png else 'html'}")
    data = _or_exit(lambda: plots_png(opened) if png else report_html(opened).encode())
    _or_exit(lambda: target.write_bytes(data))
    print(target)


@bundle.command(no_args_is_help=True)
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="DuckDB's SQL.")],
    runs: _Runs = None,
    as_json: _Json = False,
) -> None:
    """Ask all bundles at once, in SQL: views scalars, events and runs (docs/bundles.md).

    Example: capa bundle query "SELECT run_id, max(value) FROM scalars WHERE channel = 'heater.pv'
    GROUP BY run_id"
    """
    from capa.cli.bundle_pages import table_lines
    from capa.storage.find import runs_folder
    from capa.storage.views import ask

    columns, rows = _or_exit(lambda: ask(runs_folder(runs), sql))
    if as_json:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), default=str))
    else:
        print("\n".join(table_lines(columns, rows)))


def _opened(run: str, runs: Path | None) -> "Bundle":
    from capa.storage.find import find_bundle, runs_folder
    from capa.storage.open import open_bundle

    return _or_exit(lambda: open_bundle(find_bundle(run, runs_folder(runs))))


def _or_exit(do: Callable[[], _Result]) -> _Result:
    """Return what it returns; an error that a person can mend ends the command with its text."""
    from capa.errors import CapaError

    try:
        return do()
    except CapaError as error:
        message = str(error)
    except BrokenPipeError:  # head has seen enough
        sys.stderr.close()
        raise typer.Exit(0) from None
    except OSError as error:
        message = f"{error.filename or ''}: {error.strerror}"
    except ValueError as error:
        message = str(error)
    _refuse(message)
    raise AssertionError  # _refuse does not return


def _refuse(message: str) -> None:
    typer.echo(f"capa bundle: {message}", err=True)
    raise typer.Exit(_TROUBLE)
