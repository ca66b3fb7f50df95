"""One open byte pipe: who hears its bytes, and whether it is in step."""

import math
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, cast

import trio

from adapters.links.waiting import Wakeup
from capa.devices.link import Answer, LinkStats, late_s
from capa.errors import FrameError

__all__ = ["LOST", "Pipe"]

ReplyT = TypeVar("ReplyT")

LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, termios.error)
"""What a vanished port can raise; ``termios.error`` is not an ``OSError``."""

LONGEST_REPLY: Final = 256
"""Characters: the longest reply of the protocols here (a Modbus RTU frame)."""


class _Flushable(Protocol):
    def receive_nowait(self) -> bytes: ...


class _Awaited:
    """The reply that is being waited for."""

    __slots__ = ("_feed", "at_s", "deadline", "last_s", "pause_s", "seen", "wakeup")

    def __init__(
        self,
        feed: Callable[[bytes], Any],
        deadline: trio.CancelScope,
        *,
        pause_s: float,
        last_s: float,
    ) -> None:
        self._feed = feed
        self.deadline = deadline
        self.pause_s = pause_s
        self.last_s = last_s
        self.wakeup: Wakeup[Any] = Wakeup()
        self.seen = 0
        self.at_s = math.nan

    def take(self, chunk: bytes, at_s: float) -> None:
        self.seen += len(chunk)
        try:
            reply = self._feed(chunk)
        except Exception as error:  # noqa: BLE001 - the decoder is the caller's, and so is its error
            self.wakeup.fail(error)
            return
        if reply is not None:
            self.at_s = at_s
            self.wakeup.deliver(reply)
        elif at_s + self.pause_s > self.deadline.deadline:
            self.deadline.deadline = min(at_s + self.pause_s, self.last_s)


class Pipe:
    """A stream, and the state that says when the next request may go out on it.

    One task, ``pump``, reads; so a byte that belongs to nobody is seen and discarded when it
    comes, and a lost port is noticed while nothing is asked of it.

    A serial line has no transaction numbers. A reply that comes after its deadline looks like
    the reply to the next request (same address, function, length). So the pipe is *in step* only
    after a complete exchange. Otherwise the next request waits:

    - After a deadline or a cancellation one reply is *owed*. It is awaited for as long again as
      the device was given (``late_s``). Once bytes come, the debt is paid.
    - After any byte that belongs to no exchange, and on a pipe just opened, the line must first
      be quiet for ``quiet_s``: a USB adapter's latency timer (16 ms) and four characters.

    An exchange begun while a reply is still owed (the time is over, or a safe-state write did
    not wait for it) is *doubtful*: its reply counts only if no second one follows it.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        quiet_s: float,
        stats: LinkStats,
        character_s: float = 0.0,
    ) -> None:
        self._stream = stream
        self._pause: Callable[[float], Awaitable[None]] = getattr(stream, "pause", trio.sleep)
        self._quiet_s = quiet_s
        self._character_s = character_s
        self._stats = stats
        self._awaited: _Awaited | None = None
        self._in_step = False
        self._owed = 0
        self._owed_until_s = -math.inf
        self._heard_at_s = trio.current_time()
        self._said_at_s = -math.inf
        self._stir: trio.Event | None = None
        self._pumping = trio.CancelScope()
        self.lost: str | None = None

    # --- the reading side -------------------------------------------------------------------

    async def pump(self) -> str:
        """Read until the pipe is lost or ``lose`` is called; return why."""
        with self._pumping:
            try:
                while chunk := await self._stream.receive_some():
                    self._take(bytes(chunk))
            except LOST as error:
                self.lose(str(error) or type(error).__name__)
            else:
                self.lose("the other end hung up")
        return self.lost or "closed"

    def lose(self, reason: str) -> None:
        """Declare the pipe lost, end the pump and fail the exchange in progress."""
        if self.lost is None:
            self.lost = reason
        self._pumping.cancel()
        if self._awaited is not None:
            self._awaited.wakeup.fail(trio.BrokenResourceError(self.lost))
        self.stir()

    async def aclose(self) -> None:
        """Close the stream, even a broken one."""
        with suppress(*LOST):
            await self._stream.aclose()

    def _take(self, chunk: bytes) -> None:
        now_s = trio.current_time()
        parted = now_s - self._heard_at_s > self._quiet_s
        self._heard_at_s = now_s
        if self._awaited is not None and self._awaited.wakeup.wanted:
            self._awaited.take(chunk, now_s)
            return
        self._stats.drained_bytes += len(chunk)
        self._in_step = False
        if parted and self._owed:
            self._owed -= 1
        self.stir()

    # --- being in step ----------------------------------------------------------------------

    def discard_waiting(self) -> None:
        """Discard what the operating system holds and the pump has not read yet."""
        if hasattr(self._stream, "receive_nowait"):
            try:
                chunk = cast("_Flushable", self._stream).receive_nowait()
            except LOST:
                return  # the pump will find out, and say so
            if chunk:
                self._take(chunk)

    def unsettled_s(self, now_s: float) -> float:
        """For how long the next request has to wait yet, if nothing more comes; 0 or less: go."""
        if self._in_step:
            return 0.0
        quiet_s = self._heard_at_s + self._quiet_s - now_s
        return max(quiet_s, self._owed_until_s - now_s) if self._owed else quiet_s

    def gap_left_s(self, gap_s: float, now_s: float) -> float:
        """How much is left of a silence of ``gap_s`` since the last byte in either direction."""
        return max(self._heard_at_s, self._said_at_s) + gap_s - now_s

    async def pause(self, for_s: float) -> None:
        """Wait as finely as the stream can: a silence on the wire is shorter than a tick."""
        with suppress(*LOST):  # what was closed meanwhile says so when it is sent to
            await self._pause(for_s)

    async def stirred(self, within_s: float) -> None:
        """Wait for a stray byte, for ``stir``, or for ``within_s``."""
        self._stir = trio.Event()
        with trio.move_on_after(within_s):
            await self._stir.wait()

    def stir(self) -> None:
        """Wake whoever waits in ``stirred``."""
        if self._stir is not None:
            self._stir.set()

    # --- one exchange -----------------------------------------------------------------------

    async def talk(
        self, request: bytes, feed: Callable[[bytes], ReplyT | None], timeout_s: float
    ) -> Answer[ReplyT] | int:
        """Send and await the reply; return it, or at the deadline the number of bytes seen.

        Once begun it is not cancelled: the deadline ends it.

        The deadline is the request's time on the wire and ``timeout_s``. A reply that is under
        way then may go on, as long as its bytes keep coming and the longest reply would.

        The pipe counts as out of step from the first byte on, so that an error, wherever it
        strikes, leaves the truth behind.

        Raises:
            FrameError: what ``feed`` raised, or two replies came where one could be late.
            Exception: one of ``LOST``; the pipe is then lost.
        """
        doubtful, doubt_until_s = self._owed > 0, self._owed_until_s
        drained = self._stats.drained_bytes
        sent_at_s = self._said_at_s = trio.current_time()
        due_s = sent_at_s + len(request) * self._character_s + timeout_s
        last_s = due_s + LONGEST_REPLY * self._character_s
        deadline = trio.CancelScope(deadline=due_s, shield=True)
        awaited = _Awaited(feed, deadline, pause_s=self._quiet_s, last_s=last_s)
        self._awaited = awaited
        self._in_step = False
        self._owed += 1
        self._owed_until_s = due_s + late_s(timeout_s)
        value: Any = None
        try:
            with deadline:
                await self._stream.send_all(request)
                value = await awaited.wakeup.wait()
        except FrameError:
            # A frame came, if not the right one. Ours may be on its way yet, within its time.
            self._owed = max(self._owed - 1, 1)
            self._owed_until_s = max(due_s, doubt_until_s)
            raise
        except LOST as error:
            self.lose(str(error) or type(error).__name__)
            raise
        finally:
            self._awaited = None
        if math.isnan(awaited.at_s):
            return awaited.seen
        if doubtful:
            self._owed -= 1
            # If the debtor's time was over, this is our reply; else ours may come as late as any.
            late = awaited.at_s < doubt_until_s
            with trio.CancelScope(shield=True):
                await self._hear_out(self._owed_until_s if late else -math.inf, drained)
        self._in_step = True
        self._owed = 0
        return Answer(value, sent_at_s, awaited.at_s)

    async def _hear_out(self, until_s: float, drained: int) -> None:
        """Make sure that nothing has come beyond ``drained`` bytes, while a reply may be late."""
        until_s = max(until_s, trio.current_time() + self._quiet_s)
        while self._stats.drained_bytes == drained:
            left_s = until_s - trio.current_time()
            if left_s <= 0:
                return
            await self.stirred(left_s)
        raise FrameError(
            "two replies came, one of them late; which is which is unknown", fault="late"
        )
