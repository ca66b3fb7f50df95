"""Where a twin's lines meet the operating system: pseudo-terminals and TCP ports."""

import contextlib
import os
import tty
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from adapters.links.fd import FdStream
from adapters.links.fine import FineTimer
from adapters.links.pipe import LOST
from adapters.twin.line import Due, TwinLine

__all__ = ["Port", "PtyPort", "TcpPort"]

LOCALHOST: Final = "127.0.0.1"
_LOOK_S: Final = 0.02


class Port(Protocol):
    """One line's way out of the process."""

    address: str
    """What the host opens: a path or ``host:port``."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the line until cancelled; started once the port is open."""
        ...

    def switch(self, *, present: bool) -> None:
        """Make the port vanish, or return."""
        ...


class _Presence:
    """Whether the port is there, and a way to wait for a change."""

    def __init__(self) -> None:
        self._present = True
        self._changed = trio.Event()

    def set(self, *, present: bool) -> None:
        self._present = present
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for(self, *, present: bool) -> None:
        while self._present is not present:
            await self._changed.wait()


async def _carry(line: TwinLine, stream: trio.abc.Stream) -> None:
    """Pass bytes between a line and one host until the host is gone.

    Requests are read, and obeyed, as they come, also while a late reply is on its way.
    """
    outgoing, waiting = trio.open_memory_channel[Due](1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_when_due, line, stream, waiting)
        if line.talkative:
            nursery.start_soon(_talk, line, outgoing)
        with contextlib.suppress(*LOST):  # in here: out of the nursery it would come as a group
            await _obey(line, stream, outgoing)
        nursery.cancel_scope.cancel()


async def _obey(
    line: TwinLine, stream: trio.abc.Stream, outgoing: "trio.MemorySendChannel[Due]"
) -> None:
    """Take requests until the host is gone."""
    while chunk := await stream.receive_some():
        for due in line.accept(bytes(chunk), trio.current_time()):
            if due.at_s <= trio.current_time() and not _pending(outgoing):
                line.sending(due.data)
                await stream.send_all(due.data)
            else:
                await outgoing.send(due)


async def _talk(line: TwinLine, outgoing: "trio.MemorySendChannel[Due]") -> None:
    """Send what devices say of themselves, for as long as somebody listens."""
    while True:
        await trio.sleep(_LOOK_S)
        for due in line.unasked(trio.current_time()):
            await outgoing.send(due)


def _pending(outgoing: "trio.MemorySendChannel[Due]") -> bool:
    return outgoing.statistics().current_buffer_used > 0


async def _send_when_due(
    line: TwinLine, stream: trio.abc.Stream, waiting: "trio.MemoryReceiveChannel[Due]"
) -> None:
    timer = FineTimer()
    with contextlib.closing(timer), contextlib.suppress(*LOST):  # the reading side finds out, too
        async for due in waiting:
            await timer.sleep(due.at_s - trio.current_time())
            line.sending(due.data)
            await stream.send_all(due.data)


class PtyPort:
    """A pseudo-terminal under a name of our own; gone and back like a USB adapter.

    The twin keeps the slave open itself: else a host that closes the port would leave the master
    with an error, and the settings it made would be lost.
    """

    def __init__(self, line: TwinLine, path: Path) -> None:
        self._line = line
        self._path = path
        self._presence = _Presence()
        self.address = str(path.absolute())

    def switch(self, *, present: bool) -> None:
        """Unplug the port, or plug it in again as a new one."""
        self._presence.set(present=present)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the line; each time the port returns it is a new pseudo-terminal."""
        started = False
        while True:
            await self._presence.wait_for(present=True)
            master, slave = os.openpty()
            try:
                tty.setraw(slave)  # before anybody opens it: else it echoes requests as replies
                os.set_blocking(master, False)
                _point(self._path, os.ttyname(slave))
                if not started:
                    task_status.started()
                    started = True
                await self._until_gone(master)
            finally:
                self._path.unlink(missing_ok=True)
                os.close(slave)
                os.close(master)

    async def _until_gone(self, master: int) -> None:
        stream = FdStream(master, lambda: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, self._line, stream)
            await self._presence.wait_for(present=False)
            nursery.cancel_scope.cancel()


def _point(path: Path, target: str) -> None:
    """Make ``path`` a link to ``target``, without a moment at which it is neither."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)


class TcpPort:
    """A TCP port on this machine; every connection is a host on the same line."""

    def __init__(self, line: TwinLine) -> None:
        self._line = line
        self._presence = _Presence()
        self._number = 0
        self.address = ""

    def switch(self, *, present: bool) -> None:
        """Close the port and its connections, or open it again at the same number."""
        self._presence.set(present=present)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the line."""
        started = False
        while True:
            await self._presence.wait_for(present=True)
            listeners = await trio.open_tcp_listeners(self._number, host=LOCALHOST)
            self._number = listeners[0].socket.getsockname()[1]
            self.address = f"{LOCALHOST}:{self._number}"
            if not started:
                task_status.started()
                started = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, partial(_carry, self._line), listeners)
                await self._presence.wait_for(present=False)
                nursery.cancel_scope.cancel()
