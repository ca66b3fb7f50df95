"""The recorder: one thread that takes what a run says and commits it, in order, in batches."""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from capa.storage.events import URGENT
from capa.storage.inflight import EventRow, EventStore, SampleStore
from capa.storage.samples import ColumnBatch
from capa.storage.syncer import Syncer

__all__ = ["MAX_PENDING_SAMPLES", "Recorder"]

MAX_PENDING_SAMPLES = 500_000
"""Half an hour of 300 samples/s, 13 MB; past this the oldest are dropped, and counted."""

_RETRY_S = 0.5
_MAX_LOG_BYTES = 4 * 1024 * 1024

_Item = EventRow | bytes | int | None


class Recorder:
    """Takes events, log lines and column batches from the loop, commits them from its thread.

    Every counter has one writer, so none needs a lock: ``taken``, ``batched`` and ``dropped``
    belong to the loop, ``committed``, ``stored`` and ``answered`` to the thread.

    A disk that is full, read-only or gone is a state, ``failed``, with words: events are kept in
    memory and tried again, samples too, up to their bound.

    Args:
        events: where events go; from the start of the thread on, used only there.
        samples: where samples go.
        log: run.log, JSON lines.
        syncer: told of every commit; None: nothing is synced before the end (tests, rehearsals).
        on_change: called from the thread after each commit, each answered ping and each failure.
    """

    def __init__(
        self,
        events: EventStore,
        samples: SampleStore,
        log: Path,
        *,
        syncer: Syncer | None,
        on_change: Callable[[], None],
        max_pending_samples: int = MAX_PENDING_SAMPLES,
    ) -> None:
        self._events = events
        self._samples = samples
        self._log = log
        self._syncer = syncer
        self._on_change = on_change
        self._max_pending_samples = max_pending_samples
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._batches: deque[ColumnBatch] = deque()
        self._todo_events: list[EventRow] = []
        self._todo_log: list[bytes] = []
        self._todo_batches: list[ColumnBatch] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._behind_since_s = 0.0
        self._descriptor: int | None = None
        self.failed: str | None = None
        self.last_failure: str | None = None
        self.taken = 0
        self.batched = 0
        self.dropped = 0
        self.committed = 0
        self.stored = 0
        self.answered = 0
        self.failures = 0

    # --- on the loop ---------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; without one, ``pump`` does the work where it is called."""
        self._thread = threading.Thread(target=self._run, name="capa-recorder", daemon=True)
        self._thread.start()

    def put_event(self, row: EventRow) -> None:
        """Queue an event; it is never dropped."""
        if self.taken == self.committed:
            self._behind_since_s = time.monotonic()
        self.taken += 1
        self._queue.put(row)

    def put_log(self, line: bytes) -> None:
        """Queue a line of run.log."""
        self._queue.put(line)

    def put_batches(self, batches: tuple[ColumnBatch, ...]) -> None:
        """Queue samples, and drop the oldest that are past the bound."""
        self._batches.extend(batches)
        self.batched += sum(batch.count for batch in batches)
        while self.pending_samples > self._max_pending_samples:
            try:
                self.dropped += self._batches.popleft().count
            except IndexError:
                break
        self._queue.put(None)

    def ping(self, number: int) -> None:
        """Ask the thread for a sign of life; ``answered`` becomes ``number``."""
        self._queue.put(number)

    @property
    def pending_events(self) -> int:
        """Events taken and not committed yet."""
        return self.taken - self.committed

    @property
    def pending_samples(self) -> int:
        """Samples handed over, not stored yet and not dropped."""
        return self.batched - self.dropped - self.stored

    @property
    def lag_s(self) -> float:
        """For how long the file has been behind the run; 0 when every event is committed."""
        return time.monotonic() - self._behind_since_s if self.pending_events else 0.0

    def stop(self, timeout_s: float) -> None:
        """Commit what is left, sync, close; at most about ``timeout_s``, whatever the disk does.

        What could not be written in that time stays counted as pending, and ``failed`` says why.
        """
        deadline_s = time.monotonic() + timeout_s
        self._stopping.set()
        if self._thread is None:
            self.pump()
        else:
            self._queue.put(None)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self.fail(f"the disk has not answered for {timeout_s:g} s")
                return
        if self._syncer is not None:
            self._syncer.stop(max(0.1, deadline_s - time.monotonic()))
        self._close()

    # --- in the thread -------------------------------------------------------------------

    def pump(self) -> None:
        """Take all that is queued and commit it; the whole work when there is no thread."""
        self._sort(block=False)
        self._commit()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._sort(block=True)
            while not self._commit() and not self._stopping.wait(_RETRY_S):
                self._sort(block=False)
        self.pump()

    def _sort(self, *, block: bool) -> None:
        """Move everything queued to the lists of what is to be done."""
        try:
            item = self._queue.get(block=block)
            while True:
                if item is None:
                    pass
                elif isinstance(item, EventRow):
                    self._todo_events.append(item)
                elif isinstance(item, bytes):
                    self._todo_log.append(item)
                else:
                    self.answered = item
                item = self._queue.get_nowait()
        except Empty:
            return

    def _commit(self) -> bool:
        """Commit what there is to do; False, with words in ``failed``, when the disk refuses."""
        try:
            urgent = self._commit_events()
            written = self._commit_samples() | self._write_log()
        except (sqlite3.Error, OSError) as error:
            self.fail(f"the recorder cannot write {self._log.parent}: {error}")
            return False
        if self._syncer is not None and (written or urgent is not None):
            self._syncer.dirty(urgent=bool(urgent))
        self.failed = None
        self._on_change()
        return True

    def _commit_events(self) -> bool | None:
        """Commit events, tell who waits; None: there were none, else whether one is urgent."""
        rows = self._todo_events
        if not rows:
            return None
        self._events.write(rows)
        self._todo_events = []
        self.committed += len(rows)
        self._on_change()
        return any(row.severity in URGENT for row in rows)

    def _commit_samples(self) -> bool:
        if not self._todo_batches:
            while self._batches:
                try:
                    self._todo_batches.append(self._batches.popleft())
                except IndexError:  # the loop has just dropped the last one
                    break
        if not self._todo_batches:
            return False
        self._samples.write(self._todo_batches)
        self.stored += sum(batch.count for batch in self._todo_batches)
        self._todo_batches = []
        return True

    def _write_log(self) -> bool:
        if not self._todo_log:
            return False
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._log, flags, 0o644)
        data = b"".join(self._todo_log)
        self._todo_log = []
        while data:
            data = data[os.write(self._descriptor, data) :]
        return True

    def fail(self, words: str) -> None:
        """Go into the failed state; the next commit that succeeds ends it."""
        self.failed = self.last_failure = words
        self.failures += 1
        self._on_change()

    def sync_failed(self, words: str) -> None:
        """Take the syncer's complaint, from its thread."""
        self.fail(words)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        for store in (self._events, self._samples):
            try:
                store.close()
            except sqlite3.Error as error:
                self.fail(f"closing the recorder's files: {error}")
