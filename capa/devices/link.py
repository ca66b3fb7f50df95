"""A byte pipe as an adapter sees it: one exchange at a time, served by priority."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Generic, Protocol, TypeVar

import trio

from capa.devices.spec import LinkSpec

__all__ = ["Answer", "Connector", "Link", "LinkStats", "Priority", "late_s", "unanswered_s"]

ReplyT = TypeVar("ReplyT")

LATE_MIN_S: Final = 0.5


def late_s(reply_timeout_s: float) -> float:
    """How long after its deadline a reply is still expected, and the line kept free for it."""
    return max(reply_timeout_s, LATE_MIN_S)


def unanswered_s(spec: LinkSpec) -> float:
    """How long a question that nobody answers keeps a line from its other devices."""
    return spec.reply_timeout_s + late_s(spec.reply_timeout_s)


class Priority(IntEnum):
    """Who goes first when the pipe is free. Lower is sooner; equals are served in order."""

    SAFE = 0
    COMMAND = 1
    POLL = 2


@dataclass(frozen=True, slots=True)
class Answer(Generic[ReplyT]):
    """A decoded reply, and when the exchange happened on trio's clock."""

    value: ReplyT
    sent_at_s: float
    received_at_s: float

    @property
    def at_s(self) -> float:
        """The midpoint: the best guess of when the device looked at its sensor."""
        return (self.sent_at_s + self.received_at_s) / 2


@dataclass(slots=True)
class LinkStats:
    """Counters since the link was made."""

    exchanges: int = 0
    timeouts: int = 0
    frame_errors: int = 0
    drained_bytes: int = 0
    reconnects: int = 0


class Link(Protocol):
    """One exchange at a time over one pipe.

    A deadline that fired, or a reply that did not fit, leaves the pipe *out of step*: it is
    drained before the next request. A lost pipe is opened again by the link itself, with
    back-off, and while it is down every exchange fails at once with ``LinkClosedError``.
    """

    @property
    def name(self) -> str:
        """The name in the profile."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether the pipe is open."""
        ...

    @property
    def stats(self) -> LinkStats:
        """Counters since the link was made."""
        ...

    def hush(self, for_s: float) -> None:
        """Let no poll begin for so long: somebody urgent is about to speak."""
        ...

    async def exchange(
        self,
        request: bytes,
        feed: Callable[[bytes], ReplyT | None],
        *,
        priority: Priority = Priority.POLL,
        reply_timeout_s: float | None = None,
        gap_s: float = 0.0,
    ) -> Answer[ReplyT]:
        """Send ``request``; hand every chunk that arrives to ``feed`` until it returns a reply.

        ``feed`` is made fresh for each exchange (it may keep what it has seen), returns None
        while the reply is incomplete, and raises ``FrameError`` for bytes that are not the
        reply to this request. ``gap_s`` is the silence that the protocol wants before the
        request, counted from the last byte on the pipe in either direction. ``reply_timeout_s``
        is how long this device may take to answer this (None: what the profile says of the
        link); the time that the characters need on the wire is added.

        Raises:
            LinkTimeoutError: no complete reply within the deadline.
            LinkClosedError: the pipe is down.
            FrameError: what ``feed`` raised.
        """
        ...


Connector = Callable[[LinkSpec], Awaitable[trio.abc.Stream]]
"""Opens the pipe of a link. An entry point in the group ``capa.links``.

Raises ``LinkClosedError`` naming the port, the reason and the remedy."""
