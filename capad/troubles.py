"""What is wrong with the spool's disk just now: a state with a name for each thing not done."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from capad.jobs import shown_name

__all__ = ["Troubles"]

_WHY = {
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EACCES: "the daemon lacks the permission",
    errno.EPERM: "the daemon lacks the permission",
    errno.EXDEV: "the spool's folders must lie on one file system",
}
_TRIED_AGAIN = "tried again until it is mended"


@dataclass(slots=True)
class _Trouble:
    words: str
    last_s: float
    lasts: bool


class Troubles:
    """Each is told of once, and lasts until what could not be done is done, or given up.

    One that is mended by something else would come and go while nothing has changed: a full disk
    lets folders be read, and one folder without its permission leaves the others writable.
    """

    def __init__(self, root: Path, log: FilteringBoundLogger) -> None:
        self._root = root
        self._log = log
        self._open: dict[str, _Trouble] = {}

    @property
    def words(self) -> str | None:
        """The one that has lasted longest; None when all is well."""
        return next((trouble.words for trouble in self._open.values()), None)

    def begin(self, what: str, error: OSError, *, then: str = "") -> None:
        """Take notice that something could not be done; ``what`` says so, and names it.

        ``then`` says what becomes of it, where it is not tried again: it lasts until ``end``.
        """
        why = _WHY.get(error.errno or 0, error.strerror or str(error))
        if error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(self._root):
            why = f"{shown_name(os.fsdecode(error.filename))}: {why}"
        words = f"spool {self._root}: {what}: {why}; {then or _TRIED_AGAIN}"
        known = self._open.get(what)
        if known is None or known.words != words:
            self._log.error("spool.trouble", message=words)
        if known is None:
            self._open[what] = _Trouble(words, trio.current_time(), bool(then))
        else:
            known.words, known.last_s = words, trio.current_time()

    def end(self, what: str) -> None:
        """Take notice that it was done."""
        self._open.pop(what, None)

    def given_up(self, after_s: float) -> list[str]:
        """Return what has not failed again for so long: nobody tries it any more."""
        before_s = trio.current_time() - after_s
        return [
            what
            for what, trouble in self._open.items()
            if trouble.last_s < before_s and not trouble.lasts
        ]
