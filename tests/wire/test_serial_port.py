"""Opening a port: what it is told when it can't be, and that it is ours alone."""

import fcntl
import os
import struct
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from adapters.links import serial, tcp
from capa.devices.spec import LinkSpec
from capa.errors import LinkClosedError

TIOCGEXCL = 0x80045440  # of linux/tty.h; Python's termios lacks it


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


async def test_a_port_that_is_not_there_is_named_with_what_to_check() -> None:
    with pytest.raises(LinkClosedError, match=r"link heat: .*/dev/ttyNONE.*plugged in"):
        await serial.connector(LinkSpec(name="heat", port="/dev/ttyNONE"))


async def test_a_file_that_is_no_port_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LinkClosedError, match=r"link heat: .*file"):
        await serial.connector(LinkSpec(name="heat", port=str(tmp_path / "file")))


async def test_a_port_in_use_is_refused_and_its_user_is_named(terminal: tuple[int, str]) -> None:
    spec = LinkSpec(name="heat", port=terminal[1])
    async with await serial.connector(spec):
        with pytest.raises(LinkClosedError, match=rf"in use by .*pid {os.getpid()}\)"):
            await serial.connector(spec)
    async with await serial.connector(spec):
        pass


def test_of_two_who_hold_a_pseudo_terminal_the_host_is_named_and_not_the_instrument(
    terminal: tuple[int, str],
) -> None:
    port = os.open(terminal[1], os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(port, fcntl.LOCK_EX)
    with subprocess.Popen(["sleep", "60"], stdin=port) as host:
        try:
            with pytest.raises(LinkClosedError, match=rf"in use by sleep \(pid {host.pid}\); end"):
                serial.open_port(LinkSpec(name="heat", port=terminal[1]))
        finally:
            host.kill()
            os.close(port)


def test_the_kernel_is_asked_to_keep_out_programs_that_take_no_lock(
    terminal: tuple[int, str],
) -> None:
    with Path(terminal[1]).open("rb+", buffering=0) as port:
        serial._lock_others_out(port.fileno())
        held = fcntl.ioctl(port.fileno(), TIOCGEXCL, struct.pack("i", 0))
        assert struct.unpack("i", held) == (1,)


async def test_a_pseudo_terminal_is_not_marked_since_the_mark_would_outlive_us(
    terminal: tuple[int, str],
) -> None:
    async with await serial.connector(LinkSpec(name="heat", port=terminal[1])) as stream:
        fd = stream._fd  # type: ignore[attr-defined] # a local port is awaited by its descriptor
        held = fcntl.ioctl(fd, TIOCGEXCL, struct.pack("i", 0))
        assert struct.unpack("i", held) == (0,)


async def test_a_hang_up_is_an_end_of_file_and_silence_is_not(terminal: tuple[int, str]) -> None:
    master, path = terminal
    async with await serial.connector(LinkSpec(name="heat", port=path)) as stream:
        with trio.move_on_after(0.05) as silence:
            await stream.receive_some()
        assert silence.cancelled_caught
        assert stream.receive_nowait() == b""  # type: ignore[attr-defined] # as links ask
        os.write(master, b"hello")
        assert await stream.receive_some() == b"hello"


async def test_a_stream_that_was_closed_says_so(terminal: tuple[int, str]) -> None:
    stream = await serial.connector(LinkSpec(name="heat", port=terminal[1]))
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")
    await stream.aclose()


@pytest.mark.parametrize(
    ("port", "says"),
    [("localhost", "not host:port"), ("127.0.0.1:1", "cannot connect .*check address")],
)
async def test_an_address_that_does_not_answer_is_named(port: str, says: str) -> None:
    with pytest.raises(LinkClosedError, match=says):
        await tcp.connector(LinkSpec(name="balance", transport="tcp", port=port))
