"""Cutting a byte stream into lines: for every instrument that ends its replies with CR or LF."""

from collections.abc import Callable
from typing import Generic, TypeVar

from capa.errors import FrameError

__all__ = ["LineCollector", "LineReply"]

ReplyT = TypeVar("ReplyT")


class LineCollector:
    """Splits a stream into lines, however it was chopped; the device's half.

    A line longer than ``limit`` bytes is forgotten: nobody means it.
    """

    def __init__(self, terminator: bytes, *, limit: int = 256) -> None:
        self._terminator = terminator
        self._limit = limit
        self._pending = b""

    def reset(self) -> None:
        """Forget the beginning of a line."""
        self._pending = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add bytes; return the lines they complete, without their terminators."""
        *lines, self._pending = (self._pending + chunk).split(self._terminator)
        if len(self._pending) > self._limit:
            self._pending = b""
        return lines


class LineReply(Generic[ReplyT]):
    """Takes bytes until they are one line, and decodes it; the host's half, one per exchange.

    Empty lines before the reply are skipped. Bytes behind it mean that the device said more
    than was asked, and then the line in hand may answer another question.
    """

    __slots__ = ("_decode", "_limit", "_seen", "_terminator")

    def __init__(
        self, terminator: bytes, decode: Callable[[bytes], ReplyT], *, limit: int = 256
    ) -> None:
        self._terminator = terminator
        self._decode = decode
        self._limit = limit
        self._seen = b""

    def feed(self, chunk: bytes) -> ReplyT | None:
        """Add bytes; return the decoded line once it has ended.

        Raises:
            FrameError: no end within the limit, bytes behind the end, or what ``decode`` raised.
        """
        seen = self._seen = self._seen + chunk
        end = seen.find(self._terminator)
        while end == 0:
            seen = self._seen = seen[len(self._terminator) :]
            end = seen.find(self._terminator)
        if end < 0:
            if len(seen) > self._limit:
                raise FrameError(f"{len(seen)} bytes and no end of line: {seen[:60]!r}...")
            return None
        if end + len(self._terminator) < len(seen):
            raise FrameError(
                f"more than one line came back: {seen[:80]!r}; is it streaming?", fault="doubled"
            )
        return self._decode(seen[:end])
