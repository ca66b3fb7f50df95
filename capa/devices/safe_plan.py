"""A write and its proof as plain values, so that something without a driver can replay them.

A family that offers ``safe_write`` lets the guardian speak for it when the daemon is gone: the
bytes of the write, what an acceptance looks like, the bytes that ask for the value, and how to
read the answer. Nothing here does I/O; everything here can be written down as JSON.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from capa.devices.adapter import FieldWrite
from capa.devices.spec import DeviceSpec

__all__ = [
    "CompilesSafeWrites",
    "Exactly",
    "GroupNumber",
    "MatchingLine",
    "ModbusFrame",
    "ReadBack",
    "RegisterNumber",
    "ReplyShape",
    "SafeWrite",
]


@dataclass(frozen=True, slots=True)
class Exactly:
    """These bytes and no others."""

    reply: bytes


@dataclass(frozen=True, slots=True)
class ModbusFrame:
    """A frame of ``length`` bytes that begins with ``prefix`` and ends with its Modbus CRC.

    The prefix is the unit and the function at the least: a refusal is recognised by them. With
    ``tcp`` it is a frame of Modbus TCP: no CRC, and the prefix begins with the whole header.
    """

    prefix: bytes
    length: int
    tcp: bool = False


@dataclass(frozen=True, slots=True)
class MatchingLine:
    """A line, up to ``end``, whose end a regular expression (``re``, on bytes) matches."""

    pattern: bytes
    end: bytes = b"\r"


ReplyShape = Exactly | ModbusFrame | MatchingLine


@dataclass(frozen=True, slots=True)
class RegisterNumber:
    """A number in the registers of a Modbus reply; ``at`` counts the frame's bytes from 0."""

    type: Literal["int16", "uint16", "int32", "float32"]
    at: int
    word_order: Literal["low_high", "high_low"] = "high_low"


@dataclass(frozen=True, slots=True)
class GroupNumber:
    """A decimal number in a group of the regular expression, counted from 1."""

    group: int


@dataclass(frozen=True, slots=True)
class ReadBack:
    """How to ask for the value: the field's value is ``gain * number + offset``."""

    request: bytes
    reply: ReplyShape
    number: RegisterNumber | GroupNumber
    gain: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class SafeWrite:
    """One write as bytes; without ``read_back`` it can be commanded and never proven.

    ``gap_s`` is the silence that the protocol wants before a request.
    """

    request: bytes
    accepted: ReplyShape
    read_back: ReadBack | None
    gap_s: float = 0.0


@runtime_checkable
class CompilesSafeWrites(Protocol):
    """An ``AdapterFamily`` whose writes can be compiled; optional, and worth having.

    A commandable device of a family without it is out of the guardian's reach: when the daemon
    dies, nothing drives its outputs until the daemon is back.
    """

    def safe_write(self, spec: DeviceSpec, write: FieldWrite) -> SafeWrite:
        """Return the bytes of a write that the device's driver would make; no I/O.

        Raises:
            ValueError: the driver would refuse this write, or the field can't be written.
        """
        ...
