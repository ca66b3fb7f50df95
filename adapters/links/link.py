"""A link: one byte pipe, one exchange at a time, opened again whenever it is lost."""

import math
from collections.abc import Callable
from itertools import count
from typing import Final, TypeVar

import trio

from adapters.links.echo import behind_echo
from adapters.links.pipe import LOST, Pipe
from adapters.links.waiting import Turns
from capa.devices.link import Answer, Connector, LinkStats, Priority
from capa.devices.spec import LinkSpec
from capa.errors import FrameError, LinkClosedError, LinkTimeoutError

__all__ = ["StreamLink"]

ReplyT = TypeVar("ReplyT")

SAFE_HOLD_S: Final = 0.1
"""How long a safe-state write waits for a line that is out of step, before it goes out anyway."""
BABBLE_S: Final = 1.0
"""How long a line may keep talking, past the time of a late reply, before that is an error."""
BACKOFF_FIRST_S: Final = 0.1
STEADY_S: Final = 1.0
"""A pipe that lasted this long was a good one: the back-off starts again from the first step."""
CLOSE_S: Final = 2.0
QUIET_S: Final = 0.02
QUIET_CHARACTERS: Final = 4


def _ignore(_up: bool) -> None:
    """Nobody wants to know."""


def _quiet_s(spec: LinkSpec) -> float:
    """How long silence must last to be the end of what was being said."""
    return QUIET_S + QUIET_CHARACTERS * spec.character_s


class StreamLink:
    """``capa.devices.link.Link`` over whatever a connector opens.

    Everything about staying in step is in ``Pipe``. Here is who may speak: the most urgent
    waiter. A waiter that holds the turn only to let the line settle gives it back to a more urgent
    one. ``Priority.SAFE`` waits at most ``SAFE_HOLD_S`` for a line out of step, then speaks: that
    the write arrives matters more than that its reply is understood, and a reply that may be
    somebody else's is told by ``Pipe`` or refused by the codec, and asked for again.

    Args:
        spec: the link in the profile.
        connector: opens the pipe; called again after every loss.
        on_change: called with True when the pipe is up and False when it is lost.
    """

    def __init__(
        self,
        spec: LinkSpec,
        connector: Connector,
        *,
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        self._spec = spec
        self._connector = connector
        self.on_change = on_change or _ignore
        self._stats = LinkStats()
        self._turns = Turns()
        self._orders = count()
        self._pipe: Pipe | None = None
        self._up = trio.Event()
        self._hushed_until_s = -math.inf
        self._why_down = "not opened yet"
        self._quiet_s = _quiet_s(spec)

    @property
    def name(self) -> str:
        """The name in the profile."""
        return self._spec.name

    @property
    def spec(self) -> LinkSpec:
        """The link in the profile."""
        return self._spec

    @property
    def is_up(self) -> bool:
        """Whether the pipe is open."""
        return self._pipe is not None

    @property
    def why_down(self) -> str:
        """What the last attempt to open the pipe, or its end, said; empty while it is up."""
        return self._why_down

    @property
    def stats(self) -> LinkStats:
        """Counters since the link was made."""
        return self._stats

    async def up(self) -> None:
        """Return once the pipe is open."""
        while self._pipe is None:
            await self._up.wait()

    # --- the link's own task ----------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the pipe open until cancelled; started after the first attempt, good or bad."""
        backoff_s = BACKOFF_FIRST_S
        started = False
        while True:
            opened_at_s = trio.current_time()
            pipe = await self._open()
            if not started:
                task_status.started()
                started = True
            if pipe is not None:
                await self._serve(pipe)
                if trio.current_time() - opened_at_s > STEADY_S:
                    backoff_s = BACKOFF_FIRST_S
            await trio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, self._spec.reconnect_max_s)

    async def _open(self) -> Pipe | None:
        try:
            stream = await self._connector(self._spec)
        except LinkClosedError as error:
            self._why_down = str(error)
            return None
        except LOST as error:
            self._why_down = f"link {self.name}: {self._spec.port}: {error}; check the cable"
            return None
        pipe = Pipe(
            stream,
            quiet_s=self._quiet_s,
            stats=self._stats,
            character_s=self._spec.character_s,
        )
        self._pipe = pipe
        self._why_down = ""
        self._up.set()
        self.on_change(True)
        return pipe

    async def _serve(self, pipe: Pipe) -> None:
        try:
            self._why_down = self._lost(await pipe.pump())
            self._stats.reconnects += 1
        finally:
            self._forget(pipe)
            with trio.move_on_after(CLOSE_S, shield=True):
                await pipe.aclose()

    def _forget(self, pipe: Pipe) -> None:
        self._why_down = self._why_down or f"link {self.name} was closed"
        self._pipe = None
        self._up = trio.Event()
        pipe.lose(self._why_down)
        self._turns.fail_all(LinkClosedError, self._why_down)
        self.on_change(False)

    # --- exchanges --------------------------------------------------------------------------

    async def exchange(
        self,
        request: bytes,
        feed: Callable[[bytes], ReplyT | None],
        *,
        priority: Priority = Priority.POLL,
        reply_timeout_s: float | None = None,
        gap_s: float = 0.0,
    ) -> Answer[ReplyT]:
        """Send ``request`` when its turn comes; see ``capa.devices.link.Link``.

        The deadline starts when the request has left; time in the queue is not in it. An exchange
        once begun is finished, whatever is cancelled: cut off, it would leave a reply on its way,
        for which the next request, the safe one, would have to wait.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        order = next(self._orders)
        timeout_s = self._spec.reply_timeout_s if reply_timeout_s is None else reply_timeout_s
        gap_s = gap_s if self._spec.gap_s is None else self._spec.gap_s
        while True:
            pipe = self._open_pipe()
            if priority is Priority.SAFE:
                pipe.stir()
            if self._hushed(priority):
                await trio.sleep_until(self._hushed_until_s)
            await self._turns.take(priority, order)
            try:
                pipe = self._open_pipe()
                if not await self._settle(pipe, priority, timeout_s):
                    continue
                await self._keep_gap(pipe, gap_s)
                if not self._hushed(priority):
                    return await self._talk(pipe, request, feed, timeout_s)
            finally:
                self._turns.pass_on()

    def hush(self, for_s: float) -> None:
        """Let no poll begin for so long: somebody urgent is about to speak."""
        self._hushed_until_s = trio.current_time() + for_s

    def _hushed(self, priority: Priority) -> bool:
        return priority is Priority.POLL and trio.current_time() < self._hushed_until_s

    def _open_pipe(self) -> Pipe:
        pipe = self._pipe
        if pipe is None or pipe.lost is not None:
            raise self._closed(pipe)
        return pipe

    def _closed(self, pipe: Pipe | None) -> LinkClosedError:
        why = pipe.lost if pipe is not None else None
        return LinkClosedError(self._lost(why) if why is not None else self._why_down)

    def _lost(self, why: str) -> str:
        return (
            f"link {self.name}: lost {self._spec.port}: {why}; "
            "check the cable and the adapter; it is opened again by itself"
        )

    async def _settle(self, pipe: Pipe, priority: Priority, timeout_s: float) -> bool:
        """Wait until the line is in step; False if somebody more urgent should speak first."""
        pipe.discard_waiting()
        began_s = now_s = trio.current_time()
        while (wait_s := pipe.unsettled_s(now_s)) > 0:
            if priority is Priority.SAFE:
                wait_s = min(wait_s, began_s + SAFE_HOLD_S - now_s)
                if wait_s <= 0:
                    break
            elif now_s - began_s > timeout_s + BABBLE_S:
                raise self._babble(now_s - began_s)
            await pipe.stirred(wait_s)
            if pipe.lost is not None:
                raise self._closed(pipe)
            if self._turns.wanted_before(priority):
                return False
            now_s = trio.current_time()
        return True

    def _babble(self, for_s: float) -> LinkTimeoutError:
        self._stats.timeouts += 1
        return LinkTimeoutError(
            f"link {self.name} ({self._spec.port}) does not fall silent: bytes nobody asked for, "
            f"for {for_s:.1f} s ({self._stats.drained_bytes} discarded so far); look for a device "
            "in streaming or auto-print mode, a wrong baud rate, or a second master on the line",
            fault="babble",
        )

    async def _keep_gap(self, pipe: Pipe, gap_s: float) -> None:
        if gap_s > 0 and (left_s := pipe.gap_left_s(gap_s, trio.current_time())) > 0:
            await pipe.pause(left_s)

    async def _talk(
        self,
        pipe: Pipe,
        request: bytes,
        feed: Callable[[bytes], ReplyT | None],
        timeout_s: float,
    ) -> Answer[ReplyT]:
        self._stats.exchanges += 1
        if self._spec.local_echo:
            feed = behind_echo(request, feed)
        try:
            answer = await pipe.talk(request, feed, timeout_s)
        except FrameError:
            self._stats.frame_errors += 1
            raise
        except LOST as error:
            raise LinkClosedError(self._lost(pipe.lost or str(error))) from error
        if isinstance(answer, Answer):
            return answer
        self._stats.timeouts += 1
        seen = f"{answer} bytes of one came" if answer else "not a byte came"
        raise LinkTimeoutError(
            f"link {self.name} ({self._spec.port}): no complete reply within {timeout_s:g} s of "
            f"the request's end, {seen}; check power, address, baud rate and wiring",
            fault="truncated" if answer else "silent",
        )
