"""Packed data between the loop and the recorder's thread: counted, and bounded."""

from collections import deque

from capa.storage.inflight import Packed
from capa.storage.records import RecordBatch
from capa.storage.samples import ColumnBatch

__all__ = ["MAX_PENDING_VALUES", "Tally", "Waiting"]

MAX_PENDING_VALUES = 500_000
"""Half an hour of 300 samples/s, 13 MB; past this the oldest are dropped, and counted."""


class Tally:
    """How many values there were, and what became of them.

    ``taken`` and ``dropped`` are written by the loop only, ``stored`` by the thread only, so that
    no counter needs a lock.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.dropped = 0
        self.stored = 0

    @property
    def pending(self) -> int:
        """Values handed over, not stored yet and not dropped."""
        return self.taken - self.dropped - self.stored


class Waiting:
    """What waits to be stored: put by the loop, taken by the thread.

    Args:
        limit: how many values (samples and records together) may wait.
    """

    def __init__(self, limit: int = MAX_PENDING_VALUES) -> None:
        self.limit = limit
        self.samples = Tally()
        self.records = Tally()
        self._items: deque[Packed] = deque()

    def put(self, packed: tuple[Packed, ...]) -> None:
        """Take data, and drop the oldest that are past the bound."""
        self._items.extend(packed)
        for item in packed:
            if (tally := self._tally(item)) is not None:
                tally.taken += _count(item)
        while self.samples.pending + self.records.pending > self.limit:
            try:
                oldest = self._items.popleft()
            except IndexError:  # the thread has just taken the last one
                break
            if (tally := self._tally(oldest)) is not None:
                tally.dropped += _count(oldest)

    def take(self) -> list[Packed]:
        """Return all there is."""
        taken: list[Packed] = []
        while self._items:
            try:
                taken.append(self._items.popleft())
            except IndexError:  # the loop has just dropped the last one
                break
        return taken

    def stored(self, items: list[Packed]) -> None:
        """Count what has been stored."""
        for item in items:
            if (tally := self._tally(item)) is not None:
                tally.stored += _count(item)

    def _tally(self, item: Packed) -> Tally | None:
        if isinstance(item, ColumnBatch):
            return self.samples
        return self.records if isinstance(item, RecordBatch) else None


def _count(item: Packed) -> int:
    return item.count if isinstance(item, ColumnBatch | RecordBatch) else 1
