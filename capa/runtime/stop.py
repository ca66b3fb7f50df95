"""One event with a reason: what everything that waits, waits on too."""

import trio

__all__ = ["StopSignal"]


class StopSignal:
    """Set once, with the first reason given; works with trio and with anyio alike."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._reason = ""
        self._set_at_s: float | None = None

    @property
    def reason(self) -> str:
        """Why it was set; empty before."""
        return self._reason

    @property
    def set_at_s(self) -> float | None:
        """When it was set, on trio's clock; None before."""
        return self._set_at_s

    def set(self, reason: str = "stop requested") -> None:
        """Ask everything that waits on this to leave; later calls change nothing."""
        if not self._event.is_set():
            self._reason = reason
            self._set_at_s = trio.current_time()
            self._event.set()

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once a stop is asked for."""
        await self._event.wait()
