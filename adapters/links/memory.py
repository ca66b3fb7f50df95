"""Pipes without wires: bytes in one process, on trio's clock, so in virtual time too."""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

import trio

__all__ = ["MemoryStream"]

_LOOK_S: Final = 0.02


class MemoryStream(trio.abc.Stream):
    """The near end of a pipe whose far end is a function.

    There is no task behind it: what the far end answers is put in with ``deliver``, to be read
    when its time has come, and so a rehearsal of hours is a few wake-ups an exchange.

    Args:
        on_send: called with every write, at the instant of the write.
        look: called before every read, and again and again while one waits, so that a far end
            that speaks unasked can deliver what it has to say.
    """

    def __init__(
        self, on_send: Callable[[bytes], None], *, look: Callable[[], None] | None = None
    ) -> None:
        self._on_send = on_send
        self._look = look
        self._due: list[tuple[float, int, bytes, Callable[[bytes], None] | None]] = []
        self._order = count()
        self._changed = trio.Event()
        self._end: bytes | Exception | None = None

    def deliver(
        self, data: bytes, *, at_s: float, when_read: Callable[[bytes], None] | None = None
    ) -> None:
        """Have the near end read ``data`` at ``at_s`` of trio's clock, or as soon as it reads.

        ``when_read`` is called at that moment: for a log of what was really sent.
        """
        heapq.heappush(self._due, (at_s, next(self._order), data, when_read))
        self._notice()

    def hang_up(self, error: Exception | None = None) -> None:
        """End the pipe: the reader gets ``error``, or an end of file, and writes fail."""
        self._end = b"" if error is None else error
        self._notice()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand the bytes to the far end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._end is not None:
            raise trio.BrokenResourceError("the far end hung up")
        self._on_send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Return: a write never blocks."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for the next delivery's time and return it, or b"" at the end of the pipe."""
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            if isinstance(self._end, Exception):
                raise self._end
            if self._end is not None:
                return self._end
            if chunk := self.receive_nowait(max_bytes):
                return chunk
            self._changed = trio.Event()
            with trio.move_on_at(self._next_look_at_s()):
                await self._changed.wait()

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """Return the next delivery whose time has come, or nothing."""
        if self._look is not None:
            self._look()
        if not self._due or self._due[0][0] > trio.current_time():
            return b""
        at_s, order, data, when_read = heapq.heappop(self._due)
        if max_bytes is not None and len(data) > max_bytes:
            heapq.heappush(self._due, (at_s, order, data[max_bytes:], when_read))
            return data[:max_bytes]
        if when_read is not None:
            when_read(data)
        return data

    async def aclose(self) -> None:
        """Close the near end."""
        self.hang_up(trio.ClosedResourceError("this end was closed"))
        await trio.lowlevel.checkpoint()

    def _next_look_at_s(self) -> float:
        at_s = self._due[0][0] if self._due else float("inf")
        return at_s if self._look is None else min(at_s, trio.current_time() + _LOOK_S)

    def _notice(self) -> None:
        self._changed.set()
