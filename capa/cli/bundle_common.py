"""What the commands of ``capa bundle`` share: their options, and how they end with an error."""

import os
import sys
from collections.abc import Callable
from functools import partial
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
    "written",
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
    for folder in target.absolute().resolve().parents:
        if or_exit(partial(_is_bundle, folder)):
            refuse(f"{target}: lies in a bundle, which would not verify any more; say --out FILE")
    return target


def _is_bundle(folder: Path) -> bool:
    """Whether this is a bundle, not a web project: those have a ``manifest.json`` as well."""
    from capa.storage.inflight import EVENTS_FILE
    from capa.storage.manifest import MANIFEST_FILE
    from capa.storage.sums import SUMS_FILE

    return (folder / MANIFEST_FILE).exists() and any(
        (folder / name).exists() for name in (SUMS_FILE, EVENTS_FILE)
    )


def written(target: Path, write: Callable[[Path], _Result]) -> _Result:
    """Have a file written beside and renamed, so that it is there whole or not at all.

    ``write`` is given the path to write. What is no file (``/dev/stdout``) is written as it is.
    """
    outside_bundles(target)
    plain = target.is_file() or not target.exists()
    place = target.resolve() if plain else target  # what a link leads to is written, not the link
    path = place.with_name(f".{place.name}.{os.getpid()}.capa-tmp") if plain else place
    try:
        result = or_exit(lambda: _wrote(path, write, target))
        if plain:
            or_exit(lambda: path.replace(place))
        return result
    finally:
        if plain:
            path.unlink(missing_ok=True)


def _wrote(path: Path, write: Callable[[Path], _Result], target: Path) -> _Result:
    try:
        return write(path)
    except BrokenPipeError:
        raise
    except OSError as error:  # Arrow's has no name of a file, and its words in its text alone
        if error.filename in (None, str(path)):
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        raise


def say(text: object) -> None:
    """Print a line, in which names of files may stand."""
    print(printable(str(text)))


def printable(text: str) -> str:
    """Return a text that can do nothing to a terminal: names and messages come from anybody."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
