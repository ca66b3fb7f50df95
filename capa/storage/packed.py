"""The packed rows of ``inflight.sqlite``, read back; damaged ones are counted, and left out."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from capa.storage.samples import check_sum

__all__ = ["Lost", "PackedRecords", "PackedSamples", "read_records", "read_samples"]

PackedSamples = tuple[int, bytes, bytes, bytes, bytes, bytes]
"""``n, channel_id (uint16), t_mono_ns, value, status, raw_value``."""

PackedRecords = tuple[int, bytes, bytes, bytes, bytes, bytes, list[str]]
"""``n, field (uint16), t_mono_ns, value, status, reply (uint32), replies``."""


@dataclass
class Lost:
    """How many rows, with how many values by their own count, were damaged."""

    rows: int = 0
    values: int = 0

    def add(self, count: object) -> None:
        """Count a damaged row; its own count may be damaged too."""
        self.rows += 1
        self.values += count if isinstance(count, int) and 0 < count < 2**32 else 0


def read_samples(connection: sqlite3.Connection, lost: Lost) -> Iterator[PackedSamples]:
    """Yield the batches in the order in which they were committed.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    columns = {row[1] for row in connection.execute("PRAGMA table_info(batches)")}
    if "crc32" not in columns:
        yield from _version_1(connection, lost)
        return
    query = (
        "SELECT n, channel_id, t_mono_ns, value, status, raw_value, crc32 FROM batches ORDER BY id"
    )
    for count, *blobs, crc32 in connection.execute(query):
        if _fits(count, blobs, (2, 8, 8, 1, 8)) and check_sum(b"".join(blobs)) == crc32:
            yield (count, *blobs)
        else:
            lost.add(count)


def _version_1(connection: sqlite3.Connection, lost: Lost) -> Iterator[PackedSamples]:
    """Yield the batches of a bundle of format 1: one channel each, without a check sum."""
    query = "SELECT n, channel_id, t_mono_ns, value, status, raw_value FROM batches ORDER BY id"
    for count, channel_id, *blobs in connection.execute(query):
        if _fits(count, blobs, (8, 8, 1, 8)):
            yield (count, channel_id.to_bytes(2, "little") * count, *blobs)
        else:
            lost.add(count)


def read_records(connection: sqlite3.Connection, lost: Lost) -> Iterator[PackedRecords]:
    """Yield what the devices said, in the order in which it was committed.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    query = (
        "SELECT n, field, t_mono_ns, value, status, reply, replies, crc32"
        " FROM record_batches ORDER BY id"
    )
    for count, *blobs, replies, crc32 in connection.execute(query):
        whole = _fits(count, blobs, (2, 8, 8, 1, 4)) and isinstance(replies, str)
        if whole and check_sum(b"".join([*blobs, replies.encode()])) == crc32:
            yield (count, *blobs, json.loads(replies))
        else:
            lost.add(count)


def _fits(count: object, blobs: list[Any], widths: tuple[int, ...]) -> bool:
    """Whether the columns are as long as the row says; a damaged row may hold anything."""
    return (
        isinstance(count, int)
        and [*map(type, blobs)] == [bytes] * len(widths)
        and [*map(len, blobs)] == [count * width for width in widths]
    )
