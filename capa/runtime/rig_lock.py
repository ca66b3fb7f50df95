"""One master per rig: daemon, guardian and foreground tools keep out of each other's way.

The lock is an ``flock`` on a file in the runtime directory, which the kernel drops when its holder
dies.
The ports have locks of their own; this one also covers TCP, and says who it is before a byte is
sent.
"""

import fcntl
import os
import time
from pathlib import Path

from capa.errors import CapaError

__all__ = ["LOCK_FILE", "RigBusyError", "RigLock"]

LOCK_FILE = "capad.lock"
PATIENCE_S = 0.5
"""A guardian looks for a moment, and holds the lock as long as it looks."""


class RigBusyError(CapaError):
    """Somebody else drives this rig."""


class RigLock:
    """Held from ``acquire`` until ``release`` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, and write our pid beside it; blocks for at most half a second.

        Raises:
            RigBusyError: another process has it; its pid is named.
            OSError: the folder can't be used.
        """
        if self._descriptor is not None:
            return
        # late: `capa --help` needs none of it
        from capa.storage.atomic import make_folder, open_for_folder

        make_folder(self._path.parent)
        # The folder's owner's: else root's would be closed to the daemon for good.
        descriptor = open_for_folder(self._path, os.O_RDWR, mode=0o640)
        _take(descriptor, self._path.parent)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def acquire_if_there(self, *, make: bool = False) -> None:
        """Take the lock where there is a runtime directory: without one no daemon can be at work.

        On a box one may be started any time: with ``make``, the folder is made.

        Raises:
            RigBusyError: another process has it, or that can't be seen, or nobody would see ours.
        """
        if not make and not self._path.parent.is_dir():
            return
        try:
            self.acquire()
        except OSError as error:
            raise RigBusyError(
                f"whether capad drives the rig can't be seen: {self._path}: {error.strerror}; "
                "run this as root or as the daemon's user"
            ) from error

    def is_there(self) -> bool:
        """Whether there is a file that somebody could hold; where nobody may look, there may be."""
        try:
            self._path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _take(descriptor: int, directory: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not _locked(descriptor):
        if time.monotonic() > deadline_s:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise RigBusyError(
                f"another program drives this rig (pid {holder or 'unknown'} holds "
                f"{directory / LOCK_FILE}); two at once would undo each other's safe state: "
                "end it first (systemctl stop capad)"
            )
        time.sleep(0.01)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
