"""``capa twin``: simulated instruments, behind ports that look real."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from capa.config.beside import files_beside
from capa.errors import CapaError

__all__ = ["TwinGroup", "twin", "twin_fault", "twins"]


_KINDS = (
    "Of a line: silence, mute, delay, noise, truncate, crc, wrong_address, doubled, echo, "
    "port_gone. Of a device: exception, frozen, sensor_break, and those in its family's NOTES.md."
)


class TwinGroup(TyperGroup):
    """``capa twin PROFILE`` is short for ``capa twin serve PROFILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's, private
        """Put ``serve`` in front of what is no command's name."""
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = ["serve", *args]
        return super().parse_args(ctx, args)


twins = typer.Typer(
    cls=TwinGroup,
    help="Simulated instruments: capa twin PROFILE --dir DIR, and capa twin fault DIR KIND.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def twin(
    profile: Annotated[Path, typer.Argument(help="The hardware profile to simulate.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="Where ports, profile and wire log are put.")
    ],
) -> None:
    """Serve every link of PROFILE with simulated devices, until Ctrl-C.

    DIR then has a port for each link, profile.toml that uses them, and wire.jsonl with every byte.
    """
    try:
        _entry("plant")(_read(profile), directory)
    except CapaError as error:
        typer.echo(f"capa twin: {error}", err=True)
        raise typer.Exit(78) from error


def twin_fault(
    directory: Annotated[Path, typer.Argument(help="The --dir of the running twin.")],
    kind: Annotated[str, typer.Argument(help=_KINDS)],
    link: Annotated[str | None, typer.Option(help="The link it befalls.")] = None,
    device: Annotated[str | None, typer.Option(help="The device it befalls.")] = None,
    value: Annotated[float | None, typer.Option(help="How much of it: seconds, bytes.")] = None,
    off: Annotated[bool, typer.Option("--off", help="End the fault.")] = False,
) -> None:
    """Begin a fault in a running twin, or end it with --off."""
    request = {"fault": kind, "active": not off, "value": value}
    request |= {key: name for key, name in (("link", link), ("device", device)) if name}
    try:
        reply = _entry("control")(directory, request)
    except CapaError as error:
        typer.echo(f"capa twin fault: {error}", err=True)
        raise typer.Exit(2) from error
    if not reply.get("ok"):
        typer.echo(f"capa twin fault: {reply.get('error')}", err=True)
        raise typer.Exit(2)
    typer.echo(json.dumps(reply))


def _read(profile: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(profile.read_text(encoding="utf-8"))
        return files_beside(data, profile.parent)
    except OSError as error:
        raise CapaError(f"{profile}: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CapaError(f"{profile}: not TOML: {error}; run capa validate on it") from error


def _entry(name: str) -> Callable[..., Any]:
    """Find a part of the twin; imported when called, as other commands need no drivers."""
    from capa.devices.registry import load_twins

    try:
        return load_twins({name})[name]
    except KeyError as error:
        raise CapaError(f"no twin {name!r} is installed; install capa again") from error


twins.command("serve")(twin)
twins.command("fault", no_args_is_help=True)(twin_fault)
