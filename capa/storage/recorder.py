"""The recorder: one thread that takes what a run says and commits it, in order, in batches."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from capa.storage.events import URGENT
from capa.storage.inflight import EventRow, EventStore, InflightStore, Packed
from capa.storage.pending import Waiting
from capa.storage.syncer import Syncer

__all__ = ["Recorder"]

_RETRY_S = 0.5
_MAX_LOG_BYTES = 4 * 1024 * 1024

_Item = EventRow | bytes | int | None


class Recorder:
    """Takes events, log lines and packed data from the loop, commits them from its thread.

    Every counter has one writer, so none needs a lock: ``taken`` belongs to the loop,
    ``committed`` and ``answered`` to the thread.

    A disk that is full, read-only or gone is a state, ``failed``, with words: events are kept in
    memory and tried again, samples too, up to their bound.

    Args:
        events: where events go; from the start of the thread on, used only there.
        inflight: where samples, records and health go.
        log: run.log, JSON lines.
        syncer: told of every commit; None: nothing is synced before the end (tests, rehearsals).
        on_change: called from the thread after each commit, each answered ping and each failure.
    """

    def __init__(
        self,
        events: EventStore,
        inflight: InflightStore,
        log: Path,
        *,
        syncer: Syncer | None,
        on_change: Callable[[], None],
    ) -> None:
        self._events = events
        self._inflight = inflight
        self._log = log
        self._syncer = syncer
        self._on_change = on_change
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self.waiting = Waiting()
        self._todo_events: list[EventRow] = []
        self._todo_log: list[bytes] = []
        self._todo_packed: list[Packed] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._behind_since_s = 0.0
        self._descriptor: int | None = None
        self._write_failure: str | None = None
        self._sync_failure: str | None = None
        self.last_failure: str | None = None
        self.taken = 0
        self.committed = 0
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

    def put_packed(self, packed: tuple[Packed, ...]) -> None:
        """Queue samples, records and health, and drop the oldest that are past the bound."""
        self.waiting.put(packed)
        self._queue.put(None)

    def ping(self, number: int) -> None:
        """Ask the thread for a sign of life; ``answered`` becomes ``number``."""
        self._queue.put(number)

    @property
    def pending_events(self) -> int:
        """Events taken and not committed yet."""
        return self.taken - self.committed

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
            self._commit_events()
            self._commit_packed()
            self._write_log()
        except (sqlite3.Error, OSError) as error:
            self.fail(f"the recorder cannot write {self._log.parent}: {error}")
            return False
        self._write_failure = None
        self._on_change()
        return True

    def _commit_events(self) -> None:
        """Commit events, have urgent ones synced at once, tell who waits."""
        rows = self._todo_events
        if not rows:
            return
        self._events.write(rows)
        self._todo_events = []
        self.committed += len(rows)
        self._dirty(urgent=any(row.severity in URGENT for row in rows))
        self._on_change()

    def _commit_packed(self) -> None:
        if not self._todo_packed:
            self._todo_packed = self.waiting.take()
        if not self._todo_packed:
            return
        self._inflight.write(self._todo_packed)
        self.waiting.stored(self._todo_packed)
        self._todo_packed = []
        self._dirty(urgent=False)

    def _write_log(self) -> None:
        """Write lines; of one that a full disk cut, the rest follows when there is room."""
        if not self._todo_log:
            return
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._log, flags, 0o644)
        data = b"".join(self._todo_log)
        self._todo_log = [data]
        while data:
            data = data[os.write(self._descriptor, data) :]
            self._todo_log = [data] if data else []
        self._dirty(urgent=False)

    def _dirty(self, *, urgent: bool) -> None:
        if self._syncer is not None:
            self._syncer.dirty(urgent=urgent)

    @property
    def failed(self) -> str | None:
        """Why nothing is written, or nothing survives a power cut, just now; in words."""
        return self._write_failure or self._sync_failure

    def fail(self, words: str) -> None:
        """Go into the failed state; the next commit that succeeds ends it."""
        self._write_failure = words
        self._failed(words)

    def sync_failed(self, words: str) -> None:
        """Take the syncer's complaint, from any thread; ``synced`` ends it."""
        self._sync_failure = words
        self._failed(words)

    def synced(self) -> None:
        """Hear from the syncer that all is well (again)."""
        self._sync_failure = None

    def _failed(self, words: str) -> None:
        self.last_failure = words
        self.failures += 1
        self._on_change()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        for store in (self._events, self._inflight):
            try:
                store.close()
            except sqlite3.Error as error:
                self.fail(f"closing the recorder's files: {error}")
