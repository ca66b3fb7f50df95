"""The tool ``capa``: everything that needs no running daemon."""

import sys
from typing import Annotated

import typer

from capa.cli.bundle import bundle
from capa.cli.devices import devices
from capa.cli.plugins import plugins
from capa.cli.run import run
from capa.cli.safety import safety
from capa.cli.twin import twin_fault, twins
from capa.cli.validate import validate

__all__ = ["app", "main"]

app = typer.Typer(
    name="capa",
    help="Write, check and try out what a rig is to run; bring up rigs; read what runs recorded.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(no_args_is_help=True)(validate)
app.command(no_args_is_help=True)(run)
app.add_typer(twins, name="twin")
app.command("twin-fault", hidden=True, no_args_is_help=True)(twin_fault)  # its older name
app.add_typer(bundle, name="bundle")
app.add_typer(devices, name="devices")
app.add_typer(plugins, name="plugins")
app.add_typer(safety, name="safety")


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"capa {version('capa')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    """Keep ``capa`` a group of commands, however few there are."""


def main() -> None:
    """Run the tool; the entry point of the script ``capa``."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
