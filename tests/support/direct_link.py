"""A link without a wire: hands requests to twins and feeds their replies, in virtual time."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from capa.devices.link import Answer, LinkStats, Priority
from capa.devices.twin import TwinDevice
from capa.errors import LinkTimeoutError

__all__ = ["DirectLink"]

ReplyT = TypeVar("ReplyT")


class DirectLink:
    """Implements ``capa.devices.link.Link`` over twins in the same process.

    ``chunk`` chops both directions into pieces of that many bytes; ``garble`` may change what
    comes back; ``sent`` keeps every request.
    """

    def __init__(
        self, twins: Sequence[TwinDevice], *, chunk: int = 0, reply_timeout_s: float = 0.5
    ) -> None:
        self.name = "direct"
        self.is_up = True
        self.stats = LinkStats()
        self.sent: list[bytes] = []
        self.priorities: list[Priority] = []
        self.garble: Callable[[bytes], bytes] = bytes
        self._twins = twins
        self._chunk = chunk
        self._reply_timeout_s = reply_timeout_s

    def hush(self, for_s: float) -> None:
        """Nobody else is on this link."""

    async def exchange(
        self,
        request: bytes,
        feed: Callable[[bytes], ReplyT | None],
        *,
        priority: Priority = Priority.POLL,
        reply_timeout_s: float | None = None,
        gap_s: float = 0.0,
    ) -> Answer[ReplyT]:
        await trio.sleep(gap_s)
        for twin in self._twins:
            twin.line_idle()
        self.sent.append(request)
        self.priorities.append(priority)
        self.stats.exchanges += 1
        sent_at_s = trio.current_time()
        for piece in self._pieces(await self._reply_to(request)):
            value = feed(piece)
            if value is not None:
                return Answer(value, sent_at_s, trio.current_time())
        await trio.sleep(reply_timeout_s or self._reply_timeout_s)
        self.stats.timeouts += 1
        raise LinkTimeoutError(f"{self.name}: no reply to {request!r}")

    async def _reply_to(self, request: bytes) -> bytes:
        data = b""
        for twin in self._twins:
            for piece in self._pieces(request):
                for reply in twin.receive(piece):
                    await trio.sleep(reply.delay_s)
                    data += reply.data
        return self.garble(data)

    def _pieces(self, data: bytes) -> list[bytes]:
        step = self._chunk or max(1, len(data))
        return [data[at : at + step] for at in range(0, len(data), step)]
