"""Values that span two registers: float32 and uint32 in either word order."""

import struct
from typing import Literal

__all__ = ["WordOrder", "as_float32", "float_at", "float_words", "uint32_at", "uint32_words"]

WordOrder = Literal["low_high", "high_low"]
"""Which half comes first on the wire; within a register the high byte always does."""

_FLOAT = struct.Struct(">f")


def float_at(data: bytes, register: int, order: WordOrder) -> float:
    """Return the float32 that begins at ``register`` of a block of register bytes."""
    return float(_FLOAT.unpack(_four_bytes(data, register, order))[0])


def as_float32(value: float) -> float:
    """Return the float32 nearest to a number: -999.9 is none itself.

    Raises:
        OverflowError: the value is beyond what float32 holds.
    """
    return float(_FLOAT.unpack(_FLOAT.pack(value))[0])


def uint32_at(data: bytes, register: int, order: WordOrder) -> int:
    """Return the unsigned 32-bit number that begins at ``register``."""
    return int.from_bytes(_four_bytes(data, register, order), "big")


def _four_bytes(data: bytes, register: int, order: WordOrder) -> bytes:
    at = 2 * register
    if order == "low_high":
        return data[at + 2 : at + 4] + data[at : at + 2]
    return data[at : at + 4]


def float_words(value: float, order: WordOrder) -> tuple[int, int]:
    """Return the two registers of a float32.

    Raises:
        OverflowError: the value is beyond what float32 holds.
    """
    return _two_words(_FLOAT.pack(value), order)


def uint32_words(value: int, order: WordOrder) -> tuple[int, int]:
    """Return the two registers of an unsigned 32-bit number."""
    return _two_words(value.to_bytes(4, "big"), order)


def _two_words(data: bytes, order: WordOrder) -> tuple[int, int]:
    high, low = data[0] << 8 | data[1], data[2] << 8 | data[3]
    return (low, high) if order == "low_high" else (high, low)
