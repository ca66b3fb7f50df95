"""``capa devices``: bring up a rig, and see what its instruments say."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from capa.config.box import BOX_RUNTIME_DIR

if TYPE_CHECKING:
    from capa.cli.devices_rig import Bench

__all__ = ["devices"]

T = TypeVar("T")

_FAILED, _REFUSED = 1, 2

devices = typer.Typer(
    help="Bring up a rig: find, check, watch and listen to its instruments. Writes to none.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Profile = Annotated[Path, typer.Argument(metavar="PROFILE", help="The hardware profile.")]
_Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name in the profile.")]
_Twin = Annotated[bool, typer.Option("--twin", help="Simulate the instruments.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_RuntimeDir = Annotated[
    Path,
    typer.Option("--runtime-dir", metavar="DIR", help="Where a daemon on this box has its lock."),
]


def _at_least_nothing(value: float) -> float:
    """A count or a time; ``inf`` is one, ``nan`` is none."""
    if not value >= 0:
        raise typer.BadParameter(f"{value:g} is not 0 or more.")
    return value


@devices.command("list")
def list_(as_json: _Json = False) -> None:
    """List the families of instruments that are installed, and what each can do."""
    from capa.devices.poll_cost import TellsPollCost
    from capa.devices.preflight import HasSettings
    from capa.devices.probing import OffersProbes
    from capa.devices.registry import load_families
    from capa.devices.safe_plan import CompilesSafeWrites
    from capa.devices.tap import DescribesFrames

    kinds: tuple[tuple[str, type[Any]], ...] = (
        ("discover", OffersProbes),
        ("poll plan", TellsPollCost),
        ("guardian", CompilesSafeWrites),
        ("settings", HasSettings),
        ("words in talk", DescribesFrames),
    )
    families = load_families()
    rows = {
        name: (family.title, [word for word, kind in kinds if isinstance(family, kind)])
        for name, family in sorted(families.items())
    }
    if as_json:
        print(json.dumps({n: {"title": t, "can": can} for n, (t, can) in rows.items()}, indent=2))
        return
    width = max(map(len, rows), default=0)
    for name, (title, can) in rows.items():
        print(f"{name:<{width}}  {title}")
        print(f"{'':<{width}}  can: {', '.join(can) or 'be read and written; nothing more'}")


@devices.command()
def check(
    profile: _Profile,
    twin: _Twin = False,
    as_json: _Json = False,
    runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR,
) -> None:
    """Open every device, ask who it is, read it once, and compare with PROFILE.

    Nothing is written. Exits with 0 if all answer, 1 if one does not, 2 if none could be asked.
    """
    from capa.cli.devices_check import check_devices, tell_checked

    found = _on(profile, check_devices, twin=twin, runtime_dir=runtime_dir)
    if not tell_checked(found, as_json=as_json):
        raise typer.Exit(_FAILED)


@devices.command()
def watch(
    profile: _Profile,
    twin: _Twin = False,
    for_s: Annotated[
        float,
        typer.Option(
            "--for",
            metavar="SECONDS",
            help="End after so long; else Ctrl-C.",
            callback=_at_least_nothing,
        ),
    ] = float("inf"),
    as_json: _Json = False,
    runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR,
) -> None:
    """Show every channel's latest value, its age and its device's health, until Ctrl-C."""
    from capa.cli.devices_watch import watch_devices

    async def look(bench: "Bench") -> None:
        await watch_devices(bench, for_s=for_s, as_json=as_json)

    _on(profile, look, twin=twin, runtime_dir=runtime_dir)


@devices.command()
def talk(
    profile: _Profile,
    device: _Device,
    twin: _Twin = False,
    polls: Annotated[
        float,
        typer.Option(
            "--polls",
            metavar="N",
            help="End after so many; else Ctrl-C.",
            callback=_at_least_nothing,
        ),
    ] = float("inf"),
    runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR,
) -> None:
    """Poll DEVICE and print the frames as they pass: > sent, < received, = what it means."""
    from capa.cli.devices_talk import talk_to_device

    async def listen(bench: "Bench") -> bool:
        return await talk_to_device(bench, device, polls=polls, say=_say)

    if not _on(profile, listen, twin=twin, runtime_dir=runtime_dir):
        raise typer.Exit(_FAILED)


@devices.command()
def record(
    profile: _Profile,
    device: _Device,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to; never overwritten.")
    ],
    twin: _Twin = False,
    polls: Annotated[int, typer.Option("--polls", metavar="N", min=1, help="How many polls.")] = 10,
    runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR,
) -> None:
    """Record what passes while DEVICE is opened and polled, as a transcript for tests.

    Ctrl-C ends it earlier; what was recorded until then is kept.
    """
    from capa.cli.devices_talk import record_device

    if out.exists():
        _refuse(f"{out} exists; a recording is evidence and is not overwritten")
    if not out.parent.is_dir():
        _refuse(f"{out}: there is no folder {out.parent}")
    recorded: list[str] = []

    async def keep(bench: "Bench") -> None:
        await record_device(bench, device, polls=polls, keep=lambda t: recorded.append(str(t)))

    try:
        _on(profile, keep, twin=twin, runtime_dir=runtime_dir)
    finally:
        for text in recorded:
            _keep_recording(out, text)


def _keep_recording(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        _refuse(f"{out}: {error.strerror}")
    print(f"{out}: {len(text.splitlines())} lines; play it with: capa devices replay {out}")


@devices.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A transcript.")],
) -> None:
    """Play a transcript to today's driver. Exits with 1 if it does or reads anything else."""
    from trio.testing import MockClock

    from capa.cli.devices_talk import replay_transcript
    from capa.devices.transcript import Transcript

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        _refuse(f"{file}: {error.strerror}")
    except UnicodeDecodeError:
        _refuse(f"{file}: it is no text, so no transcript")

    async def play() -> None:
        await replay_transcript(Transcript.parse(text, file=str(file)), say=_say)

    # A recording of an hour is played at once: the clock jumps wherever everybody waits.
    _run(play, refused=_FAILED, clock=MockClock(autojump_threshold=0))
    print("the driver did and read what was recorded")


@devices.command()
def discover(
    port: Annotated[
        list[str] | None,
        typer.Option("--port", metavar="PORT", help="A port; else all under /dev/serial/by-id."),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", metavar="NAME", help="Look for these only.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before anything is sent.")] = False,
    as_json: _Json = False,
    runtime_dir: _RuntimeDir = BOX_RUNTIME_DIR,
) -> None:
    """Look for instruments on serial ports, by reads that change nothing, at all usual speeds.

    Says what it is going to send, and asks. Exits with 1 if nobody answered.
    """
    from capa.cli.devices_discover import ports_here, probes_of, summary
    from capa.devices.registry import load_families

    ports = port or ports_here()
    for each in ports:
        if "/" not in each and ":" in each:
            _refuse(
                f"{each}: a network is not searched; a device server that passes bytes on is "
                f"socket://{each}"
            )
    if not ports:
        _refuse("no port under /dev/serial/by-id; name one with --port")
    probes = probes_of(load_families(family))
    if not probes:
        _refuse("no installed family has questions to ask; see capa devices list")
    typer.echo(f"on {', '.join(ports)}, only reads are sent:", err=True)
    for line in summary(probes):
        typer.echo(f"  {line}", err=True)
    if not yes and not typer.confirm("An instrument of another make may misread them. Go on?"):
        raise typer.Exit(_REFUSED)
    found = _search(ports, probes, runtime_dir)
    print(json.dumps([_facts(each) for each in found], indent=2) if as_json else _told(found))
    if not found:
        raise typer.Exit(_FAILED)


def _search(ports: list[str], probes: list[Any], runtime_dir: Path) -> list[Any]:
    from rich.console import Console
    from rich.progress import Progress

    from capa.cli.devices_discover import asked_on, search
    from capa.cli.devices_rig import no_daemon
    from capa.devices.registry import load_connectors

    connector = load_connectors({"serial"})["serial"]
    found: list[Any] = []

    async def look() -> None:
        with no_daemon(runtime_dir), Progress(console=Console(stderr=True)) as bar:
            for port in ports:
                asked = asked_on(port, probes)
                task = bar.add_task(port, total=len(asked))

                def step(text: str, task: Any = task) -> None:  # noqa: ANN401 - rich's own type
                    bar.update(task, advance=1, description=text)

                found.extend(await search(port, asked, connector, progress=step))

    _run(look)
    return found


def _told(found: list[Any]) -> str:
    return "\n".join(map(str, found)) if found else "nobody answered"


def _facts(found: Any) -> dict[str, Any]:  # noqa: ANN401 - made by a module loaded when needed
    line = found.line
    return {
        "port": found.port,
        "adapter": found.family or None,
        "model": found.model or None,
        "address": found.address,
        "baud": line.baud,
        "bytesize": line.bytesize,
        "parity": line.parity,
        "stopbits": line.stopbits,
        "heard_hex": found.heard.hex(),
    }


def _on(
    profile: Path, work: "Callable[[Bench], Awaitable[T]]", *, twin: bool, runtime_dir: Path
) -> T:
    """Do something with the devices of a profile; end with an exit code where that can't be."""
    from capa.cli.devices_rig import opened_bench

    async def run() -> T:
        async with opened_bench(profile, twin=twin, runtime_dir=runtime_dir) as bench:
            return await work(bench)

    return _run(run)


def _run(work: Callable[[], Awaitable[T]], *, refused: int = _REFUSED, clock: Any = None) -> T:  # noqa: ANN401 - trio's own type, loaded when needed
    """Run under trio; errors become words, and Ctrl-C an end."""
    import trio

    from capa.errors import CapaError

    kept: list[T] = []
    code = refused

    async def keep() -> None:
        kept.append(await work())

    try:
        trio.run(keep, clock=clock)
    except* CapaError as errors:
        for error in _leaves(errors):
            typer.echo(f"capa devices: {error}", err=True)
        code = refused
    except* KeyboardInterrupt:
        code = 130
    except* BrokenPipeError:  # head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    if not kept:
        raise typer.Exit(code)
    return kept[0]


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _refuse(message: str) -> NoReturn:
    typer.echo(f"capa devices: {message}", err=True)
    raise typer.Exit(_REFUSED)


def _say(line: str) -> None:
    print(line, flush=True)
