"""Turn what pydantic says of a file into what an operator can act on."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from capa.config.locate import Path
from capa.config.problems import Problem
from capa.config.reading import Source
from capa.config.shapes import child, expected, model_at, table_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["did_you_mean", "explain", "nearest", "shown", "where_of"]

_ITEMS = {"links": "link", "devices": "device", "channels": "channel"}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, if any is like it at all."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return lowered[close[0]]
    longer = [n for n in lowered if len(name) > 2 and n.startswith(name.lower())]
    return lowered[longer[0]] if len(longer) == 1 else None


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "there is") -> str:
    """Return a hint: the nearest name, or which names there are."""
    names = list(known)
    close = nearest(name, names)
    if close is not None:
        return f"did you mean `{close}`?"
    if not names:
        return f"{otherwise} none"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{otherwise}: {listed}"


def shown(value: object) -> str:
    """Show a value from a file, in one short line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value[:80]}"' if isinstance(value, str) else _plain(value)
    flat = "".join(c if c.isprintable() else "?" for c in text)
    return flat if len(flat) <= 60 else flat[:57] + "..."


def _plain(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits does not become text
        return "a number of thousands of digits"


def where_of(path: Path, data: Mapping[str, Any]) -> str | None:
    """Name a place in the file's own terms: ``step 3 (ramp), field end_condition.op``."""
    match path:
        case ():
            return None
        case ("method", *rest) if rest:
            inner = child(data, "method")
            return where_of(tuple(rest), inner if isinstance(inner, dict) else {})
        case (("steps" | "safe_state" | "links" | "devices" | "channels") as table, int(i), *rest):
            name = _item_name(str(table), i, child(child(data, table), i))
            return f"{name}, {_field_name(rest)}" if rest else name
        case _:
            return _field_name(path)


def _field_name(path: Sequence[str | int]) -> str:
    return "field " + ".".join(_field_part(part) for part in path)


def _field_part(part: str | int) -> str:
    if isinstance(part, int):
        return str(part + 1)
    return part if re.fullmatch(r"[\w-]{1,60}", part) else shown(part)


def _item_name(table: str, index: int, item: object) -> str:
    if table == "safe_state":
        return f"safe_state stage {index + 1}"
    if table == "steps":
        kind = child(item, "kind")
        return f"step {index + 1}" + (f" ({shown(kind)[1:-1]})" if isinstance(kind, str) else "")
    name = child(item, "name")
    return f"{_ITEMS[table]} {shown(name) if isinstance(name, str) else index + 1}"


def explain(
    errors: Sequence["ErrorDetails"],
    source: Source,
    model: type[BaseModel],
    *,
    area: str,
    at: Path = (),
) -> list[Problem]:
    """Explain validation errors of ``model``, read from ``at`` in the source.

    ``area`` is the first part of each problem's code (``method``, ``profile``). One mistake gives
    one problem: a misspelt key is not also reported as missing.
    """
    found: dict[Path, ErrorDetails] = {}
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # an array whose entries are wrong looks empty to pydantic
        found.setdefault(_place(error, at, source.data), error)
    teller = _Teller(source, model, area, at)
    unknown = [path for path, error in found.items() if error["type"] == "extra_forbidden"]
    meant = {teller.meant(path) for path in unknown}
    return [
        teller.tell(path, error)
        for path, error in found.items()
        if not (error["type"] == "missing" and path in meant)
    ]


def _place(error: "ErrorDetails", at: Path, data: object) -> Path:
    path = _clean((*at, *error["loc"]), data)
    return (*path, "kind") if error["type"].startswith("union_tag") else path


def _is_union(path: Path) -> bool:
    """Whether pydantic puts the value of ``kind`` after this path in a location."""
    match path:
        case (*_, "steps", int()) | (*_, "channels", int(), "calibration" | "derived"):
            return True
        case _:
            return False


def _clean(loc: Path, data: object) -> Path:
    """Drop what a location has and a file has not: union tags, and types tried on a scalar."""
    path: Path = ()
    node: object = data
    tagged = False
    for part in loc:
        if _is_union(path) and not tagged:
            tagged = True
        elif node is not None and not isinstance(node, dict | list):
            break
        else:
            path, node, tagged = (*path, part), child(node, part), False
    return path


class _Teller:
    """Says each error in words; knows the models, so that it can say what would be right."""

    def __init__(self, source: Source, model: type[BaseModel], area: str, at: Path) -> None:
        self._source = source
        self._root = model
        self._area = area
        self._at = at

    def tell(self, path: Path, error: "ErrorDetails") -> Problem:
        """Return the problem for one error at a cleaned path."""
        code, message, hint = self._words(path, error)
        where = where_of(path, self._source.data)
        return self._source.problem(f"{self._area}.{code}", path, message, hint=hint, where=where)

    def meant(self, path: Path) -> Path | None:
        """Return the path that an unknown key was probably meant to be."""
        close = nearest(str(path[-1]), self._free_fields(path[:-1]))
        return (*path[:-1], close) if close else None

    def _words(self, path: Path, error: "ErrorDetails") -> tuple[str, str, str | None]:
        kind, value, context = error["type"], error["input"], error.get("ctx", {})
        match kind:
            case "extra_forbidden":
                return "unknown_field", "unknown field", self._unknown_hint(path)
            case "missing":
                return "missing_field", "is missing", self._missing_hint(path)
            case "union_tag_not_found":
                hint = "one of " + ", ".join(_quoted(_TAGS))
                return "missing_field", "is missing", hint if "steps" in path else None
            case "union_tag_invalid":
                hint = did_you_mean(
                    str(context["tag"]), _quoted(str(context["expected_tags"])), otherwise="one of"
                )
                return "unknown_kind", f"unknown kind {shown(child(value, 'kind'))}", hint
            case "literal_error":
                choices = _quoted(str(context["expected"]))
                hint = did_you_mean(str(value), choices, otherwise="one of")
                return "bad_value", f"can't be {shown(value)}", hint
            case "value_error":
                return "incomplete", str(context["error"]), None
            case _ if kind in _SAID:
                return "bad_value", _SAID[kind](context, value), self._value_hint(path, value)
            case _:
                return "bad_value", f"{error['msg'][:1].lower()}{error['msg'][1:]}", None

    def _model_at(self, table: Path) -> type[BaseModel] | None:
        data: Any = self._source.data
        for part in self._at:
            data = child(data, part)
        return model_at(self._root, data, table[len(self._at) :])

    def _free_fields(self, table: Path) -> list[str]:
        """Return the fields that the table at a path may have and has not."""
        model = self._model_at(table)
        present = table_at(self._source.data, table)
        return [name for name in model.model_fields if name not in present] if model else []

    def _unknown_hint(self, path: Path) -> str | None:
        name, table = str(path[-1]), path[:-1]
        close = nearest(name, self._free_fields(table))
        if close is not None:
            return f"did you mean `{close}`?"
        outer = self._model_at(table[:-1]) if table and isinstance(table[-1], str) else None
        if outer is not None and name in outer.model_fields:
            inner = ".".join(part for part in table if isinstance(part, str))
            return f"`{name}` belongs one table further out: put it above [{inner}]"
        model = self._model_at(table)
        return f"known here: {', '.join(model.model_fields)}" if model else None

    def _missing_hint(self, path: Path) -> str | None:
        name = str(path[-1])
        model = self._model_at(path[:-1])
        kind = expected(model, name) if model else None
        if name == "target":
            return 'add `target = { name = "the channel" }`'
        return f"add `{name} = ...` ({kind})" if kind else None

    def _value_hint(self, path: Path, value: object) -> str | None:
        name = path[-1] if path else ""
        if isinstance(value, str):
            if name == "target":
                return f"write target = {{ name = {shown(value)} }}"
            if re.fullmatch(r"\s*[-+]?\d[\d.,eE+-]*\s*", value):
                return "write the number without quotes"
        if isinstance(value, dict) and name in {"steps", *_ITEMS, "safe_state"}:
            return f"write [[{name}]] with two brackets on each side"
        return None


def _quoted(text: str) -> list[str]:
    """Return the quoted words of a list as pydantic writes it."""
    return re.findall(r"'([^']*)'", text)


_TAGS = "'hold' 'ramp' 'setpoint' 'wait' 'prompt' 'acquire' 'safe_shutdown' 'custom'"

_Sayer = Callable[[Mapping[str, Any], object], str]


def _must_be(what: str) -> _Sayer:
    return lambda _context, value: f"must be {what}, not {shown(value)}"


_NUMBER, _WHOLE, _FLAG = _must_be("a number"), _must_be("a whole number"), _must_be("true or false")
_TEXT, _TABLE, _ARRAY = _must_be("text in quotes"), _must_be("a table"), _must_be("an array")

_SAID: Mapping[str, _Sayer] = {
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "string_type": _TEXT,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
    "tuple_type": _ARRAY,
    "list_type": _ARRAY,
    "finite_number": _must_be("a finite number"),
    "greater_than": lambda c, v: f"must be greater than {c['gt']:g}, not {shown(v)}",
    "greater_than_equal": lambda c, v: f"must be at least {c['ge']:g}, not {shown(v)}",
    "less_than": lambda c, v: f"must be less than {c['lt']:g}, not {shown(v)}",
    "less_than_equal": lambda c, v: f"must be at most {c['le']:g}, not {shown(v)}",
    "too_short": lambda _c, _v: "needs at least one entry",
    "string_too_short": lambda _c, _v: "must not be empty",
}
