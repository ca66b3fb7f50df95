"""Register maps in files of their own: those that ship with us, by name, and anybody's, by path."""

import difflib
import re
import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from adapters.modbus.fields import RegisterField
from adapters.modbus.words import WordOrder
from capa.models import Frozen, Number, Whole

__all__ = ["MapError", "MapFile", "load_map", "shipped_maps"]

_SHIPPED = Path(__file__).parent / "maps"
_SUFFIX = ".toml"


class MapError(ValueError):
    """A map that can't be used; says which file, line and field."""


class MapFile(Frozen):
    """A file with a register map: what stands in it, before a profile adds to it."""

    title: str
    source: str = ""
    """Where its facts come from."""
    notes: str = ""
    word_order: WordOrder = "high_low"
    bridge_registers: Whole = Field(default=0, ge=0, le=120)
    max_read: Whole = Field(default=125, ge=2, le=125)
    gap_s: Number | None = Field(default=None, ge=0)
    fields: dict[str, RegisterField] = Field(min_length=1)


def shipped_maps() -> tuple[str, ...]:
    """Return the names of the maps that need no path."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob(f"*{_SUFFIX}")))


def load_map(name: str) -> MapFile:
    """Read a map: a path if it ends in ``.toml``, else one of ours.

    Raises:
        MapError: there is no such map, or it is wrong somewhere.
    """
    path = _path_of(name)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MapError(f"map {name!r}: {path.absolute()}: {reason}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise MapError(f"{path}: {error}") from error
    try:
        return MapFile.model_validate(data)
    except ValidationError as error:
        raise MapError("; ".join(_problems(path, text, error))) from error


def _path_of(name: str) -> Path:
    if name.endswith(_SUFFIX):
        return Path(name)
    if name in shipped_maps():
        return _SHIPPED / f"{name}{_SUFFIX}"
    close = difflib.get_close_matches(name, shipped_maps(), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(shipped_maps())}"
    raise MapError(f"no map is called {name!r}; {hint} A map of your own is a path to a .toml file")


def _problems(path: Path, text: str, error: ValidationError) -> list[str]:
    """Say for each mistake where it is: the file, the line, the field and the key."""
    found = []
    for detail in error.errors(include_url=False):
        place = [str(part) for part in detail["loc"]]
        words = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"]
        line = _line_of(text, place)
        found.append(f"{path}:{line}: {'.'.join(place)}: {words.removeprefix('Value error, ')}")
    return found


def _line_of(text: str, place: list[str]) -> int:
    """Return the line that a key stands in; its table's where the key is missing; else 1."""
    table = place[:2] if place[0] == "fields" and len(place) > 1 else []
    key = place[len(table)] if len(place) > len(table) else None
    header, inside = 1, not table
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            parts = [part.strip().strip("\"'") for part in match[1].split(".")]
            inside = parts == table
            header = number if inside else header
        elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return header
