"""The thread that makes committed work survive a power cut: fdatasync, now and then a checkpoint.

It is not the recorder's thread, so that a disk that takes 50 ms for a sync never holds up the
event that a command is waiting for.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from capa.storage.atomic import fsync_dir, fsync_file
from capa.storage.inflight import connect, wal_of

__all__ = ["Syncer"]

SYNC_INTERVAL_S = 0.4
"""With a flush every 0.5 s nothing is older than a second when it is on the disk."""

CHECKPOINT_BYTES = 4 * 1024 * 1024


class Syncer:
    """Syncs the files it is told of: urgent ones at once, others within ``SYNC_INTERVAL_S``.

    Args:
        databases: SQLite files in WAL mode; what is synced is their WAL.
        logs: plain files.
    """

    def __init__(
        self,
        databases: Collection[Path],
        logs: Collection[Path],
    ) -> None:
        self._databases = {wal_of(path): path for path in databases}
        self._paths = (*self._databases, *logs)
        self.on_error: Callable[[str], None] = _ignore
        """Told, from this thread, what went wrong; the next round tries again."""
        self.on_synced: Callable[[], None] = _nothing
        """Told of each round that went well."""
        self._behind_since_s: float | None = None
        self._descriptors: dict[Path, int] = {}
        self._changed = threading.Condition()
        self._dirty = False
        self._urgent = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="capa-syncer", daemon=True)
        self.syncs = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def dirty(self, *, urgent: bool) -> None:
        """Say that something was committed; any thread."""
        with self._changed:
            if urgent or not self._dirty:
                self._changed.notify()
            if self._behind_since_s is None:
                self._behind_since_s = time.monotonic()
            self._dirty = True
            self._urgent = self._urgent or urgent

    @property
    def behind_s(self) -> float:
        """For how long there has been something that a power cut would take; 0: there is not."""
        since_s = self._behind_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def stop(self, timeout_s: float) -> bool:
        """Sync once more and end; return whether the thread has ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        next_at_s = 0.0
        try:
            while self._wait_for_work(next_at_s):
                self._sync()
                next_at_s = time.monotonic() + SYNC_INTERVAL_S
            self._sync()
        finally:
            for descriptor in self._descriptors.values():
                os.close(descriptor)

    def _wait_for_work(self, next_at_s: float) -> bool:
        """Wait until a sync is due; False when it is time to stop."""
        with self._changed:
            while not (self._dirty or self._stopping):
                self._changed.wait()
            while not (self._urgent or self._stopping):
                left_s = next_at_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            self._dirty = self._urgent = False
            return not self._stopping

    def _sync(self) -> None:
        began_s = time.monotonic()
        try:
            for path in self._paths:
                self._sync_file(path)
        except (OSError, sqlite3.Error) as error:
            self.on_error(f"the disk refuses to sync: {error}")
        else:
            with self._changed:  # what came meanwhile waits since the round began, at the longest
                self._behind_since_s = began_s if self._dirty else None
            self.on_synced()
        self.syncs += 1

    def _sync_file(self, path: Path) -> None:
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            if not path.exists():
                return
            descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if path in self._databases:  # SQLite throws away the WAL of a database of no bytes
                fsync_file(self._databases[path])
            fsync_dir(path.parent)
        os.fdatasync(descriptor)
        if path in self._databases and os.fstat(descriptor).st_size > CHECKPOINT_BYTES:
            _checkpoint(self._databases[path])


def _nothing() -> None:
    """Take good news before anybody has asked for news."""


def _ignore(words: str) -> None:
    """Take an error before anybody has asked for errors."""


def _checkpoint(path: Path) -> None:
    """Move the WAL into its database; passive, so that neither readers nor the writer wait."""
    connection = connect(path)
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    finally:
        connection.close()
