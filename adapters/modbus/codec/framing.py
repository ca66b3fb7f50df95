"""Which frames a device's link carries, so that what is above need not know."""

from collections.abc import Callable
from typing import Literal, Protocol

from adapters.modbus.codec.rtu import Query, RequestCollector, encode_reply
from adapters.modbus.codec.tcp import (
    TcpReplyCollector,
    TcpRequestCollector,
    encode_tcp_request,
)
from adapters.modbus.codec.values import BadRequest, Reply, Request

__all__ = ["Asked", "Ear", "Framing", "Speaker"]

Framing = Literal["rtu", "tcp"]
"""``rtu`` frames go over serial lines, and over TCP to device servers that pass bytes on; ``tcp``
is Modbus TCP, usually at port 502."""

_TRANSACTIONS = 0x10000


class Speaker:
    """The master's: gives each exchange its frame and what collects the reply."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._transaction = 0

    def begin(self, query: Query) -> tuple[bytes, Callable[[bytes], Reply | None]]:
        """Return the bytes of a request, and the function to be fed with what comes back."""
        if self._framing == "rtu":
            return query.frame, query.collector().feed
        self._transaction = transaction = (self._transaction + 1) % _TRANSACTIONS
        return encode_tcp_request(query, transaction), TcpReplyCollector(query, transaction).feed


class Asked(Protocol):
    """A request as a slave received it, and the way to answer it."""

    @property
    def request(self) -> Request | BadRequest:
        """What was asked."""
        ...

    def answer(self, reply: Reply) -> bytes:
        """Return the frame of a reply."""
        ...


class _RtuAsked:
    __slots__ = ("request",)

    def __init__(self, request: Request | BadRequest) -> None:
        self.request = request

    def answer(self, reply: Reply) -> bytes:
        return encode_reply(self.request, reply)


class Ear:
    """The slave's: cuts what arrives into requests."""

    def __init__(self, framing: Framing) -> None:
        self._tcp = TcpRequestCollector() if framing == "tcp" else None
        self._rtu = RequestCollector()

    def reset(self) -> None:
        """Forget what was half received: the line has been silent."""
        (self._tcp or self._rtu).reset()

    def feed(self, chunk: bytes) -> list[Asked]:
        """Add bytes; return the requests that they complete, of every unit on the line."""
        if self._tcp is not None:
            return [*self._tcp.feed(chunk)]
        return [_RtuAsked(request) for request in self._rtu.feed(chunk)]
