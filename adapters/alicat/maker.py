"""What a device says of its maker (``A??M*``): model, serial number and software, a row a line.

Ten rows, M00 to M09, as captured from 5v12 to 10v20. GP pads its rows with backspaces and has
other, shorter labels, which were not captured: what is not found is left empty.
"""

import re
from dataclasses import dataclass

from adapters.alicat.codec import EOL
from capa.errors import FrameError

__all__ = ["Maker", "MakerReply", "encode_maker_request"]

_ROW = re.compile(rb"([A-Z]) +M(\d{1,2}) *(.*)")
_LAST_ROW = 9
_LIMIT = 1024
_LABELS = {"model": b"Model Number", "serial": b"Serial Number", "software": b"Software Revision"}


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
    """Takes bytes until the last row is whole; ``found`` is what is known so far."""

    def __init__(self, unit: str) -> None:
        self._unit = unit.encode("ascii")
        self._seen = b""
        self.found = Maker()

    def feed(self, chunk: bytes) -> Maker | None:
        """Add bytes; return what the rows said once the last of them has come.

        Raises:
            FrameError: these are no such rows.
        """
        self._seen += chunk
        *lines, _ = self._seen.split(EOL)
        if len(self._seen) > _LIMIT:
            raise FrameError(f"{len(self._seen)} bytes and no end of the maker's rows")
        last, texts = -1, []
        for line in filter(None, (each.replace(b"\b", b"").strip() for each in lines)):
            if line.removeprefix(self._unit).strip() == b"?":
                return Maker()
            match = _ROW.fullmatch(line)
            if match is None or match[1] != self._unit:
                raise FrameError(f"{line!r} is no row of unit {self._unit!r} about its maker")
            last = int(match[2])
            texts.append(match[3])
        self.found = Maker(**{name: _value(texts, label) for name, label in _LABELS.items()})
        return self.found if last >= _LAST_ROW else None


def _value(texts: list[bytes], label: bytes) -> str:
    found = next((text for text in texts if text.startswith(label)), b"")
    return found.removeprefix(label).decode("ascii", "replace").strip()
