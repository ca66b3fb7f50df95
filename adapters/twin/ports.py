"""Where a twin's lines meet the operating system: pseudo-terminals and TCP ports."""

import contextlib
import fcntl
import os
import struct
import termios
import time
import tty
from collections import deque
from collections.abc import Callable
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
_EARLY_S: Final = 0.0003
"""What waking up and logging take at most on an idle machine: a reply is ready when it is due."""
_FEW: Final = 4
"""How much may wait to be sent while a device still begins to speak unasked."""
_UNWANTED_S: Final = 1.0
"""How long bytes may lie unread before what is said unasked takes their place."""
_FORGOTTEN_S: Final = 10.0
"""How long they may lie there when nothing more is said: no host waits that long for a reply."""
_SPEED: Final = 5
"""The place of ``ospeed`` in what ``tcgetattr`` returns; ``ispeed`` is before it."""


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


def _always() -> bool:
    return True


class _Unread:
    """What lies in a pseudo-terminal and no host has taken out.

    A serial port that nobody has open keeps nothing. A pseudo-terminal keeps thousands of bytes,
    for hours, and hands them to whoever opens it as if they were said now. Whether somebody has it
    open it does not tell, so what is young is left to a host that is merely slow.

    Args:
        slave: the host's side of it, open here as well.
    """

    def __init__(self, slave: int) -> None:
        self._slave = slave
        self._bytes = 0
        self._read_at_s = trio.current_time()

    def look(self) -> None:
        """Note whether somebody reads, and forget what nobody will; to be called often."""
        told = fcntl.ioctl(self._slave, termios.FIONREAD, bytes(4))
        before, self._bytes = self._bytes, struct.unpack("i", told)[0]
        if self._bytes == 0 or self._bytes < before:
            self._read_at_s = trio.current_time()
        self._forget_after(_FORGOTTEN_S)

    def make_room(self) -> None:
        """Forget what has lain there for long, before something newer is put to it."""
        self._forget_after(_UNWANTED_S)

    def _forget_after(self, unread_s: float) -> None:
        if trio.current_time() - self._read_at_s > unread_s:
            termios.tcflush(self._slave, termios.TCIFLUSH)
            self._read_at_s = trio.current_time()


async def _carry(
    line: TwinLine,
    stream: trio.abc.Stream,
    in_time: Callable[[], bool] = _always,
    unread: _Unread | None = None,
) -> None:
    """Pass bytes between a line and one host until the host is gone.

    Requests are read, and obeyed, as they come, also while a late reply is on its way. What a
    host sends at another speed (``in_time`` is False) is noise to every device.
    """
    outbox = _Outbox(line, stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        if line.talkative:
            nursery.start_soon(_talk, line, outbox, unread)
        with contextlib.suppress(*LOST):  # in here: out of the nursery it would come as a group
            await _obey(line, stream, outbox, in_time)
        nursery.cancel_scope.cancel()


async def _obey(
    line: TwinLine, stream: trio.abc.Stream, outbox: "_Outbox", in_time: Callable[[], bool]
) -> None:
    """Take requests until the host is gone."""
    while chunk := await stream.receive_some():
        if not in_time():
            line.misheard(bytes(chunk))
            continue
        for due in line.accept(bytes(chunk), trio.current_time()):
            await outbox.put(due)


async def _talk(line: TwinLine, outbox: "_Outbox", unread: _Unread | None) -> None:
    """Send what devices say of themselves, as far as the line takes it: a UART has no more room.

    While much waits no device is asked, so that a stream loses lines, and an answer that waits
    for something does not get lost.
    """
    with contextlib.suppress(*LOST):  # the reader finds out, too
        while True:
            await trio.sleep(_LOOK_S)
            if unread is not None:
                unread.look()
            if outbox.is_behind:
                continue
            for due in line.unasked(trio.current_time()):
                if unread is not None:
                    unread.make_room()
                await outbox.put(due)


def _spin(for_s: float) -> None:
    """Wait for less than a timer is fine for; the loop waits, too."""
    until_s = time.perf_counter() + min(for_s, _EARLY_S)
    while time.perf_counter() < until_s:
        pass


class _Outbox:
    """What is on its way to a host, one after the other in the order it was put in."""

    def __init__(self, line: TwinLine, stream: trio.abc.Stream) -> None:
        self._line = line
        self._stream = stream
        self._waiting = deque[Due]()
        self._more = trio.Event()
        self._sending = trio.Lock()

    @property
    def is_behind(self) -> bool:
        """Whether more than a few wait."""
        return len(self._waiting) > _FEW

    async def put(self, due: Due) -> None:
        """Send what is due now, when nothing is before it, and else let ``run`` do it in its turn.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, OSError: the host is gone.
        """
        if self._waiting or self._sending.locked() or due.at_s > trio.current_time():
            self._waiting.append(due)
            self._more.set()
        else:
            await self._send(due)

    async def run(self) -> None:
        """Send what waits, each when it is due, until the host is gone."""
        timer = FineTimer()
        with contextlib.closing(timer), contextlib.suppress(*LOST):  # the reader finds out, too
            while True:
                await self._more.wait()
                self._more = trio.Event()
                while self._waiting:
                    await timer.sleep(self._waiting[0].at_s - trio.current_time() - _EARLY_S)
                    await self._send(self._waiting[0])
                    self._waiting.popleft()

    async def _send(self, due: Due) -> None:
        try:
            self._sending.acquire_nowait()  # unlike ``acquire`` without a turn of the loop
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            self._line.sending(due.data)
            _spin(due.at_s - trio.current_time())
            await self._stream.send_all(due.data)
        finally:
            self._sending.release()


class PtyPort:
    """A pseudo-terminal under a name of our own; gone and back like a USB adapter.

    The twin keeps the slave open itself: else a host that closes the port would leave the master
    with an error, and the settings it made would be lost. It begins with the line's own speed; a
    host that sets another one is not understood, as on a real line (parity a pty has none).
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
                _set_speed(slave, self._line.spec.baud)
                os.set_blocking(master, False)
                _point(self._path, os.ttyname(slave))
                if not started:
                    task_status.started()
                    started = True
                await self._until_gone(master, slave)
            finally:
                self._path.unlink(missing_ok=True)
                os.close(slave)
                os.close(master)

    async def _until_gone(self, master: int, slave: int) -> None:
        stream = FdStream(master, lambda: None)
        own = getattr(termios, f"B{self._line.spec.baud}", None)

        def in_time() -> bool:
            return own is None or termios.tcgetattr(slave)[_SPEED] == own

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, self._line, stream, in_time, _Unread(slave))
            await self._presence.wait_for(present=False)
            nursery.cancel_scope.cancel()


def _set_speed(fd: int, baud: int) -> None:
    """Set a line's speed; one that has no name (``B...``) is not set, and later not looked at."""
    settings = termios.tcgetattr(fd)
    settings[_SPEED - 1] = settings[_SPEED] = getattr(termios, f"B{baud}", settings[_SPEED])
    termios.tcsetattr(fd, termios.TCSANOW, settings)


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
