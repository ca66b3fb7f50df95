"""Who has a bundle in hand: an flock on its folder, which the kernel drops when its holder dies."""

import fcntl
import os
from pathlib import Path

__all__ = ["FolderLock"]


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

    def release(self) -> None:
        """Give it back; nothing happens when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
