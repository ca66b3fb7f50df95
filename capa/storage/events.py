"""Events: what happened in a run, in the past tense, and who takes them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, Protocol

__all__ = ["URGENT", "Event", "EventSink", "Severity", "metadata_json", "storable"]

Severity = Literal["debug", "info", "warning", "error", "critical"]

URGENT: frozenset[str] = frozenset({"warning", "error", "critical"})
"""The severities that are fsynced at once; the others are so within a second."""


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the table ``events``; times are the run's own (see ``RunClock``)."""

    t_mono_ns: int
    t_utc: datetime
    kind: str
    severity: str
    source: str
    message: str
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class EventSink(Protocol):
    """What takes events: a bundle, a list in a test."""

    def write_event(
        self,
        *,
        kind: str,
        message: str,
        severity: Severity = "info",
        source: str,
        t_mono_ns: int,
        t_utc: datetime,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Take one event; never blocks and never raises for what the metadata holds."""
        ...


def metadata_json(metadata: Mapping[str, Any] | None) -> str:
    """Encode metadata as strict JSON, whatever is in it.

    NaN and infinities become strings, keys and foreign objects their text: an event must never
    be lost because of what a plug-in put into it.
    """
    if not metadata:
        return "{}"
    try:
        text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(_plain(metadata, depth=0), ensure_ascii=False)
    return storable(text)


def storable(text: object) -> str:
    """Return a text that UTF-8 can hold; what it can't (half a surrogate pair) is escaped.

    Names of files that are no UTF-8 come as such, and SQLite takes none of them.
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def _plain(value: object, *, depth: int) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth > _MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth=depth + 1) for item in value]
    return str(value)


_MAX_DEPTH = 16
