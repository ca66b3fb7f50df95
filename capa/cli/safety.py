"""``capa safety``: see what is latched or held, and end it in one's own name."""

from pathlib import Path
from typing import Annotated, Any

import typer

from capa.config.box import BOX_RUNTIME_DIR

__all__ = ["safety"]

_REFUSED, _NO_ANSWER = 1, 2

safety = typer.Typer(
    help="Show or clear the trips of the daemon on this box; release its queue.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_RuntimeDir = Annotated[
    Path, typer.Option("--runtime-dir", metavar="DIR", help="The daemon's runtime directory.")
]


@safety.command()
def show(runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR) -> None:
    """Print what is latched and what is in alarm. Exits with 1 while a trip is latched."""
    reply = _ask(runtime_dir, "show")
    for trip in reply["trips"]:
        run = f" (run {trip['run_id']})" if trip["run_id"] else ""
        print(f"TRIPPED {trip['at_utc']} {trip['rule']}{run}: {trip['message']}")
    for words in reply["holding"]:
        print(f"still holds: {words}")
    for words in reply["raised"]:
        print(f"raised: {words}")
    if not reply["trips"]:
        print("no trip is latched")
    raise typer.Exit(_REFUSED if reply["trips"] else 0)


@safety.command()
def clear(
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who clears it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why it is safe to.")],
    runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR,
) -> None:
    """Clear all latched trips, unless their condition still holds.

    Name and reason are recorded. Exits with 1 when the daemon refuses, with 2 when it does not
    answer.
    """
    reply = _ask(runtime_dir, "clear", by=by, reason=reason)
    print(reply["text"])
    if not reply["ok"]:
        raise typer.Exit(_REFUSED)


@safety.command()
def release(
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who releases it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why it may go on.")],
    runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR,
) -> None:
    """Let a queue that is held go on: removes spool/hold, in your name.

    Clears no trip. Exits with 1 when the daemon refuses, with 2 when it does not answer.
    """
    reply = _ask(runtime_dir, "release", by=by, reason=reason)
    print(reply["text"])
    if not reply["ok"]:
        raise typer.Exit(_REFUSED)


def _ask(runtime_dir: Path, do: str, *, by: str = "", reason: str = "") -> dict[str, Any]:
    from capa.errors import CapaError
    from capa.runtime.safety_requests import ask

    try:
        return ask(runtime_dir, do, by=by, reason=reason)
    except CapaError as error:
        typer.echo(f"capa safety: {error}", err=True)
        raise typer.Exit(_NO_ANSWER) from error
