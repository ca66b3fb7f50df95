"""The table in which a device declares its own data frame (``A??D*``), in both dialects.

A row a line, each ended by CR; how many there are is not announced. The modern dialect (6v21 to
10v20 were captured) heads its columns with ``ID_ NAME___``, the legacy one (5v12, and GP, which
pads with backspaces) with ``NAME___ ... MinVal_``; which it is shows in that line, not in the
firmware's number. The gas is the last thing in a frame before the status codes, so its row ends
what is of interest here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adapters.alicat.codec import EOL, Column
from capa.errors import FrameError

__all__ = ["FrameTable", "TableReply", "decode_table", "encode_table_request"]

Dialect = Literal["modern", "legacy"]

_ROW = re.compile(rb"([A-Z])  ?D(\d\d) (?:\d{3} )?(.+?)(?:\s{2,}.*)?")
_LIMIT = 4096
_NAMES: Sequence[tuple[str, Column]] = (
    ("setpt", "setpoint"),
    ("setpoint", "setpoint"),
    ("press", "pressure"),
    ("temp", "temperature"),
    ("volu", "volumetric"),
    ("total", "total"),
    ("mass", "flow"),
    ("valve", "valve"),
)


@dataclass(frozen=True, slots=True)
class FrameTable:
    """What the device says stands in its frame; a column is None if we have no word for it."""

    dialect: Dialect
    columns: tuple[Column | None, ...]


def encode_table_request(unit: str) -> bytes:
    """Return the request for the table."""
    return f"{unit}??D*".encode("ascii") + EOL


class TableReply:
    """Takes bytes until the row of the gas is whole."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._seen = b""

    def feed(self, chunk: bytes) -> FrameTable | None:
        """Add bytes; return the table once the gas has been named.

        Raises:
            FrameError: these are no rows of a table.
        """
        self._seen += chunk
        *lines, _ = self._seen.replace(b"\b", b"").split(EOL)
        if len(self._seen) > _LIMIT:
            raise FrameError(f"{len(self._seen)} bytes and no end of the table of columns")
        rows = [line for line in lines if line.strip()]
        if rows and not rows[0].startswith(self._unit.encode("ascii")):
            raise FrameError(f"{rows[0]!r} is not from unit {self._unit}", fault="foreign")
        if not any(b"Gas" in row for row in rows):
            return None
        return decode_table(self._unit, rows)


def decode_table(unit: str, rows: Sequence[bytes]) -> FrameTable:
    """Read the rows of the table, header first.

    Raises:
        FrameError: the header is of neither dialect, or a row is none.
    """
    header, *others = rows
    if b"NAME_" not in header or b"D00" not in header:
        raise FrameError(f"{header!r} does not head a table of columns")
    dialect: Dialect = "modern" if b" ID_ " in header else "legacy"
    columns: list[Column | None] = []
    for row in others:
        match = _ROW.fullmatch(row)
        if match is None or match[1] != unit.encode("ascii"):
            raise FrameError(f"{row!r} is no row of unit {unit}'s table of columns")
        name = match[3].decode("ascii", "replace").strip().lower()
        if name == "gas":
            return FrameTable(dialect, tuple(columns))
        if not name.startswith("unit id"):
            columns.append(_column(name))
    raise FrameError("the table of columns names no gas")


def _column(name: str) -> Column | None:
    return next((column for part, column in _NAMES if part in name), None)
