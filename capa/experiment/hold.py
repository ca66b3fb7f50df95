"""Holding a method: its time stands still, as on a programmer whose HOLD was pressed.

While held, no step begins (but a ``safe_shutdown``: cooling is never held up), a ramp stays
where it is, and what is left of a dwell or a time-out is left when the hold is released. An end
condition that comes true meanwhile ends its step; the next one then waits.
"""

import math
from collections.abc import Callable
from types import TracebackType

import trio

__all__ = ["Hold", "HoldTimer"]

Moved = Callable[[float], None]


class HoldTimer:
    """A block with a deadline that moves along with every hold; see ``Hold.timer``."""

    def __init__(self, hold: "Hold", deadline_s: float, moved: Moved) -> None:
        self._hold = hold
        self._moved = moved
        self._scope = trio.CancelScope(deadline=deadline_s)
        self._left_s = math.inf

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._hold._timers.append(self)  # noqa: SLF001 - two halves of one thing
        if self._hold.is_set():
            self.stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._hold._timers.remove(self)  # noqa: SLF001 - two halves of one thing
        return bool(self._scope.__exit__(kind, error, trace))

    def stop(self) -> None:
        """Keep what is left for later."""
        self._left_s = self._scope.deadline - trio.current_time()
        self._move(math.inf)

    def go_on(self) -> None:
        """Have what was left begin now."""
        self._move(trio.current_time() + self._left_s)

    def _move(self, deadline_s: float) -> None:
        self._scope.deadline = deadline_s
        self._moved(deadline_s)


class Hold:
    """One switch for all methods of a rig: whoever sets it, releases it."""

    def __init__(self) -> None:
        self._reason = ""
        self._released = trio.Event()
        self._released.set()
        self._timers: list[HoldTimer] = []

    @property
    def reason(self) -> str:
        """Why the method is held; empty when it is not."""
        return self._reason

    def is_set(self) -> bool:
        """Whether the method is held."""
        return not self._released.is_set()

    def set(self, reason: str) -> None:
        """Hold; held already, only the reason changes."""
        self._reason = reason
        if not self.is_set():
            self._released = trio.Event()
            for timer in self._timers:
                timer.stop()

    def release(self) -> None:
        """Go on."""
        if self.is_set():
            self._reason = ""
            self._released.set()
            for timer in self._timers:
                timer.go_on()

    async def released(self) -> None:
        """Return once nothing is held."""
        await self._released.wait()

    def timer(self, deadline_s: float, moved: Moved) -> HoldTimer:
        """Return a block that is left at ``deadline_s``, which moves along with every hold.

        ``moved`` hears where the deadline is now; infinity while held.
        """
        return HoldTimer(self, deadline_s, moved)
