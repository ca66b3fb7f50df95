"""``capa devices discover``: which instruments are on a port, by questions that change nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import trio

from capa.devices.adapter import AdapterFamily
from capa.devices.link import Connector
from capa.devices.probing import LineSettings, OffersProbes, Probe
from capa.devices.spec import LinkSpec
from capa.devices.tap import written_out
from capa.errors import LinkClosedError

__all__ = ["Found", "asked_on", "ports_here", "probes_of", "search", "summary"]

LISTEN_S = 0.3
"""Before the first question at a speed: who speaks unasked."""
MOST_HEARD = 512
SERVER = "socket://"
"""A device server, whose own settings have the speed: nobody here can change it."""


@dataclass(frozen=True, slots=True)
class Found:
    """Who answered; ``model`` is empty for bytes that no family knows."""

    port: str
    family: str
    line: LineSettings
    address: int | str | None
    model: str
    heard: bytes

    def __str__(self) -> str:
        """Return it in words, with the tables that a profile needs."""
        who = f"{self.model} ({self.family})" if self.model else "somebody unknown"
        at = f" at address {self.address!r}" if self.address is not None else ""
        line = "" if self.port.startswith(SERVER) else f", {self.line}"
        return f"{self.port}{line}{at}: {who} said {written_out(self.heard[:60])}"


def ports_here() -> list[str]:
    """Return the local ports by the names that outlive a re-plug."""
    by_id = Path("/dev/serial/by-id")
    return sorted(str(path) for path in by_id.iterdir()) if by_id.is_dir() else []


def probes_of(families: Mapping[str, AdapterFamily]) -> list[tuple[str, Probe]]:
    """Return every family's probes, those of one speed together, the likeliest speed first."""
    named = [
        (name, probe)
        for name, family in sorted(families.items())
        if isinstance(family, OffersProbes)
        for probe in family.probes()
    ]
    order: dict[LineSettings, int] = {}
    for _, probe in named:
        order.setdefault(probe.line, len(order))
    return sorted(named, key=lambda each: order[each[1].line])


def asked_on(port: str, probes: Sequence[tuple[str, Probe]]) -> Sequence[tuple[str, Probe]]:
    """Return what is asked on a port: behind a device server, each question once."""
    if not port.startswith(SERVER):
        return probes
    return list(
        {(name, probe.request): (name, probe) for name, probe in reversed(probes)}.values()
    )[::-1]


def summary(probes: Sequence[tuple[str, Probe]]) -> Iterator[str]:
    """Say what will be sent, before it is."""
    for line, group in groupby(probes, key=lambda each: each[1].line):
        own = list(group)
        for family in dict.fromkeys(name for name, _ in own):
            asks = [probe.asks for name, probe in own if name == family]
            more = f", and so on: {len(asks)} questions" if len(asks) > 1 else ""
            yield f"{line}: {family}: {asks[0]}{more}"


async def search(
    port: str,
    probes: Sequence[tuple[str, Probe]],
    connector: Connector,
    *,
    progress: Callable[[str], None],
) -> list[Found]:
    """Ask every question on one port, and return who answered.

    Raises:
        LinkClosedError: the port can't be opened.
    """
    found: list[Found] = []
    for line, group in groupby(probes, key=lambda each: each[1].line):
        spec = LinkSpec(
            name="discover",
            port=port,
            baud=line.baud,
            bytesize=line.bytesize,
            parity=line.parity,
            stopbits=line.stopbits,
        )
        stream = await connector(spec)
        async with stream:
            await _at_one_speed(stream, spec, list(group), found, progress)
    return found


async def _at_one_speed(
    stream: trio.abc.Stream,
    spec: LinkSpec,
    probes: Sequence[tuple[str, Probe]],
    found: list[Found],
    progress: Callable[[str], None],
) -> None:
    heard = await _hear(stream, LISTEN_S, lambda _: False)
    line = probes[0][1].line
    if heard:
        found.append(Found(spec.port, "", line, None, "", heard))
    for family, probe in probes:
        progress(f"{spec.port} {line}: {family}: {probe.asks}")
        try:
            await stream.send_all(probe.request)
        except trio.BrokenResourceError as error:
            raise LinkClosedError(f"{spec.port}: {error}; check the cable") from error
        wire_s = (len(probe.request) + 64) * spec.character_s
        heard = await _hear(stream, probe.reply_s + wire_s, _recogniser(probe))
        if model := probe.recognise(heard):
            found.append(Found(spec.port, family, line, probe.address, model, heard))
        elif heard and heard != probe.request:
            found.append(Found(spec.port, "", line, None, "", heard))


def _recogniser(probe: Probe) -> Callable[[bytes], bool]:
    return lambda heard: probe.recognise(heard) is not None


async def _hear(stream: trio.abc.Stream, for_s: float, enough: Callable[[bytes], bool]) -> bytes:
    heard = b""
    with trio.move_on_after(for_s):
        while len(heard) < MOST_HEARD:
            chunk = bytes(await stream.receive_some())
            heard += chunk
            if not chunk or enough(heard):
                break
    return heard
