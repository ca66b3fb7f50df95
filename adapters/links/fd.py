"""A trio stream over a non-blocking file descriptor: serial ports, ptys and sockets alike."""

import os
from collections.abc import Callable
from typing import Final

import trio

from adapters.links.fine import FineTimer

__all__ = ["FdStream"]

CHUNK_BYTES: Final = 4096


class FdStream(trio.abc.Stream):
    """Reads and writes a descriptor that is in non-blocking mode, with as little as possible.

    ``trio.lowlevel.FdStream`` would do, but for two things: it can't be asked for what is waiting
    without waiting, and its locks cost as much as the system call they guard. A link has one
    reading and one writing task by construction.

    Args:
        fd: an open descriptor, non-blocking.
        close: closes it, and may block (draining a serial port does); run in a thread.
    """

    def __init__(self, fd: int, close: Callable[[], object]) -> None:
        self._fd = fd
        self._close = close
        self._open = True
        self._timer = FineTimer()
        self.pause = self._timer.sleep
        """Waits for a silence on the wire, finer than the loop does; for one task at a time."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything; without a checkpoint when the system takes it at once."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while data:
            self._check_open()
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                await self.wait_send_all_might_not_block()
            except OSError as error:
                raise trio.BrokenResourceError(error.strerror or str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until at least one byte could be written."""
        self._check_open()
        await trio.lowlevel.wait_writable(self._fd)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them; empty when the other end has hung up."""
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._fd)
            self._check_open()
            try:
                return os.read(self._fd, max_bytes or CHUNK_BYTES)
            except BlockingIOError:
                continue  # the other reader, ``receive_nowait``, was first
            except OSError as error:
                raise trio.BrokenResourceError(error.strerror or str(error)) from error

    def receive_nowait(self) -> bytes:
        """Return what is waiting, perhaps nothing; a hang-up looks like nothing here."""
        self._check_open()
        try:
            return os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return b""

    async def aclose(self) -> None:
        """Close the descriptor in a thread; a reader in another task gets an error."""
        if self._open:
            self._open = False
            trio.lowlevel.notify_closing(self._fd)
            self._timer.close()
            # Abandoned when the caller's patience ends: the kernel may drain a port for seconds.
            await trio.to_thread.run_sync(self._close, abandon_on_cancel=True)
        else:
            await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if not self._open:
            raise trio.ClosedResourceError("this end was closed")
