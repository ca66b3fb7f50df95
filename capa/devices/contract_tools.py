"""What the contract's tests are made with: cancellations, time limits, hearing and comparing."""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import trio

from capa.devices.adapter import Reading
from capa.devices.link import Answer, Link, LinkStats, Priority
from capa.devices.twin import SpeaksUnasked, TwinDevice

__all__ = ["CancelAtStep", "PriorityHeard", "alike", "by_field", "in_time", "raises", "said"]

_LOOK_S = 0.1

T = TypeVar("T")


async def in_time(doing: Awaitable[T], limit_s: float, what: str) -> T:
    """Await what must come to an end, be it an error; a hang is an AssertionError."""
    with trio.move_on_after(limit_s):
        return await doing
    raise AssertionError(f"{what} has not ended after {limit_s:g} s")


async def raises(call: Awaitable[object], expected: type[Exception]) -> None:
    """Await what must fail in one way; any other is that error, and none an AssertionError."""
    try:
        await call
    except expected:
        return
    raise AssertionError(f"no {expected.__name__} was raised")


async def said(twin: TwinDevice, chunks: Iterable[bytes], within_s: float) -> bytes:
    """Return what a twin says to a request that comes in these pieces; empty if nothing.

    One that speaks unasked may have to wait for a condition: then the first that it says within
    that time is its answer. What was due before it was asked is none.
    """
    unasked = twin.unasked if isinstance(twin, SpeaksUnasked) else None
    if unasked is not None:
        unasked()
    found = [reply.data for chunk in chunks for reply in twin.receive(chunk)]
    until_s = trio.current_time() + within_s
    while not found and unasked is not None and trio.current_time() < until_s:
        await trio.sleep(min(_LOOK_S, within_s))
        found = [reply.data for reply in unasked()]
    return b"".join(found)


class PriorityHeard:
    """A link that notes what it is asked, and with which priority."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.priorities: list[Priority] = []
        self.requests: list[bytes] = []

    @property
    def name(self) -> str:
        """Of the link."""
        return self._link.name

    @property
    def is_up(self) -> bool:
        """Of the link."""
        return self._link.is_up

    @property
    def stats(self) -> LinkStats:
        """Of the link."""
        return self._link.stats

    def hush(self, for_s: float) -> None:
        """Pass it on."""
        self._link.hush(for_s)

    async def exchange(
        self,
        request: bytes,
        feed: Callable[[bytes], T | None],
        *,
        priority: Priority = Priority.POLL,
        reply_timeout_s: float | None = None,
        gap_s: float = 0.0,
    ) -> Answer[T]:
        """Note it and pass it on."""
        self.priorities.append(priority)
        self.requests.append(request)
        return await self._link.exchange(
            request, feed, priority=priority, reply_timeout_s=reply_timeout_s, gap_s=gap_s
        )


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when the task that entered it has taken so many steps since.

    A step is what a task does between two awaits that let others run, so every await that can be
    cancelled is reached by counting them.
    """

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step
        self._task = trio.lowlevel.current_task()

    def __enter__(self) -> "CancelAtStep":
        if self._left == 0:
            self._scope.cancel()
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        trio.lowlevel.remove_instrument(self)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the task's steps."""
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


def by_field(readings: Sequence[Reading]) -> dict[str, Reading]:
    """Return readings by their field; of two of one field, the later."""
    return {reading.field: reading for reading in readings}


def alike(
    truth: Mapping[str, Reading], seen: Mapping[str, Reading], slack: float, *, all_usable: bool
) -> str:
    """Say what is different between readings that should be the same; empty if nothing is.

    A reading that says by its status that it must not be believed is not wrong; with
    ``all_usable`` it is, where it was usable before.
    """
    for name, reading in seen.items():
        before = truth.get(name)
        if before is None:
            return f"{name} has not been read before"
        if not before.status.usable or math.isnan(before.value):
            continue
        if not reading.status.usable:
            if all_usable:
                return f"{name} is {reading.status}"
            continue
        if not abs(reading.value - before.value) <= slack + 0.01 * abs(before.value):
            return f"{name} reads {reading.value}, not {before.value}"
    return ""
