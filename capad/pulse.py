"""A wake-up call that everybody waiting hears, and that can be given again and again."""

import trio

__all__ = ["Pulse"]


class Pulse:
    """``wait`` returns at the next ``set``; what was set before does not count."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wake everybody who waits."""
        event, self._event = self._event, trio.Event()
        event.set()

    async def wait(self) -> None:
        """Return at the next ``set``."""
        await self._event.wait()
