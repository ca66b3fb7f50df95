"""Reads the tables under ``[twin]`` of a profile, and says what does not fit."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from capa.errors import CapaError

__all__ = ["from_table"]

T = TypeVar("T")


def from_table(kind: type[T], table: object, *, where: str) -> T:
    """Make a dataclass of settings from a TOML table; absent keys keep their defaults.

    Raises:
        CapaError: names the table and the key, what was seen and what would be right.
    """
    if not isinstance(table, Mapping):
        raise CapaError(f"{where}: expected a table of settings, not {table!r}")
    defaults = kind()
    for key, value in table.items():
        if not hasattr(defaults, key):
            raise CapaError(f"{where}: unknown setting {key!r}{_suggestion(kind, key)}")
        _check(getattr(defaults, key), value, f"{where}.{key}")
    return kind(**table)


def _suggestion(kind: type[Any], key: str) -> str:
    names = [field.name for field in dataclasses.fields(kind)]
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"


def _check(default: object, value: object, where: str) -> None:
    wants_number = default is None or (isinstance(default, float) and not isinstance(default, bool))
    if wants_number:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise CapaError(f"{where}: expected a finite number, not {value!r}")
        if value < 0 and not where.endswith("_degC"):
            raise CapaError(f"{where}: must be 0 or more, not {value!r}")
    elif not isinstance(value, type(default)):
        raise CapaError(f"{where}: expected {type(default).__name__}, not {value!r}")
