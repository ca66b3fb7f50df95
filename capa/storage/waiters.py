"""Tasks of the loop that wait for another thread, woken by one cheap call per change."""

from collections.abc import Callable

import trio

__all__ = ["Waiters"]


class Waiters:
    """Wait on the loop for a condition that another thread makes true.

    The order is what makes it safe without a lock: a waiter says that it waits *before* it looks,
    the thread changes things *before* it looks whether anybody waits.
    """

    def __init__(self) -> None:
        self._token: trio.lowlevel.TrioToken | None = None
        self._event = trio.Event()
        self._waiting = False

    async def wait_until(self, done: Callable[[], bool]) -> None:
        """Return once ``done()`` is true; a checkpoint in any case."""
        if self._token is None:
            self._token = trio.lowlevel.current_trio_token()
        while True:
            self._waiting = True
            if done():
                break
            await self._event.wait()
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Have every waiter look again; from any thread, and cheap when nobody waits."""
        if self._waiting and self._token is not None:
            try:
                self._token.run_sync_soon(self._fire, idempotent=True)
            except trio.RunFinishedError:
                return

    def _fire(self) -> None:
        self._waiting = False
        event, self._event = self._event, trio.Event()
        event.set()
