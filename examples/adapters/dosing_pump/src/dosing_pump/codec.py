"""The pump's protocol as values, both halves: no I/O in here, and one error for all bad bytes.

A line each way, ended by CR, with the pump's number in front and a check sum behind (the sum of
the bytes before it, modulo 256, in hexadecimal): ``#3 RATE?*E1`` is answered with
``#3 RATE 12.50*B8``, which as a command sets it and is answered alike; ``#3 ERR 2*B1`` refuses.
"""

import re
from dataclasses import dataclass

from capa.errors import FrameError

__all__ = ["EOL", "Ask", "Refused", "Value", "decode_reply", "decode_request", "encode"]

EOL = b"\r"

_LINE = re.compile(rb"#(\d{1,2}) ([A-Z]{1,8})(\?| -?\d{1,6}(?:\.\d{1,4})?)\*([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for one quantity."""

    pump: int
    name: str


@dataclass(frozen=True, slots=True)
class Value:
    """A quantity with its number: a command to the pump, or its answer."""

    pump: int
    name: str
    number: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The pump says no: 1 for a quantity that it does not know, 2 for a number out of range."""

    code: int


def encode(message: Ask | Value | Refused, *, pump: int = 0) -> bytes:
    """Return a line with its check sum and CR; ``pump`` is who refuses."""
    data = _body(message, pump).encode("ascii")
    return data + f"*{sum(data) % 256:02X}".encode("ascii") + EOL


def _body(message: Ask | Value | Refused, pump: int) -> str:
    match message:
        case Ask(number, name):
            return f"#{number} {name}?"
        case Value(number, name, value):
            return f"#{number} {name} {value:.2f}"
        case Refused(code):
            return f"#{pump} ERR {code}"


def _decode(line: bytes) -> Ask | Value:
    match = _LINE.fullmatch(line)
    if match is None:
        raise FrameError(f"{line!r} is no line of a dosing pump")
    if sum(line[: -len(match[4]) - 1]) % 256 != int(match[4], 16):
        raise FrameError(f"{line!r}: the check sum is wrong", fault="checksum")
    pump, name = int(match[1]), match[2].decode("ascii")
    return Ask(pump, name) if match[3] == b"?" else Value(pump, name, float(match[3]))


def decode_reply(pump: int, name: str, line: bytes) -> Value | Refused:
    """Read a line, without its CR, as the answer to a question or command about ``name``.

    Raises:
        FrameError: it is none, or answers another pump or another question.
    """
    message = _decode(line)
    if isinstance(message, Ask) or message.pump != pump or message.name not in {name, "ERR"}:
        raise FrameError(f"{line!r} answers no question about {name} of #{pump}", fault="foreign")
    return Refused(int(message.number)) if message.name == "ERR" else message


def decode_request(line: bytes) -> Ask | Value | None:
    """Read what a host sent; None for what is no request: the pump stays silent."""
    try:
        return _decode(line)
    except FrameError:
        return None
