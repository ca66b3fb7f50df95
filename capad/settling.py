"""When a dropped file has been still for long enough to be taken. Pure; the caller has the clock.

A file is still while its size, time of change and inode are. It is looked at twice at least; what
its own time of change proves (it was renamed here 75 ms ago, and not touched since) counts, so
that the watcher's delay is not paid twice.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Settling", "Stamp"]

MIN_WATCH_S = 0.05
"""The least time between the two looks."""
TOGETHER_S = 0.05
"""Files that become still this close together are taken together, in the order of their names."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What one look at a file saw.

    ``age_s`` is the time since it last changed, by the wall; ``changed_ns`` when that was: for a
    file that was moved here, when it was.
    """

    inode: int
    size: int
    mtime_ns: int
    mode: int
    uid: int
    age_s: float = 0.0
    changed_ns: int = 0

    def same_as(self, other: "Stamp") -> bool:
        """Whether nothing happened to the file between the looks."""
        mine = (self.inode, self.size, self.mtime_ns, self.mode)
        return mine == (other.inode, other.size, other.mtime_ns, other.mode)


@dataclass(frozen=True, slots=True)
class _Watched:
    stamp: Stamp
    ready_at_s: float


class Settling:
    """The files in ``incoming/`` that are not still yet, or wait for their neighbours."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._watched: dict[str, _Watched] = {}

    def __len__(self) -> int:
        """Return how many files have not been taken yet."""
        return len(self._watched)

    def look(self, seen: Mapping[str, Stamp], now_s: float) -> None:
        """Take what is there now; what is gone is forgotten."""
        self._watched = {
            name: self._after_look(self._watched.get(name), stamp, now_s)
            for name, stamp in seen.items()
        }

    def due(self, now_s: float) -> list[tuple[str, Stamp]]:
        """Return the files to take now, in the order of their names."""
        ready = [(n, w) for n, w in self._watched.items() if w.ready_at_s <= now_s]
        if not ready or self._worth_waiting(min(w.ready_at_s for _, w in ready), now_s):
            return []
        return [(n, w.stamp) for n, w in sorted(ready, key=lambda item: os.fsencode(item[0]))]

    def next_at_s(self, now_s: float) -> float | None:
        """When to look again, if nothing happens before; None when nothing is being watched."""
        ahead = [w.ready_at_s for w in self._watched.values() if w.ready_at_s > now_s]
        return min(ahead, default=None)

    def forget(self, name: str) -> None:
        """Stop watching a file that was taken."""
        self._watched.pop(name, None)

    def _after_look(self, before: _Watched | None, stamp: Stamp, now_s: float) -> _Watched:
        if before is not None and before.stamp.same_as(stamp):
            return before
        known_s = 0.0
        if before is None:
            known_s = max(0.0, min(stamp.age_s, self._settle_s - MIN_WATCH_S))
        return _Watched(stamp, now_s + self._settle_s - known_s)

    def _worth_waiting(self, first_ready_at_s: float, now_s: float) -> bool:
        soon = any(
            now_s < watched.ready_at_s <= now_s + TOGETHER_S for watched in self._watched.values()
        )
        return soon and now_s < first_ready_at_s + TOGETHER_S
