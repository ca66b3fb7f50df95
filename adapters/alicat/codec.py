"""Alicat's ASCII dialect as values, both halves: one line each way, ended by CR.

Sources: Alicat M-series and MC-series manuals, the serial tutorial on alicat.com, and frames
captured from ten devices (``../shared/protocols.md`` section 2, summed up in NOTES.md). The
protocol has no check sum: what is checked is the unit letter, the number of columns and that
each column is a decimal number in the device's own form.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from capa.errors import FrameError

__all__ = [
    "EOL",
    "NUMBER",
    "Acknowledged",
    "Column",
    "Command",
    "DataFrame",
    "FrameReader",
    "Rejected",
    "SetpointReport",
    "decode_command",
    "decode_setpoint_report",
    "encode_command",
    "encode_frame",
    "encode_poll",
    "encode_setpoint",
    "encode_setpoint_report",
    "encode_stop",
    "setpoint_report_pattern",
]

EOL = b"\r"

Column = Literal["pressure", "temperature", "volumetric", "flow", "setpoint", "total", "valve"]

NUMBER = rb"[+-]?\d{1,9}(?:\.\d{1,6})?"
_REJECTED = re.compile(rb"\?|Feature Not Enabled|(?:[+-]?\d+ +)?\d+ +-{2,7}")
"""``1 ---`` and ``+0 1 ---`` stand in the place of what the device does not have."""
_STREAMING = {b" ", b"@"}
_TEXT = re.compile(rb"[ -~]{1,120}")
_SETPOINT_COMMAND = re.compile(rb"\s*(?:\$\$)?(L?)S\s*(" + NUMBER + rb")\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DataFrame:
    """A data frame: the numbers in the order of the columns, the gas, the status codes."""

    values: tuple[float, ...]
    gas: str
    codes: frozenset[str] = frozenset()
    line: str = field(default="", compare=False)
    """As it came."""


@dataclass(frozen=True, slots=True)
class SetpointReport:
    """The reply to ``LS``: what the controller holds now, and what it has been asked to hold."""

    current: float
    requested: float


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A line of this unit's in answer to a command, of whatever form its firmware has."""

    text: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The device says that it did not understand, or cannot."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """What a host asked a unit: the text behind the unit letter, in upper case."""

    unit: str
    text: str

    @property
    def setpoint(self) -> tuple[Literal["S", "LS"], float] | None:
        """The setpoint command and its value, if this is one."""
        match = _SETPOINT_COMMAND.fullmatch(self.text.encode("ascii", "replace"))
        if match is None:
            return None
        return ("LS" if match[1] else "S"), float(match[2])


# --- the host's half ---------------------------------------------------------------------------


def encode_poll(unit: str) -> bytes:
    """Return the request for one data frame."""
    return unit.encode("ascii") + EOL


def encode_setpoint(
    unit: str, value: float, *, command: Literal["S", "LS"], decimals: int, prefix: str = ""
) -> bytes:
    """Return the request that sets a flow.

    ``S`` works up to firmware 10v and is answered with a data frame. ``LS`` exists since 9v00;
    up to 7v anything that begins with ``L`` locks the display instead.
    """
    return encode_command(unit, f"{command} {value:.{decimals}f}", prefix=prefix)


def encode_stop(unit: str, how: Literal["@@ ", "@@="]) -> bytes:
    """Return the request that ends a stream, and gives whoever streamed this unit letter."""
    return f"{how}{unit}".encode("ascii") + EOL


def encode_command(unit: str, text: str, *, prefix: str = "") -> bytes:
    """Return any other command; ``prefix`` is ``$$`` where the firmware wants it of writes."""
    return f"{unit}{prefix}{text}".encode("ascii") + EOL


class FrameReader:
    """Reads the data frames of one unit; compiled once for its columns.

    How many columns there are, and what they mean, is fixed by the device and its options (a
    totalizer, for one): a frame with another number of columns is another device's.
    """

    def __init__(self, unit: str, columns: tuple[Column, ...]) -> None:
        self._unit = unit.encode("ascii")
        self._count = len(columns)
        numbers = rb" +".join([rb"(" + NUMBER + rb")"] * len(columns))
        self._pattern = re.compile(
            re.escape(self._unit) + rb" " + numbers + rb" +(?!--)([!-~]{1,16})((?: [A-Z0-9]{3})*) *"
        )

    @property
    def pattern(self) -> bytes:
        """The regular expression of a data frame; group n is the n-th column."""
        return self._pattern.pattern

    def decode(self, line: bytes) -> DataFrame | Rejected:
        """Read a line, without its CR.

        Raises:
            FrameError: another unit, another number of columns, or not a data frame at all.
        """
        match = self._pattern.fullmatch(line)
        if match is None:
            return self._decode_other(line)
        *numbers, gas, codes = match.groups()
        return DataFrame(
            tuple(map(float, numbers)),
            gas.decode("ascii"),
            frozenset(codes.decode("ascii").split()) if codes else frozenset(),
            line.decode("ascii"),
        )

    def decode_ack(self, line: bytes) -> DataFrame | Acknowledged | Rejected:
        """Read the reply to a command: a data frame, another line of this unit's, or a refusal.

        Raises:
            FrameError: another unit, or not text.
        """
        if self._pattern.fullmatch(line):
            return self.decode(line)
        text = line.removeprefix(self._unit).strip()
        if _REJECTED.fullmatch(text):
            return Rejected(text.decode("ascii"))
        if not line.startswith(self._unit) or not _TEXT.fullmatch(line):
            raise FrameError(f"{line!r} is not from unit {self._unit!r}", fault="foreign")
        return Acknowledged(text.decode("ascii"))

    def _decode_other(self, line: bytes) -> Rejected:
        if _REJECTED.fullmatch(text := line.removeprefix(self._unit).strip()):
            return Rejected(text.decode("ascii"))
        if line[:1] in _STREAMING:
            raise FrameError(f"{line!r}: the device is streaming; stop it with @@={self._unit!r}")
        if line[:1] != self._unit:
            raise FrameError(f"{line!r} is not from unit {self._unit!r}", fault="foreign")
        raise FrameError(f"{line!r} is no data frame of {self._count} columns; see `columns`")


def decode_setpoint_report(unit: str, line: bytes) -> SetpointReport | Rejected:
    """Read the reply to ``LS``: ``A +000.00 +100.00 12 SCCM``.

    Raises:
        FrameError: it is not one.
    """
    if _REJECTED.fullmatch(line.strip().removeprefix(unit.encode("ascii")).strip()):
        return Rejected(line.decode("ascii").strip())
    match = re.fullmatch(setpoint_report_pattern(unit), line)
    if match is None:
        raise FrameError(f"{line!r} is no reply of unit {unit} to LS; is it older than 9v00?")
    return SetpointReport(float(match[1]), float(match[2]))


def setpoint_report_pattern(unit: str) -> bytes:
    """Return the regular expression of the reply to ``LS``."""
    return rb"%b (%b) (%b) (\d{1,3}) (\S{1,12}) *" % (unit.encode("ascii"), NUMBER, NUMBER)


# --- the device's half -------------------------------------------------------------------------


def decode_command(line: bytes) -> Command:
    """Read what a host sent, without its CR.

    Raises:
        FrameError: it does not begin with a unit letter.
    """
    text = line.strip(b"\n").decode("ascii", "replace").upper()
    if not text or not ("A" <= text[0] <= "Z"):
        raise FrameError(f"{line!r} does not begin with a unit letter")
    return Command(text[0], text[1:].strip())


def encode_frame(
    unit: str, frame: DataFrame, formats: tuple[str, ...], *, gas_width: int = 6
) -> bytes:
    """Return a data frame; ``formats`` are format specifications, one for each column."""
    numbers = " ".join(format(v, f) for v, f in zip(frame.values, formats, strict=True))
    codes = "".join(f" {code}" for code in sorted(frame.codes))
    return f"{unit} {numbers} {frame.gas:>{gas_width}}{codes}".encode("ascii") + EOL


def encode_setpoint_report(
    unit: str, report: SetpointReport, *, flow_unit: Literal["sccm", "slpm"] = "sccm"
) -> bytes:
    """Return the reply to ``LS``."""
    label = "7 SLPM" if flow_unit == "slpm" else "12 SCCM"
    line = f"{unit} {report.current:+07.2f} {report.requested:+07.2f} {label}"
    return line.encode("ascii") + EOL
