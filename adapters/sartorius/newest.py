"""Finds the answer among several lines: a balance may print by itself while it is asked."""

from adapters.sartorius.codec import CR_LF, Line, decode_line
from capa.errors import FrameError

__all__ = ["NewestLine", "TextLine"]

_LIMIT = 512


class NewestLine:
    """Takes bytes until a line is whole and no other has begun behind it.

    Every line is a weight of now, asked for or not, so the last of them is the answer. The first
    may be a fragment, if it was being printed when somebody began to listen: it is dropped, but
    only if another follows. ``unasked`` counts the lines passed over.
    """

    __slots__ = ("_midstream", "_seen", "unasked")

    def __init__(self, *, midstream: bool = False) -> None:
        self._midstream = midstream
        self._seen = b""
        self.unasked = 0

    def feed(self, chunk: bytes) -> tuple[Line, str] | None:
        """Add bytes; return the newest line once it has ended, and its text.

        Raises:
            FrameError: what came is no line of a balance, or does not end.
        """
        self._seen += chunk
        *lines, rest = self._seen.split(CR_LF)
        lines = [line for line in lines if line]
        if len(self._seen) > _LIMIT and not lines:
            raise FrameError(f"{len(self._seen)} bytes and no end of line: {self._seen[:60]!r}...")
        if not lines or rest:
            return None
        found = self._first(lines[0], alone=len(lines) == 1)
        for line in lines[1:]:
            found = decode_line(line)
        self.unasked = len(lines) - 1
        return None if found is None else (found, lines[-1].decode("ascii"))

    def _first(self, line: bytes, *, alone: bool) -> Line | None:
        """Decode the first line; None for a fragment that others follow, or will."""
        try:
            return decode_line(line)
        except FrameError:
            if alone and not self._midstream:
                raise
            return None


class TextLine:
    """Takes bytes until a line is whole that shows no weight and no status: a model, a number.

    Lines that the balance printed by itself may stand before it.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen = b""

    def feed(self, chunk: bytes) -> str | None:
        """Add bytes; return the text once its line has ended.

        Raises:
            FrameError: what came does not end, or is no text.
        """
        self._seen += chunk
        *lines, _ = self._seen.split(CR_LF)
        for line in lines:
            if line.strip() and not _is_print(line):
                if not all(0x20 <= byte < 0x7F for byte in line):
                    raise FrameError(f"{line!r} is no text")
                return line.decode("ascii").strip()
        if len(self._seen) > _LIMIT:
            raise FrameError(f"{len(self._seen)} bytes and no text: {self._seen[:60]!r}...")
        return None


def _is_print(line: bytes) -> bool:
    try:
        decode_line(line)
    except FrameError:
        return False
    return True
