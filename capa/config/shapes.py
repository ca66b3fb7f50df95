"""Walk a file's data and the models it is read into side by side: what may stand at a place."""

import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from capa.config.locate import Path

__all__ = ["child", "expected", "model_at", "table_at"]


def child(node: object, part: str | int) -> object:
    """Return the value of a key or an index, or None."""
    if isinstance(node, dict):
        return node.get(part)
    if isinstance(node, list | tuple) and isinstance(part, int) and 0 <= part < len(node):
        return node[part]
    return None


def table_at(data: object, path: Path) -> Mapping[str, Any]:
    """Return the table at a path; an empty one if there is something else."""
    for part in path:
        data = child(data, part)
    return data if isinstance(data, dict) else {}


def model_at(root: type[BaseModel], data: object, path: Path) -> type[BaseModel] | None:
    """Return the model that the table at ``path`` is read into; None for free-form tables."""
    options: list[type[BaseModel]] = [root]
    for part in path:
        if not isinstance(part, int):
            model = _chosen(options, data)
            field = model.model_fields.get(part) if model else None
            options = _models(field.annotation) if field else []
        data = child(data, part)
    return _chosen(options, data)


def expected(model: type[BaseModel], name: str) -> str | None:
    """Return what kind of value a field takes, in a word."""
    field = model.model_fields.get(name)
    if field is None:
        return None
    leaves = set(_leaves(field.annotation))
    if any(isinstance(leaf, type) and issubclass(leaf, BaseModel) for leaf in leaves):
        return "an array of tables" if _is_tuple(field.annotation) else "a table"
    for kind, words in _WORDS.items():
        if kind in leaves:
            return words
    return None


_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text in quotes"}


def _is_tuple(annotation: object) -> bool:
    return typing.get_origin(annotation) is tuple


def _leaves(annotation: object) -> list[object]:
    """Return the plain types inside an annotation, with unions, arrays and metadata opened."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _leaves(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType, tuple):
        return [leaf for part in typing.get_args(annotation) for leaf in _leaves(part)]
    return [annotation]


def _models(annotation: object) -> list[type[BaseModel]]:
    leaves = _leaves(annotation)
    return [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, BaseModel)]


def _chosen(options: list[type[BaseModel]], node: object) -> type[BaseModel] | None:
    """Return the one model that the node's ``kind`` selects."""
    if len(options) <= 1:
        return options[0] if options else None
    kind = child(node, "kind")
    for model in options:
        field = model.model_fields.get("kind")
        if field is not None and kind in typing.get_args(field.annotation):
            return model
    return None
