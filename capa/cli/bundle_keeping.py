"""``capa bundle prune`` and ``keep``: which bundles stay, and which go."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from capa.cli.bundle_common import Run, Runs, or_exit, refuse

if TYPE_CHECKING:
    from capa.storage.retention import Outcome

__all__ = ["keep", "prune"]

_TROUBLE = 1
_MB = 1e6


def prune(
    max_age_days: Annotated[
        float | None,
        typer.Option(help="Runs that ended longer ago, and so long before the newest.", min=0.001),
    ] = None,
    min_free_gb: Annotated[
        float | None, typer.Option(help="The oldest, until so much is free.", min=0.001)
    ] = None,
    min_runs: Annotated[
        int, typer.Option(help="So many of the newest stay in any case.", min=1)
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them, for good.")] = False,
    runs: Runs = None,
) -> None:
    """Remove old bundles: sealed ones that verify, the oldest first, none that is kept.

    removed.jsonl beside them says what they were, and capa bundle list --removed prints it.
    The daemon does the same while nothing runs, by [runs.keep] in its settings.

    Example: capa bundle prune --max-age-days 365 --dry-run
    """
    from capa.clock import utc_now
    from capa.storage.find import runs_folder
    from capa.storage.removal import Removed
    from capa.storage.retention import Failed, Limits
    from capa.storage.retention import prune as pruned

    if max_age_days is None and min_free_gb is None:
        refuse("say what is to go: --max-age-days, --min-free-gb or both")
    if dry_run == yes:
        refuse("say either --dry-run, to see what would go, or --yes")
    root = runs_folder(runs)
    outcomes = pruned(
        root,
        Limits(max_age_days, min_free_gb, min_runs),
        by=getpass.getuser(),
        now_utc=utc_now(),
        dry_run=dry_run,
    )
    found: list[Outcome] = []
    while (outcome := or_exit(lambda: next(outcomes, None))) is not None:
        found.append(outcome)
        print(_line(outcome, dry_run=dry_run))
    gone = [it for it in found if isinstance(it, Removed)]
    size_mb = sum(it.size_bytes for it in gone) / _MB
    print(f"{root}: {len(gone)} {_goes(dry_run)}, {size_mb:.1f} MB")
    raise typer.Exit(_TROUBLE if any(isinstance(it, Failed) for it in found) else 0)


def keep(
    run: Run,
    reason: Annotated[str, typer.Option(help="Why, for those who find it.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="It may go again.")] = False,
    runs: Runs = None,
) -> None:
    """Keep a run for good: neither the daemon nor prune removes it.

    It is a file beside the bundle, RUN.keep. An experiment whose tags include keep needs none.
    """
    from capa.storage.find import find_bundle, runs_folder
    from capa.storage.retention import pin_file

    path = or_exit(lambda: find_bundle(run, runs_folder(runs))).absolute()
    pin = pin_file(path.parent, path.name)
    if undo:
        or_exit(lambda: pin.unlink(missing_ok=True))
        print(f"{path.name}: goes when its time comes")
    else:
        told = f"{getpass.getuser()}{': ' if reason else ''}{reason}\n"
        or_exit(lambda: pin.write_text(told, encoding="utf-8"))
        print(f"{path.name}: is kept ({pin})")


def _line(outcome: "Outcome", *, dry_run: bool) -> str:
    from capa.storage.removal import Kept, Removed

    match outcome:
        case Removed():
            ended = (outcome.ended_utc or "")[:10]
            why = "is too old" if outcome.why == "age" else "makes room"
            words = f"{_goes(dry_run)}: ended {ended}, {why}, {outcome.size_bytes / _MB:.1f} MB"
        case Kept():
            words = f"stays: {outcome.reason}"
        case _:
            words = f"COULD NOT BE REMOVED: {outcome.reason}"
    return f"{outcome.run_id} {words}"


def _goes(dry_run: bool) -> str:
    return "would go" if dry_run else "removed"
