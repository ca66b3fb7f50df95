"""``capa bundle``: find, read, check and export what was recorded."""

import json
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capa.cli.bundle_common import (
    Json,
    Out,
    Run,
    Runs,
    complain,
    or_exit,
    outside_bundles,
    refuse,
    say,
    written,
)
from capa.cli.bundle_keeping import keep, prune

if TYPE_CHECKING:
    from capa.storage.open import Bundle

__all__ = ["bundle"]

_TROUBLE, _NOT_WHOLE = 1, 3
_FOLLOW_S = 0.5

bundle = typer.Typer(
    help="""Find, read, check and export what runs recorded.

RUN is a bundle's folder, a run id, the beginning of one, or last. Runs are looked for in --runs,
else in CAPA_RUNS_ROOT or CAPA_RUNS, else in ./runs, else in /var/lib/capad/runs.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

bundle.command(no_args_is_help=True)(prune)
bundle.command(no_args_is_help=True)(keep)


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
    removed: Annotated[
        bool, typer.Option("--removed", help="Those that retention removed, and why; no filters.")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """List runs, oldest first. Texts match anywhere, in capitals or not.

    Example: capa bundle list --status crashed --since 2026-11-01
    """
    from dataclasses import asdict

    from capa.cli.bundle_pages import list_lines, removed_lines
    from capa.storage.catalog import Filter, catalogued
    from capa.storage.find import runs_folder
    from capa.storage.removal import removed_runs

    root = runs_folder(runs)
    if removed:
        gone = or_exit(lambda: removed_runs(root))
        lines = [json.dumps(asdict(it), ensure_ascii=False) for it in gone]
        print("\n".join(lines if as_json else removed_lines(gone, root)))
        return
    wanted = Filter(
        status=status,
        operator=operator,
        sample=sample,
        method=method,
        tag=tag,
        since=None if since is None else since.astimezone(),
        until=None if until is None else until.astimezone(),
    )
    rows = or_exit(lambda: catalogued(root, wanted))
    if as_json:
        for row in rows:
            told = asdict(row)
            told |= {"sample": json.loads(row.sample), "tags": json.loads(row.tags)}
            print(json.dumps(told, ensure_ascii=False))
    else:
        print("\n".join(list_lines(rows, root)))


@bundle.command(no_args_is_help=True)
def show(run: Run, runs: Runs = None) -> None:
    """Print a page on one run: outcome, steps, safe state, channels, what went wrong."""
    from capa.cli.bundle_pages import show_lines

    opened = _opened(run, runs)
    print("\n".join(or_exit(lambda: show_lines(opened))))


@bundle.command(no_args_is_help=True)
def verify(
    wanted: Annotated[list[str], typer.Argument(metavar="RUN...", help="As many as you like.")],
    signers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Each must be signed by one of these keys (allowed_signers)."
        ),
    ] = None,
    runs: Runs = None,
) -> None:
    """Hash every file again and compare. Exits with 0 when all are whole, with 3 when one is not.

    With 1 when all that were found are whole and one was not found.

    The same without capa: sha256sum -c manifest.sha256 in the bundle's folder.
    """
    from capa.errors import BundleError
    from capa.storage.find import find_bundle, runs_folder
    from capa.storage.verify import verify_bundle

    code = 0
    for name in wanted:
        try:
            path = find_bundle(name, runs_folder(runs))
        except BundleError as error:
            complain(str(error))
            code = code or _TROUBLE
            continue
        problems = verify_bundle(path, allowed_signers=signers)
        broken = [problem for problem in problems if problem.blocking]
        code = _NOT_WHOLE if broken else code
        say(f"{path}: {'NOT WHOLE' if broken else 'whole: every file is what was sealed'}")
        for problem in problems:
            say(f"  {problem}")
    raise typer.Exit(code)


@bundle.command(no_args_is_help=True)
def finalize(
    run: Run,
    sign_key: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign it with this Ed25519 key.")
    ] = None,
    runs: Runs = None,
) -> None:
    """Seal a bundle that was left open: after a power cut, a full disk, a kill.

    Does nothing to a bundle that is sealed but verify it. Exits with 0 when it is sealed, with 3
    when it does not verify, with 1 when it could not be finished (the message says why).
    """
    import trio

    from capa.storage.finalize import finalize_in_child
    from capa.storage.find import find_bundle, runs_folder

    path = or_exit(lambda: find_bundle(run, runs_folder(runs)))
    result = trio.run(partial(finalize_in_child, path, sign_key=sign_key))
    say(f"{path}: {result.bundle_status}{': ' if result.detail else ''}{result.detail}")
    codes = {"sealed": 0, "verification_failed": _NOT_WHOLE}
    raise typer.Exit(codes.get(result.bundle_status, _TROUBLE))


@bundle.command(no_args_is_help=True)
def events(
    run: Run,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on while the run is recorded.")
    ] = False,
    kind: Annotated[
        str | None, typer.Option(help="Only this kind; all that begin with it: method.step.")
    ] = None,
    at_least: Annotated[
        str, typer.Option(help="debug, info, warning, error or critical, and above.")
    ] = "debug",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Print what happened, in order.

    Example: capa bundle events last --follow --at-least warning
    """
    from capa.cli.bundle_pages import event_line

    opened = _opened(run, runs)
    after_id = 0
    while True:
        going_on = _opened(str(opened.path), None).manifest.run_status == "running"
        for event in or_exit(
            lambda: opened.events(kind=kind, at_least=at_least, after_id=after_id)  # noqa: B023 - called at once
        ):
            print(event_line(event, as_json=as_json), flush=follow)
            after_id = event.id
        if not follow or not going_on:
            return
        time.sleep(_FOLLOW_S)


@bundle.command(no_args_is_help=True)
def export(
    run: Run,
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
    out: Out = None,
    runs: Runs = None,
) -> None:
    """Write the samples for other programs.

    CSV goes to the terminal unless --out says where. In a wide table each row has the latest
    measurement of each channel, and none where it is older than 5 s.
    """
    from capa.storage.export import EVERY_S, write_csv, write_wide_parquet

    if csv == parquet_wide:
        refuse("say either --csv or --parquet-wide")
    opened = _opened(run, runs)
    if parquet_wide:
        target = out or Path(f"{opened.path.resolve().name}.wide.parquet")
        rows = written(
            target, lambda path: write_wide_parquet(opened, path, every_s=every_s or EVERY_S)
        )
    elif out is None:
        or_exit(lambda: write_csv(opened, sys.stdout.buffer, every_s=every_s))
        return
    else:
        target = out

        def as_csv(path: Path) -> int:
            with path.open("wb") as file:
                return write_csv(opened, file, every_s=every_s)

        rows = written(target, as_csv)
    say(f"{target}: {rows} rows")


@bundle.command(no_args_is_help=True)
def report(
    run: Run,
    png: Annotated[bool, typer.Option("--png", help="Only the plots, as one picture.")] = False,
    out: Out = None,
    runs: Runs = None,
) -> None:
    """Write a report: one HTML file with everything in it, plots of every channel included."""
    from capa.storage.plots import plots_png
    from capa.storage.report_page import report_html

    opened = _opened(run, runs)
    name = f"{opened.path.resolve().name}.{'png' if png else 'html'}"
    target = outside_bundles(out or Path(name))
    data = or_exit(lambda: plots_png(opened) if png else report_html(opened).encode())
    written(target, lambda path: path.write_bytes(data))
    say(target)


@bundle.command(no_args_is_help=True)
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="DuckDB's SQL.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Ask all bundles at once, in SQL: views scalars, events and runs (docs/bundles.md).

    Example: capa bundle query "SELECT run_id, max(value) FROM scalars WHERE channel = 'heater.pv'
    GROUP BY run_id"
    """
    from capa.cli.bundle_pages import table_lines
    from capa.storage.find import runs_folder
    from capa.storage.views import ask

    columns, rows = or_exit(lambda: ask(runs_folder(runs), sql, tell=complain))
    if as_json:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), default=str))
    else:
        print("\n".join(table_lines(columns, rows)))


def _opened(run: str, runs: Path | None) -> "Bundle":
    from capa.storage.find import find_bundle, runs_folder
    from capa.storage.open import open_bundle

    return or_exit(lambda: open_bundle(find_bundle(run, runs_folder(runs))))
