"""One daemon per spool: a lock that the kernel drops when its holder dies."""

import fcntl
import os
from pathlib import Path

from capa.config.problems import Problem, ProblemsError

__all__ = ["SpoolLock"]


class SpoolLock:
    """Held from ``acquire`` until the process ends or ``release``; the file holds the pid."""

    def __init__(self, root: Path) -> None:
        self._path = root / ".capad.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ProblemsError: another daemon has it, or the folder can't be used.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Kept open for reading only: a file open for writing would keep the file system from
            # being made read-only.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            message = f"the spool can't be used: {error.strerror}"
            hint = "make the folder, writable for the daemon, or set spool.root"
            raise _refusal("spool.unusable", message, self._path.parent, hint) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            message = f"another daemon works on this spool (pid {holder})"
            hint = "end it first, or give this one a spool of its own (--spool)"
            raise _refusal("spool.taken", message, self._path.parent, hint) from None
        self._path.write_text(f"{os.getpid()}\n")
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _refusal(code: str, message: str, place: Path, hint: str) -> ProblemsError:
    return ProblemsError([Problem(code, message, file=str(place), hint=hint)])
