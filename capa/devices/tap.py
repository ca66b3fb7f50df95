"""Listening in on a link: every chunk that passes, in both directions, with its time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import trio

from capa.devices.link import Connector
from capa.devices.spec import DeviceSpec, LinkSpec

__all__ = ["DescribesFrames", "Passed", "tapped", "written_out"]


@dataclass(frozen=True, slots=True)
class Passed:
    """Bytes that went by, at a time of trio's clock; ``sent`` is host to device."""

    at_s: float
    sent: bool
    data: bytes


@runtime_checkable
class DescribesFrames(Protocol):
    """An ``AdapterFamily`` that can say in words what its frames mean; optional."""

    def describe(self, spec: DeviceSpec, data: bytes, *, sent: bool) -> str:
        """Say what a request or a reply means; for any bytes, and empty where it means nothing."""
        ...


class _TappedStream(trio.abc.Stream):
    """A stream that tells of everything that passes through it."""

    def __init__(self, stream: trio.abc.Stream, tell: Callable[[Passed], None]) -> None:
        self._stream = stream
        self._tell = tell

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Pass bytes on."""
        self._tell(Passed(trio.current_time(), sent=True, data=bytes(data)))
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Pass on."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Pass bytes on."""
        return self._heard(bytes(await self._stream.receive_some(max_bytes)))

    async def aclose(self) -> None:
        """Pass on."""
        await self._stream.aclose()

    def receive_nowait(self) -> bytes:
        """Return what is waiting, as far as the stream can tell without waiting."""
        look: Callable[[], bytes] | None = getattr(self._stream, "receive_nowait", None)
        return b"" if look is None else self._heard(look())

    def _heard(self, data: bytes) -> bytes:
        if data:
            self._tell(Passed(trio.current_time(), sent=False, data=data))
        return data


def tapped(connector: Connector, tell: Callable[[Passed], None]) -> Connector:
    """Return a connector whose streams tell of every chunk; ``tell`` must not raise or wait."""

    async def connect(spec: LinkSpec) -> trio.abc.Stream:
        return _TappedStream(await connector(spec), tell)

    return connect


def written_out(data: bytes) -> str:
    """Write bytes as a person reads them: text in quotes where it is text, else hexadecimal."""
    printable = all(32 <= byte < 127 or byte in b"\r\n\t" for byte in data)
    if not printable:
        return data.hex(" ")
    text = data.decode("ascii").replace("\\", "\\\\").replace('"', '\\"')
    for character, name in (("\r", "\\r"), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(character, name)
    return f'"{text}"'
