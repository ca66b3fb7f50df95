"""What the commands of ``capa bundle`` share: their options, and how they end with an error."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

__all__ = [
    "Json",
    "Out",
    "Run",
    "Runs",
    "complain",
    "or_exit",
    "outside_bundles",
    "printable",
    "refuse",
    "say",
]

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
    complain(message)
    raise typer.Exit(_TROUBLE)


def refuse(message: str) -> NoReturn:
    """End the command with a message."""
    complain(message)
    raise typer.Exit(_TROUBLE)


def complain(message: str) -> None:
    """Say what is wrong."""
    for line in message.splitlines():
        typer.echo(f"capa bundle: {printable(line)}", err=True)


def outside_bundles(target: Path) -> Path:
    """Return a file that is to be written, unless it lies in a bundle: that would be altered."""
    from capa.storage.manifest import MANIFEST_FILE

    for folder in target.absolute().resolve().parents:
        if or_exit(lambda folder=folder: (folder / MANIFEST_FILE).exists()):  # type: ignore[misc]  # mypy can't see a lambda's default
            refuse(f"{target}: lies in a bundle, which would not verify any more; say --out FILE")
    return target


def say(text: object) -> None:
    """Print a line, in which names of files may stand."""
    print(printable(str(text)))


def printable(text: str) -> str:
    """Return a text that can do nothing to a terminal: names and messages come from anybody."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
