"""What a task on a link waits for: its turn, and its reply."""

import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import trio

__all__ = ["Turns", "Wakeup"]

T = TypeVar("T")


class Wakeup(Generic[T]):
    """One result for one waiting task, given at most once.

    An exchange needs one of these, or two when the link is busy, and no nursery and no channel:
    a poll should cost microseconds. Whoever gives the result decides; a cancellation that comes
    later no longer reaches the waiter (trio delivers either, never both).
    """

    __slots__ = ("_error", "_task", "_value", "abandoned", "done")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._value: T | None = None
        self._error: Exception | None = None
        self.done = False
        self.abandoned = False

    @property
    def wanted(self) -> bool:
        """Whether a result can still be given."""
        return not (self.done or self.abandoned)

    def deliver(self, value: T) -> None:
        """Hand over the result; does nothing if one was given or nobody waits any more."""
        if self.wanted:
            self._value = value
            self._wake()

    def fail(self, error: Exception) -> None:
        """Have ``wait`` raise ``error``, under the same conditions as ``deliver``."""
        if self.wanted:
            self._error = error
            self._wake()

    async def wait(self) -> T:
        """Return the result; returns without a checkpoint if it is there already."""
        if not self.done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def _wake(self) -> None:
        self.done = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self.abandoned = True
        return trio.lowlevel.Abort.SUCCEEDED


@dataclass(order=True, slots=True)
class _Place:
    """A place in the queue; ``order`` keeps equals in the order in which they came."""

    priority: int
    order: int
    turn: Wakeup[None] = field(compare=False)


class Turns:
    """A lock that is handed to the most urgent waiter.

    The holder passes the turn on by hand-over: it is never free in between, so a newcomer
    cannot jump the queue. A waiter that was cancelled stays in the heap, and is skipped.
    """

    def __init__(self) -> None:
        self._heap: list[_Place] = []
        self._taken = False

    async def take(self, priority: int, order: int) -> None:
        """Return holding the turn; without a checkpoint if it is free.

        Raises:
            Exception: what ``fail_all`` was called with, while waiting.
        """
        if not self._taken:
            self._taken = True
            return
        turn: Wakeup[None] = Wakeup()
        heapq.heappush(self._heap, _Place(priority, order, turn))
        await turn.wait()

    def pass_on(self) -> None:
        """Give the turn away; only its holder may."""
        while self._heap:
            place = heapq.heappop(self._heap)
            if not place.turn.abandoned:
                place.turn.deliver(None)
                return
        self._taken = False

    def wanted_before(self, priority: int) -> bool:
        """Whether somebody more urgent than ``priority`` waits."""
        while self._heap and self._heap[0].turn.abandoned:
            heapq.heappop(self._heap)
        return bool(self._heap) and self._heap[0].priority < priority

    def fail_all(self, error: type[Exception], message: str) -> None:
        """Send every waiter away with an error of its own."""
        places, self._heap = self._heap, []
        for place in places:
            place.turn.fail(error(message))
