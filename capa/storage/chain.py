"""The chain of the events: each row carries the hash of the one before.

A row that is removed, edited or put in shows at its successor, even where the sums of the files
were made anew; the last row's hash stands in the manifest. The form of what is hashed is part of
the format (docs/bundle-format.md), so that anybody can compute it again.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Chain", "first_hash", "row_hash", "walk_chain"]

Row = tuple[Any, ...]
"""``id, t_mono_ns, t_utc, kind, severity, source, message, metadata_json, prev_hash``."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What a walk along a chain found: its rows, the last one's hash, the ids of misfits."""

    rows: int
    head: str
    breaks: tuple[int, ...]


def first_hash(run_id: str) -> str:
    """Return what the first row carries, so that no other run's events fit in its place."""
    return hashlib.sha256(run_id.encode()).hexdigest()


def row_hash(row: Row) -> str:
    """Return the hash of a row, ``prev_hash`` and all."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_blob)
    # Text that is no Unicode (a lone surrogate, from a file name) can't get into SQLite anyway.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _blob(data: bytes) -> list[str]:
    """Return what stands for a blob, which no row has that was not altered."""
    return ["blob", data.hex()]


def walk_chain(rows: Iterable[Row], run_id: str) -> Chain:
    """Follow a chain to its end; a row misfits that does not carry its predecessor's hash.

    Ids count from 1 without a gap: a first row that was removed shows by the second one's id.
    """
    count, head, last_id, breaks = 0, first_hash(run_id), 0, []
    for row in rows:
        count += 1
        if row[-1] != head or row[0] != last_id + 1:
            breaks.append(row[0] if isinstance(row[0], int) else count)
        head, last_id = row_hash(row), last_id + 1 if row[0] is None else row[0]
    return Chain(count, head, tuple(breaks))
