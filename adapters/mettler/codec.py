"""MT-SICS as values, both halves: a command, and replies of an id, a status and data.

Sources: Mettler operating manuals (AT p. 87, AL-IC p. 72, JS p. 30) for the grammar, and lines
captured from a WXS205SDU; NOTES.md says which. A line has no check sum. A weigh module reports its
own faults inside a reply that begins like a stable weight (``S S Error 10b``).
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from capa.errors import FrameError

__all__ = [
    "CR_LF",
    "Answer",
    "GeneralError",
    "ModuleFault",
    "SicsReply",
    "SicsStatus",
    "Weight",
    "decode_command",
    "decode_reply",
    "encode_answer",
    "encode_command",
    "encode_weight",
]

CR_LF = b"\r\n"

_WIDTH = 10
_ERRORS = {
    "ES": "the balance does not know this command, or does not allow it now",
    "ET": "the balance received it garbled (parity or break): check the line's settings",
    "EL": "the balance can't carry it out (a logical error)",
    "EI": "the balance can't carry it out now",
}
_ALIASES = {"SI": "S", "SIR": "S", "SR": "S", "@": "I4"}
_ALSO = {"ZI": "Z", "TI": "T"}
_REPLY = re.compile(r"([A-Z][A-Z0-9]{0,4}) ([ABSDIL+\-])(?: (.*))?")
_COMMAND = re.compile(r"(@|[A-Z][A-Z0-9]{0,4})((?: [ -~]+)?)")
_WEIGHT = re.compile(r"( *-?\d+(?:\.\d*)?) ([A-Za-z%/]{1,4})")
_FAULT = re.compile(r" *Error (\d{1,2})([bt])")


class SicsStatus(StrEnum):
    """The letter behind the id."""

    DONE = "A"
    MORE = "B"
    STABLE = "S"
    DYNAMIC = "D"
    NOT_NOW = "I"
    """Understood and not done: busy, or no stable weight within the balance's own time."""
    WRONG_PARAMETER = "L"
    OVERLOAD = "+"
    UNDERLOAD = "-"


@dataclass(frozen=True, slots=True)
class Weight:
    """A number of ten characters and its unit, as the display has it."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class ModuleFault:
    """The balance's hardware is at fault: ``part`` is ``b`` (weigh module) or ``t`` (terminal)."""

    number: int
    part: str

    def __str__(self) -> str:
        """Name the part."""
        where = "weigh module or electronics" if self.part == "b" else "terminal"
        return f"Error {self.number}{self.part}, in the {where}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply to the command that was sent; ``data`` is what stands behind the status."""

    id: str
    status: SicsStatus
    data: str = ""
    value: Weight | ModuleFault | None = None


@dataclass(frozen=True, slots=True)
class GeneralError:
    """``ES``, ``ET``, ``EL`` or ``EI``: two letters, whatever was asked."""

    code: str

    @property
    def meaning(self) -> str:
        """Say what the balance means by it."""
        return _ERRORS[self.code]


SicsReply = Answer | GeneralError


def encode_command(command: str, *parameters: str) -> bytes:
    """Return a command's line."""
    return " ".join((command, *parameters)).encode("ascii") + CR_LF


def decode_reply(command: str, line: bytes) -> SicsReply:
    """Read a line, without its CR LF, as the reply to ``command``.

    ``SI`` is answered as ``S``, ``@`` as ``I4``; some models answer ``ZI`` as ``Z``, ``TI`` as
    ``T``.

    Raises:
        FrameError: it is no MT-SICS line, or answers another command.
    """
    text = _text(line)
    if text in _ERRORS:
        return GeneralError(text)
    match = _REPLY.fullmatch(text)
    if match is None:
        raise FrameError(f"{line!r} is no MT-SICS reply")
    name, status, data = match[1], SicsStatus(match[2]), match[3] or ""
    if name not in {_ALIASES.get(command, command), _ALSO.get(command)}:
        raise FrameError(f"{line!r} is no answer to {command}", fault="foreign")
    return Answer(name, status, data, _value(name, status, data, line))


def _value(name: str, status: SicsStatus, data: str, line: bytes) -> Weight | ModuleFault | None:
    """Return the weight or the fault that a reply to a weighing command must carry."""
    weighs = (name in {"S", "T", "TI"} and status in {SicsStatus.STABLE, SicsStatus.DYNAMIC}) or (
        name == "TA" and status is SicsStatus.DONE
    )
    if not weighs:
        return None
    fault = _FAULT.fullmatch(data)
    if fault is not None:
        return ModuleFault(int(fault[1]), fault[2])
    weight = _WEIGHT.fullmatch(data)
    if weight is None or len(weight[1]) != _WIDTH:
        raise FrameError(f"{line!r}: no weight of {_WIDTH} characters and a unit behind {status}")
    return Weight(float(weight[1]), weight[2])


def _text(line: bytes) -> str:
    if any(not 0x20 <= byte < 0x7F for byte in line):
        raise FrameError(f"{line!r} holds bytes that MT-SICS does not use")
    return line.decode("ascii")


# --- the balance's half ------------------------------------------------------------------------


def decode_command(line: bytes) -> tuple[str, str] | None:
    """Return a host's command and what stands behind it, or None for what is none."""
    match = _COMMAND.fullmatch(line.decode("latin-1"))
    return None if match is None else (match[1], match[2].strip())


def encode_answer(name: str, status: SicsStatus | str, data: str = "") -> bytes:
    """Return a reply's line."""
    return f"{name} {status} {data}".rstrip().encode("ascii") + CR_LF


def encode_weight(value: float, unit: str, decimals: int) -> str:
    """Return ten characters, right-justified, and the unit.

    Raises:
        ValueError: it does not fit into ten characters.
    """
    text = f"{value:>{_WIDTH}.{decimals}f}"
    if len(text) != _WIDTH:
        raise ValueError(
            f"{value!r} with {decimals} decimals does not fit into {_WIDTH} characters"
        )
    return f"{text} {unit}"
