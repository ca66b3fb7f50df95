"""What a device says of its maker (``A??M*``): model, serial number and software, a row a line.

Ten rows, M00 to M09, as captured from 5v12 to 10v20; nine, M0 to M8, with shorter labels and
padded with backspaces, from GP. A device that does not know the question says so in one of several
ways, of which a data frame is one. What is not found is left empty.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.alicat.codec import EOL, FrameReader
from capa.errors import FrameError

__all__ = ["Maker", "MakerReply", "encode_maker_request"]

_ROW = re.compile(rb"([A-Z]) +M(\d{1,2}) *(.*)")
_LAST_ROWS = {b"09", b"8"}
_LIMIT = 1024
_LABELS = {
    "model": (b"Model Number", b"Mdl"),
    "serial": (b"Serial Number", b"Serial No."),
    "software": (b"Software Revision", b"Software"),
}


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made what; empty where the device does not say."""

    model: str = ""
    serial: str = ""
    software: str = ""


def encode_maker_request(unit: str) -> bytes:
    """Return the request for the rows."""
    return f"{unit}??M*".encode("ascii") + EOL


class MakerReply:
    """Takes bytes until the last row is whole; ``found`` is what is known so far.

    Args:
        unit: its letter.
        reader: its data frames, one of which may be the answer.
    """

    def __init__(self, unit: str, reader: FrameReader) -> None:
        self._unit = unit.encode("ascii")
        self._reader = reader
        self._seen = b""
        self.found = Maker()

    def feed(self, chunk: bytes) -> Maker | None:
        """Add bytes; return what the rows said once the last of them has come, or a refusal.

        Raises:
            FrameError: these are neither rows nor a refusal.
        """
        self._seen += chunk
        *lines, _ = self._seen.split(EOL)
        if len(self._seen) > _LIMIT:
            raise FrameError(f"{len(self._seen)} bytes and no end of the maker's rows")
        is_whole, texts = False, []
        for line in filter(None, (each.replace(b"\b", b"").strip() for each in lines)):
            match = _ROW.fullmatch(line)
            if match is None or match[1] != self._unit:
                self._expect_refusal(line)
                is_whole = True
                break
            is_whole = match[2] in _LAST_ROWS
            texts.append(match[3])
        self.found = Maker(**{name: _value(texts, labels) for name, labels in _LABELS.items()})
        return self.found if is_whole else None

    def _expect_refusal(self, line: bytes) -> None:
        try:
            self._reader.decode(line)
        except FrameError as error:
            raise FrameError(
                f"{line!r} is no row of unit {self._unit!r} about its maker", fault=error.fault
            ) from None


def _value(texts: list[bytes], labels: Sequence[bytes]) -> str:
    for label in labels:
        found = next((text for text in texts if text.startswith(label)), b"")
        if found:
            return found.removeprefix(label).decode("ascii", "replace").strip()
    return ""
