"""pyserial-asyncio on a trio-asyncio loop: ``socket://`` device servers, and where it is asked for.

Each open pipe has a loop of its own, which lives as long as the pipe. Nothing here is imported,
and no asyncio loop exists, in a process without such a link.
"""

import contextlib
import os
from functools import partial
from typing import Any, Final

import serial
import trio

from adapters.links.fine import FineTimer
from adapters.links.serial import close_port, open_port
from capa.devices.spec import LinkSpec
from capa.errors import LinkClosedError

__all__ = ["AsyncioStream", "connector"]

CHUNK_BYTES: Final = 4096
CLOSE_S: Final = 1.0
FEW_TURNS: Final = 20
BLOCKED_S: Final = 0.001
"""How often a port that takes no bytes, after so many turns, is looked at again."""


async def connector(spec: LinkSpec) -> "AsyncioStream":
    """Open ``spec.port``, a device path or ``socket://host:port``, by pyserial-asyncio.

    Raises:
        LinkClosedError: names the port, the reason and the remedy.
    """
    _require_libraries(spec)
    port = await trio.to_thread.run_sync(open_port, spec, abandon_on_cancel=True)
    stream = AsyncioStream(port)
    await stream.start()
    return stream


def _require_libraries(spec: LinkSpec) -> None:
    try:
        import serial_asyncio  # noqa: F401 - only whether it is there
        import trio_asyncio  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise LinkClosedError(
            f"link {spec.name}: {spec.port} with transport {spec.transport!r} needs {error.name}, "
            "which is not installed; say pip install 'capa[asyncio-links]', or use a transport "
            "that needs no asyncio: serial, or tcp with host:port"
        ) from error


class _Unblocking:
    """A port without what would stop the event loop.

    A transport that is closed flushes and closes its port: draining a dead serial port takes
    seconds, and pyserial's ``socket://`` sleeps 0.3 s. Here both do nothing; who opened the port
    closes it, in a thread.
    """

    def __init__(self, port: serial.SerialBase) -> None:
        self._port = port
        self.timeout: float | None = 0
        self.write_timeout: float | None = 0
        self.fileno = port.fileno
        self.write = port.write

    def read(self, size: int) -> bytes:
        """Read what is there; one system call, where pyserial makes three."""
        try:
            data = os.read(self._port.fileno(), size)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise serial.SerialException(error.strerror or str(error)) from error
        if not data:
            raise serial.SerialException("the other end hung up")
        return data

    def flush(self) -> None:
        """Leave what is unsent."""

    def close(self) -> None:
        """Leave it to whoever opened the port."""


class AsyncioStream(trio.abc.Stream):
    """A pyserial-asyncio transport as a trio stream.

    Its loop runs in a system task, so that it depends neither on the task that opened the pipe
    nor on one that closes it; it ends with ``aclose`` or with the pipe. It is an asyncio protocol
    itself (``connection_made`` and so on), called by its own loop only.

    Args:
        port: open, non-blocking; closed by this stream.
    """

    def __init__(self, port: serial.SerialBase) -> None:
        self._port = port
        self._transport: Any = None
        self._received = bytearray()
        self._stirred = trio.Event()
        self._started = trio.Event()
        self._closing = trio.Event()
        self._closed = trio.Event()
        self._disconnected = trio.Event()
        self._error: str | None = None
        self._is_ours = True
        self._timer = FineTimer()
        self.pause = self._timer.sleep
        """Waits for a silence on the wire, finer than the loop does; for one task at a time."""

    async def start(self) -> None:
        """Start the loop, and return when the transport is in it.

        Raises:
            trio.BrokenResourceError: the loop did not start.
        """
        trio.lowlevel.spawn_system_task(self._host, name="asyncio loop of a link")
        try:
            await self._started.wait()
        except trio.Cancelled:
            self._closing.set()
            raise
        self._check()

    async def _host(self) -> None:
        """Run the loop until the stream is closed; whatever happens ends the stream only."""
        from serial_asyncio import SerialTransport
        from trio_asyncio import open_loop

        try:
            async with open_loop() as loop:
                self._transport = SerialTransport(loop, self, _Unblocking(self._port))
                self._started.set()
                await self._closing.wait()
                self._transport.abort()
                with trio.move_on_after(CLOSE_S):
                    await self._disconnected.wait()
        except Exception as error:  # noqa: BLE001 - a system task that raises would end the process
            self._lose(f"asyncio: {error!r}")
        finally:
            self._started.set()
            with trio.CancelScope(shield=True):  # the thread is given up when it takes too long
                await _closed_in_thread(self._port)
            self._closed.set()

    # --- asyncio's protocol -----------------------------------------------------------------

    def connection_made(self, transport: object) -> None:
        """Know it already."""

    def data_received(self, data: bytes) -> None:
        """Keep bytes for the reader."""
        self._received += data
        self._stirred.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the reader, after what was received before."""
        self._disconnected.set()
        self._lose(str(error) if error is not None else "the port was closed")

    def pause_writing(self) -> None:
        """Go on: requests are short, and one at a time."""

    def resume_writing(self) -> None:
        """Go on."""

    # --- trio's stream ----------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Return when the bytes are written: at once, or by the transport when the port is full.

        Returning sooner would let an exchange fail before its request, a safe write perhaps, has
        left. The transport would take two turns of its loop for what is one system call.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check()
        rest = self._left_of(bytes(data))
        if not rest:
            return
        self._transport.write(rest)
        turns = 0
        while self._error is None and self._transport.get_write_buffer_size() > 0:
            await trio.sleep(0 if turns < FEW_TURNS else BLOCKED_S)
            turns += 1

    def _left_of(self, data: bytes) -> bytes:
        """Write what the system takes at once, behind nothing that waits; return the rest."""
        if self._transport.get_write_buffer_size() > 0:
            return data
        try:
            return data[os.write(self._port.fileno(), data) :]
        except OSError:  # the transport meets it again, and says so to the reader
            return data

    async def wait_send_all_might_not_block(self) -> None:
        """Return: the transport buffers."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them."""
        while not self._received:
            self._check()
            self._stirred = trio.Event()
            await self._stirred.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._taken(max_bytes)

    def receive_nowait(self) -> bytes:
        """Return what is waiting, here and in the operating system; perhaps nothing."""
        self._check()
        with contextlib.suppress(BlockingIOError):
            self._received += os.read(self._port.fileno(), CHUNK_BYTES)
        return self._taken(None)

    async def aclose(self) -> None:
        """End the loop and close the port; a reader in another task gets an error."""
        self._is_ours = False
        self._timer.close()
        self._closing.set()
        self._stirred.set()
        await self._closed.wait()

    def _taken(self, max_bytes: int | None) -> bytes:
        taken = bytes(self._received[:max_bytes])
        del self._received[: len(taken)]
        return taken

    def _lose(self, why: str) -> None:
        if self._error is None:
            self._error = why
        self._stirred.set()

    def _check(self) -> None:
        if not self._is_ours:
            raise trio.ClosedResourceError("this end was closed")
        if self._error is not None:
            raise trio.BrokenResourceError(self._error)


async def _closed_in_thread(port: serial.SerialBase) -> None:
    with trio.move_on_after(CLOSE_S):
        await trio.to_thread.run_sync(partial(close_port, port), abandon_on_cancel=True)
