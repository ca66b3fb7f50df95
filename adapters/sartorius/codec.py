"""Sartorius SBI as values, both halves: ``ESC`` commands, and lines of 16 or 22 characters.

Sources: Sartorius manuals (Cubis MSE, WZA, Quintix, Practum, Entris II, Combics, CP, LE) and
lines captured from MSE, BCE and WZA balances; NOTES.md says which. A line has no check sum, and
while the weight is unstable its unit is blank: the unit is then unknown, not gram.
"""

import re
from dataclasses import dataclass, field

from capa.errors import FrameError

__all__ = [
    "CR_LF",
    "ESC",
    "PRINT",
    "TARE",
    "CommandCollector",
    "Line",
    "Overload",
    "StatusLine",
    "Underload",
    "Weight",
    "decode_line",
    "encode_command",
    "encode_line",
]

ESC = b"\x1b"
CR_LF = b"\r\n"
PRINT = ESC + b"P"
TARE = "T"

_ID_WIDTH = 6
_SHORT, _LONG = 14, 20
_NUMBER = re.compile(rb"(?:\d{1,8}(?:[.,]\d{0,7})?|[.,]\d{1,7})")
_UNIT = re.compile(rb"[A-Za-z%/]{1,3}")
_TEXT = re.compile(rb"[ -~]*")
_OVER, _UNDER = {b"High", b"H", b"HH"}, {b"Low", b"L", b"LL"}
_WORDS = re.compile(
    rb"(?:Cal\.|OFF|--|C$|(?i:err|app\.er|dis\.er|prt\.er)|Stat\b|High$|Low$|HH?$|LL?$)"
)


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight as the display shows it; ``unit`` is None while it is unstable."""

    value: float
    unit: str | None
    label: str = ""
    digits: str = field(default="", compare=False)
    """The number as it is shown, places and all."""

    @property
    def stable(self) -> bool:
        """Whether the balance vouches for it."""
        return self.unit is not None


@dataclass(frozen=True, slots=True)
class Overload:
    """More on the pan than the balance can weigh."""


@dataclass(frozen=True, slots=True)
class Underload:
    """Less than nothing: the pan is off, or something lifts it."""


@dataclass(frozen=True, slots=True)
class StatusLine:
    """Neither weight nor over- or underload: stand-by, calibration, an error with its number."""

    text: str


Line = Weight | Overload | Underload | StatusLine


def encode_command(command: str) -> bytes:
    """Return a command: ``T``, or ``f4_``, without the CR LF that none needs."""
    return ESC + command.encode("ascii")


def decode_line(line: bytes) -> Line:
    """Read a line, without its CR LF.

    Raises:
        FrameError: it is no line of either format.
    """
    if len(line) == _SHORT:
        return _decode_body(line, b"", line)
    if len(line) == _LONG:
        return _decode_body(line[_ID_WIDTH:], line[:_ID_WIDTH].rstrip(), line)
    raise FrameError(f"{line!r} has {len(line)} characters; an SBI line has {_SHORT} or {_LONG}")


def _decode_body(body: bytes, label: bytes, line: bytes) -> Line:
    if label != b"Stat" and body[:1] in {b"+", b"-", b" "}:
        number = body[1:10].strip()
        if _NUMBER.fullmatch(number) and body[10:11] == b" ":
            return _weight(body, number, label, line)
    text = body.strip()
    if not _TEXT.fullmatch(line) or not (_WORDS.match(text) or label == b"Stat"):
        raise FrameError(f"{line!r} is no SBI line")
    if text in _OVER:
        return Overload()
    if text in _UNDER:
        return Underload()
    return StatusLine(text.decode("ascii"))


def _weight(body: bytes, number: bytes, label: bytes, line: bytes) -> Weight:
    unit = body[11:14].strip()
    if (unit and not _UNIT.fullmatch(unit)) or not _TEXT.fullmatch(label):
        raise FrameError(f"{line!r}: {unit!r} is no unit")
    digits = number.replace(b",", b".").decode("ascii")
    if body[:1] == b"-":
        digits = f"-{digits}"
    return Weight(
        float(digits), unit.decode("ascii") if unit else None, label.decode("ascii"), digits
    )


# --- the balance's half ------------------------------------------------------------------------


def encode_line(line: Line, *, decimals: int = 3, width: int = 16) -> bytes:
    """Return a line of ``width`` 16 or 22, CR LF included."""
    body, label = _encode_body(line, decimals)
    if width == 22:
        return f"{label:<{_ID_WIDTH}}{body}".encode("ascii") + CR_LF
    return body.encode("ascii") + CR_LF


def _encode_body(line: Line, decimals: int) -> tuple[str, str]:
    match line:
        case Weight(value, unit, label):
            sign = "-" if value < 0 else "+"
            return f"{sign} {abs(value):>8.{decimals}f} {unit or '':<3}", label or "N"
        case Overload():
            return f"{'      High':<14}", "Stat"
        case Underload():
            return f"{'      Low':<14}", "Stat"
        case StatusLine(text):
            indent = {"OFF": 5, "--": 6}.get(text, 3)
            return f"{' ' * indent}{text}"[:_SHORT].ljust(_SHORT), "Stat"


class CommandCollector:
    """Cuts what a host sends into commands: ``P``, ``T``, ``x1_``; CR LF may follow each.

    Bytes outside a command are ignored, as the balance ignores them.
    """

    _LONG_FORMS = b"afksx"
    _LIMIT = 32

    def __init__(self) -> None:
        self._seen: bytes | None = None

    def reset(self) -> None:
        """Forget the beginning of a command."""
        self._seen = None

    def feed(self, chunk: bytes) -> list[str]:
        """Add bytes; return the commands they complete, without their ESC."""
        commands = []
        for byte in chunk:
            command = self._take(bytes((byte,)))
            if command is not None:
                commands.append(command.decode("ascii", "replace"))
        return commands

    def _take(self, byte: bytes) -> bytes | None:
        if byte == ESC:
            self._seen = b""
            return None
        if self._seen is None:
            return None
        self._seen += byte
        if self._seen[:1] in self._LONG_FORMS and byte != b"_" and len(self._seen) < self._LIMIT:
            return None
        command, self._seen = self._seen, None
        return command
