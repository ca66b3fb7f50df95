"""A device that says what a test tells it to, on a line of any transport, and a link to it."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from adapters.links import aio, serial, tcp
from adapters.links.link import StreamLink
from adapters.twin.line import TwinLine
from adapters.twin.memory import MemoryPort
from adapters.twin.plant import TwinSettings
from adapters.twin.ports import PtyPort, TcpPort
from adapters.twin.rig import PortSwitch
from adapters.twin.wirelog import WireLog
from capa.devices.link import Connector
from capa.devices.spec import LinkSpec
from capa.devices.twin import TwinReply
from capa.errors import FrameError

__all__ = ["Bench", "BenchDevice", "open_bench", "whole_line"]

CONNECTORS: Mapping[str, Connector] = {
    "pty": serial.connector,
    "socket": serial.connector,
    "tcp": tcp.connector,
    "asyncio": aio.connector,
}
Script = Callable[[bytes], Sequence[TwinReply]]


def whole_line() -> Callable[[bytes], bytes | None]:
    """Return a feed that takes any line that begins with R, whoever it was meant for."""
    seen = b""

    def feed(chunk: bytes) -> bytes | None:
        nonlocal seen
        seen += chunk
        if not seen.startswith(b"R"):
            raise FrameError(f"not a reply: {seen!r}")
        return seen if seen.endswith(b"\n") else None

    return feed


def plainly(request: bytes) -> Sequence[TwinReply]:
    return [TwinReply(b"R" + request)]


@dataclass
class BenchDevice:
    """Answers with ``R`` and the request, unless ``scripts`` has something else to say."""

    name: str = "bench"
    scripts: deque[Script] = field(default_factory=deque)
    heard: list[tuple[float, bytes]] = field(default_factory=list)

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        replies: list[TwinReply] = []
        for request in chunk.splitlines(keepends=True):
            self.heard.append((trio.current_time(), request))
            script = self.scripts.popleft() if self.scripts else plainly
            replies += script(request)
        return replies

    def line_idle(self) -> None:
        return

    def outputs(self) -> dict[str, float]:
        return {}

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        return False

    def next_reply_late(self, delay_s: float) -> None:
        self.scripts.append(lambda request: [TwinReply(b"R" + request, delay_s)])

    def next_replies(self, *replies: tuple[float, bytes]) -> None:
        self.scripts.append(lambda _: [TwinReply(data, delay_s) for delay_s, data in replies])

    def next_silent(self) -> None:
        self.scripts.append(lambda _: [])

    @property
    def requests(self) -> list[bytes]:
        return [request for _, request in self.heard]


@dataclass
class Bench:
    link: StreamLink
    device: BenchDevice
    port: PortSwitch
    changes: list[bool]

    async def ask(self, text: str, **how: Any) -> str:  # noqa: ANN401 - passed on
        answer = await self.link.exchange(f"{text}\n".encode(), whole_line(), **how)
        return answer.value.decode().strip()[1:]


@asynccontextmanager
async def open_bench(transport: str, directory: Path, **spec: Any) -> AsyncIterator[Bench]:  # noqa: ANN401 - passed on
    """Put a device behind a port of a transport, and open a link to it.

    ``memory``, ``pty``, ``tcp``, ``asyncio`` (a pty through pyserial-asyncio), or ``socket``: TCP
    as pyserial's ``socket://`` has it.
    """
    device, changes = BenchDevice(), list[bool]()
    settings = {"name": "bench", "port": "memory", "reply_timeout_s": 0.1, **spec}
    log = WireLog(lambda _: None, lambda: 0)
    line = TwinLine(LinkSpec(**settings), [device], log=log, settings=TwinSettings())
    async with trio.open_nursery() as nursery:
        port: MemoryPort | PtyPort | TcpPort
        if transport == "memory":
            port = MemoryPort(line)
            link = StreamLink(LinkSpec(**settings), port.connect, on_change=changes.append)
        else:
            on_tcp = transport in {"tcp", "socket"}
            port = TcpPort(line) if on_tcp else PtyPort(line, directory / "bench.tty")
            await nursery.start(port.run)
            url = serial.SOCKET_URL if transport == "socket" else ""
            spec_now = LinkSpec(**{**settings, "port": url + port.address})
            link = StreamLink(spec_now, CONNECTORS[transport], on_change=changes.append)
        await nursery.start(link.run)
        yield Bench(link, device, port, changes)
        nursery.cancel_scope.cancel()
