"""The part of Map 1 that the simulated controller has: kind, access and factory value.

Source: Watlow EZ-ZONE PM register list, sheet "PM - Map 1". Temperatures are here in degC,
differences of temperatures without the offset of 32.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["MAP_1", "Kind", "Row"]

Kind = Literal["temperature", "difference", "number", "enum", "uint32"]


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter; ``access`` is ``r``, ``w`` (reads 255) or ``rw`` (which is saved)."""

    address: int
    kind: Kind
    access: Literal["r", "w", "rw"]
    value: float = 0.0
    allowed: frozenset[int] | None = None


def _enum(address: int, value: int, *allowed: int, access: Literal["r", "w", "rw"] = "rw") -> Row:
    return Row(address, "enum", access, value, frozenset(allowed) if allowed else None)


def _alarm(base: int) -> tuple[Row, ...]:
    return (
        Row(base, "temperature", "rw", 148.9),
        Row(base + 2, "temperature", "rw", 0.0),
        Row(base + 4, "difference", "rw", 1.0 / 1.8),
        _enum(base + 6, 13, 13, 37, 53),
        _enum(base + 8, 17, 17, 66),
        _enum(base + 12, 60, 60, 49),
        _enum(base + 14, 62, 62, 88, 85, 13),
        _enum(base + 16, 61, access="r"),
        _enum(base + 18, 59, access="r"),
        _enum(base + 20, 59, access="r"),
        _enum(base + 22, 59, access="r"),
        _enum(base + 24, 255, access="w"),
        _enum(base + 26, 255, access="w"),
        _enum(base + 28, 62, 62, 76, 24),
    )


def _port(offset: int) -> tuple[Row, ...]:
    """Return what one of the two communication ports is set to."""
    return (
        _enum(2482 + offset, 1),
        _enum(2484 + offset, 188, 188, 189, 190),
        _enum(2486 + offset, 61, 61, 191, 192),
        _enum(2488 + offset, 1331, 1330, 1331),
        _enum(2490 + offset, 30, 15, 30),
        _enum(2492 + offset, 1057, 1286, 1057),
        _enum(2494 + offset, 106, 59, 106),
    )


MAP_1: tuple[Row, ...] = (
    Row(0, "uint32", "r", 28),
    Row(2, "uint32", "r", 5678),
    Row(4, "uint32", "r", 1500),
    Row(8, "uint32", "r", 1),
    Row(12, "uint32", "r", 123456),
    Row(14, "uint32", "r", 2026),
    _enum(30, 138, access="r"),
    Row(360, "temperature", "r"),
    _enum(362, 61, access="r"),
    Row(364, "number", "r"),
    Row(366, "temperature", "r", 25.0),
    _enum(368, 95, 62, 95, 56, 104, 112, 113, 114),
    _enum(370, 48, 46, 48, 93, 58, 26, 15, 23, 30, 80, 84, 11),
    _enum(372, 2, 1, 2),
    Row(378, "number", "rw", 0.0),
    Row(380, "number", "rw", 1.0),
    Row(382, "difference", "rw", 0.0),
    Row(386, "number", "rw", 0.5),
    _enum(398, 105, 105, 94, 40, 96),
    Row(402, "temperature", "r"),
    _enum(414, 62, 62, 63),
    _enum(416, 255, access="w"),
    *_alarm(1480),
    *_alarm(1530),
    *_alarm(1580),
    *_alarm(1630),
    _enum(1838, 30, 15, 30),
    _enum(1880, 10, 62, 10, 54),
    _enum(1882, 10, access="r"),
    _enum(1884, 71, 62, 71, 64),
    _enum(1886, 62, 62, 71, 64),
    Row(1890, "difference", "rw", 13.9),
    Row(1892, "difference", "rw", 13.9),
    Row(1894, "number", "rw", 180.0),
    Row(1896, "number", "rw", 0.0),
    Row(1898, "difference", "rw", 0.0),
    Row(1900, "difference", "rw", 3.0 / 1.8),
    Row(1902, "difference", "rw", 3.0 / 1.8),
    Row(1904, "number", "r"),
    Row(1906, "number", "r"),
    Row(1908, "number", "r"),
    _enum(1910, 59, 59, 106),
    Row(1912, "number", "rw", 0.0),
    _enum(1914, 3, *range(1, 7)),
    _enum(1916, 21, 99, 21, 69),
    Row(1918, "number", "rw", 90.0),
    _enum(1920, 59, 59, 106),
    _enum(1922, 59, 59, 106),
    Row(1924, "number", "rw", 240.0),
    Row(1926, "difference", "rw", 10.0 / 1.8),
    _enum(1928, 61, access="r"),
    _enum(1930, 255, 129, 204, access="w"),
    _enum(1932, 62, access="r"),
    Row(2160, "temperature", "rw", 24.0),
    Row(2162, "number", "rw", 0.0),
    Row(2164, "temperature", "rw", -1128.3),
    Row(2166, "temperature", "rw", 5537.0),
    Row(2168, "number", "rw", -100.0),
    Row(2170, "number", "rw", 100.0),
    Row(2172, "temperature", "r"),
    Row(2174, "number", "r"),
    Row(2176, "temperature", "rw", 24.0),
    _enum(2182, 14, 62, 14, 33, 100),
    _enum(2184, 100, 62, 14, 33, 100),
    _enum(2186, 62, 62, 88, 85, 13),
    _enum(2188, 57, 39, 57),
    Row(2190, "temperature", "r"),
    Row(2192, "difference", "rw", 1.0),
    Row(2198, "temperature", "r"),
    *_port(0),
    *_port(20),
    Row(5020, "uint32", "r"),
)
