"""What the service manager is told: ready, alive, what goes on, and how long an end takes.

``WATCHDOG=1`` is sent by a task of the loop that it vouches for, and only while every vital loop
is fresh; there is no thread that would go on petting for a dead engine.
"""

import os
import socket
from collections.abc import Callable, Mapping

import trio
from structlog.typing import FilteringBoundLogger

from capad.heartbeats import Heartbeats

__all__ = ["Notifier", "Supervisor"]

_TICK_S = 0.5
_LAG_WARNING_S = 0.25
_EXTEND_EVERY_S = 5.0
_EXTEND_BY_S = 20.0
_STATUS_LENGTH = 480


class Notifier:
    """Speaks to the service manager, if there is one, and never waits for it.

    The socket's queue is short, and a service manager that is busy would block a sender for as
    long as it is: a stuck reader must not stop the engine. What finds no room is kept, the latest
    of each name, and goes with the next message; only ``WATCHDOG=1`` is dropped, for it speaks of
    the moment at which it was said.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._manager = _connected(address) if address else None
        self._unsent: dict[str, str] = {}
        watchdog_us = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and ours else None

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``, in one datagram."""
        if self._manager is None:
            return
        for line in lines:
            self._unsent[line.partition("=")[0]] = " ".join(line.split())
        text = "\n".join(self._unsent.values())
        try:
            self._manager.send(text.encode("utf-8", "replace"))
        except OSError:
            self._unsent.pop("WATCHDOG", None)
        else:
            self._unsent.clear()

    def close(self) -> None:
        """Hang up."""
        if self._manager is not None:
            self._manager.close()

    def extend(self) -> None:
        """Ask for more time to start or to stop."""
        self.send(f"EXTEND_TIMEOUT_USEC={round(_EXTEND_BY_S * 1e6)}")


def _connected(address: str) -> socket.socket | None:
    """Return the way to the service manager; None if nobody listens at the address given.

    The protocol is systemd's: one datagram of assignments (``man 3 sd_notify``); ``@`` stands for
    the abstract namespace.
    """
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.setblocking(False)
    try:
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        manager.close()
        return None
    return manager


class Supervisor:
    """One task: status line, watchdog, more time where it is needed, and the loop's lag.

    Args:
        notifier: the way to the service manager.
        heartbeats: who has to be alive for ``WATCHDOG=1``.
        status: makes the status line.
        needs_time: whether a start or a stop is going on that makes progress.
        log: a structlog logger.
    """

    def __init__(
        self,
        notifier: Notifier,
        heartbeats: Heartbeats,
        *,
        status: Callable[[], str],
        needs_time: Callable[[], bool],
        log: FilteringBoundLogger,
    ) -> None:
        self._notifier = notifier
        self._heartbeats = heartbeats
        self._status = status
        self._needs_time = needs_time
        self._log = log
        self._last_status = ""
        self._last_extend_s = float("-inf")
        self._stale: frozenset[str] = frozenset()
        self.max_lag_s = 0.0

    def ready(self) -> None:
        """Tell that start-up, or a reload, is through."""
        self._last_status = self._status()
        self._notifier.send("READY=1", f"STATUS={self._last_status[:_STATUS_LENGTH]}")

    def reloading(self) -> None:
        """Tell that the profile is being read again; ``ready`` ends it."""
        self._notifier.send("RELOADING=1")

    def stopping(self) -> None:
        """Tell that the end has begun."""
        self._notifier.send("STOPPING=1")
        self._notifier.extend()

    def refresh(self) -> None:
        """Send the status line now, if it says something new."""
        status = self._status()[:_STATUS_LENGTH]
        if status != self._last_status:
            self._last_status = status
            self._notifier.send(f"STATUS={status}")

    async def run(self) -> None:
        """Tick until cancelled."""
        watchdog_s = self._notifier.watchdog_s
        period_s = _TICK_S if watchdog_s is None else min(_TICK_S, watchdog_s / 4)
        due_s = trio.current_time()
        while True:
            self._tick(trio.current_time() - due_s)
            due_s = max(due_s + period_s, trio.current_time())
            await trio.sleep_until(due_s)

    def _tick(self, lag_s: float) -> None:
        now_s = trio.current_time()
        self.max_lag_s = max(self.max_lag_s, lag_s)
        if lag_s > _LAG_WARNING_S:
            message = f"something held the event loop for {lag_s:.2f} s"
            self._log.warning("loop.lag", message=message)
        stale = self._heartbeats.stale(now_s)
        self._report_stale(stale)
        if not stale:
            self._notifier.send("WATCHDOG=1")
        if self._needs_time() and now_s - self._last_extend_s > _EXTEND_EVERY_S:
            self._last_extend_s = now_s
            self._notifier.extend()
        self.refresh()

    def _report_stale(self, stale: Mapping[str, float]) -> None:
        for name in stale.keys() - self._stale:
            message = f"{name} has not shown life for {stale[name]:.1f} s; the watchdog is not fed"
            self._log.error("heartbeat.stale", loop=name, message=message)
        self._stale = frozenset(stale)
