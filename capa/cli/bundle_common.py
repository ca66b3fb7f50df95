"""What the commands of ``capa bundle`` share: their options, and how they end with an error."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

__all__ = ["Json", "Out", "Run", "Runs", "or_exit", "refuse"]

_TROUBLE = 1
_Result = TypeVar("_Result")

Runs = Annotated[
    Path | None, typer.Option("--runs", metavar="DIR", help="Where the runs are recorded.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder, run id, its beginning, or last.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write here.")]


def or_exit(do: Callable[[], _Result]) -> _Result:
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
    _say(message)
    raise typer.Exit(_TROUBLE)


def refuse(message: str) -> NoReturn:
    """End the command with a message."""
    _say(message)
    raise typer.Exit(_TROUBLE)


def _say(message: str) -> None:
    typer.echo(f"capa bundle: {message}", err=True)
