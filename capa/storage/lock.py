"""Who has a bundle in hand: an flock on its folder, which the kernel drops when its holder dies."""

import fcntl
import os
import time
from pathlib import Path

__all__ = ["FolderLock", "is_held"]

_AGAIN_S = 0.05


class FolderLock:
    """An exclusive lock on a folder; a writer holds it, and so does whoever finalizes.

    Without it, finalizing a bundle that is still being written would take its file away.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; False when another process or writer has it.

        Raises:
            OSError: the folder cannot be opened, or its file system has no locks.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(self._path, flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def acquire_within(self, timeout_s: float) -> bool:
        """Take the lock, waiting for it at most so long; False when it is still held then.

        Raises:
            OSError: as ``acquire``.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self.acquire():
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_AGAIN_S)
        return True

    def release(self) -> None:
        """Give it back; nothing happens when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(path: Path) -> bool:
    """Whether somebody has a folder in hand just now; False where that can't be found out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)  # and with it the lock, after an instant
    return False
