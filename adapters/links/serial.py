"""Serial ports: opened and set up by pyserial in a thread, then awaited by trio itself."""

import contextlib
import errno
import fcntl
import os
import termios
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import serial
import trio

from adapters.links.fd import FdStream
from capa.devices.spec import LinkSpec
from capa.errors import LinkClosedError

__all__ = ["SOCKET_URL", "close_port", "connector", "open_port"]

SOCKET_URL: Final = "socket://"
"""What the port of a device server begins with that pyserial connects to."""

_CC = 6  # the place of ``c_cc`` in what ``tcgetattr`` returns
_BUSY = frozenset({errno.EBUSY, errno.EAGAIN})


async def connector(spec: LinkSpec) -> trio.abc.Stream:
    """Open ``spec.port`` for this process alone, with the profile's settings, in raw mode.

    A ``socket://`` device server is left to pyserial-asyncio.

    Raises:
        LinkClosedError: names the port, the reason and the remedy.
    """
    if spec.port.startswith(SOCKET_URL):
        from adapters.links import aio

        return await aio.connector(spec)
    # Opening a USB port can block for seconds. When cancelled, the thread is left to finish, and
    # the port it returns to nobody is closed by its finalizer.
    port = await trio.to_thread.run_sync(open_port, spec, abandon_on_cancel=True)
    return FdStream(port.fileno(), partial(close_port, port))


def open_port(spec: LinkSpec) -> serial.SerialBase:
    """Open a local port, or connect to a ``socket://`` device server. Blocks.

    Raises:
        LinkClosedError: names the port, the reason and the remedy.
    """
    if not spec.port.startswith(SOCKET_URL):
        return _open_local(spec)
    try:
        return serial.serial_for_url(spec.port, timeout=0)
    except (serial.SerialException, OSError, ValueError) as error:
        raise LinkClosedError(
            f"link {spec.name}: cannot connect to {spec.port}: {error}; "
            "check address, port and that the device server is on"
        ) from error


def _open_local(spec: LinkSpec) -> serial.Serial:
    # A pseudo-terminal has no parity, and glibc calls a request for it invalid from the second
    # time on, when nothing else changes with it.
    is_pty = os.path.realpath(spec.port).startswith("/dev/pts/")
    try:
        port = serial.Serial(
            spec.port,
            baudrate=spec.baud,
            bytesize=8 if is_pty else spec.bytesize,
            parity=serial.PARITY_NONE if is_pty else spec.parity,
            stopbits=spec.stopbits,
            timeout=0,
            exclusive=True,
        )
    except (serial.SerialException, OSError) as error:
        raise LinkClosedError(_explain(spec, error)) from error
    except (ValueError, termios.error) as error:
        raise LinkClosedError(
            f"link {spec.name}: {spec.port} does not take {spec.baud} baud, "
            f"{spec.bytesize}{spec.parity}{spec.stopbits} ({error}); mend the link's settings"
        ) from error
    _tune(port)
    if not is_pty:
        _lock_others_out(port.fileno())
    return port


def _lock_others_out(fd: int) -> None:
    """Have the kernel refuse the port to programs that take no lock (``TIOCEXCL``).

    pyserial's lock is advisory, and this one does not bind root: each keeps out what the other
    lets in. A pseudo-terminal, whose far end stays open, would keep the mark when we are gone.
    """
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCEXCL)


def _tune(port: serial.Serial) -> None:
    """Tell "nothing yet" from "hung up", and ask the adapter not to dawdle.

    pyserial leaves VMIN at 0, with which a read of an idle line returns nothing, just as a read
    of a dead one does; at 1 an idle line says EAGAIN. Low latency turns off the 16 ms timer of an
    FTDI adapter; other adapters and ptys do not know it.
    """
    settings = termios.tcgetattr(port.fileno())
    settings[_CC][termios.VMIN] = 1
    termios.tcsetattr(port.fileno(), termios.TCSANOW, settings)
    with contextlib.suppress(ValueError, OSError):
        port.set_low_latency_mode(True)


def close_port(port: serial.SerialBase) -> None:
    """Close without draining: what was not sent to a dead adapter never will be. Blocks."""
    with contextlib.suppress(OSError, termios.error, serial.SerialException):
        port.reset_output_buffer()
    # pyserial leaves a socket open whose other end is gone already.
    if (own := getattr(port, "_socket", None)) is not None:
        own.close()
    with contextlib.suppress(OSError, termios.error, serial.SerialException):
        port.close()


def _explain(spec: LinkSpec, error: OSError) -> str:
    where = f"link {spec.name}: cannot open {spec.port}: "
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return where + "no such port; is the adapter plugged in? " + _seen_ports()
        case errno.EACCES | errno.EPERM:
            return where + "permission denied; add this user to the group dialout"
        case code if code in _BUSY:
            return where + f"in use by {_holders(spec.port) or 'another program'}; end that first"
        case errno.ENOTTY | errno.EINVAL:
            return where + "not a serial port; mend the link's port"
        case _:
            return where + f"{error}; check the cable and the adapter"


def _seen_ports() -> str:
    by_id = Path("/dev/serial/by-id")
    names = sorted(str(path) for path in by_id.iterdir()) if by_id.is_dir() else []
    return "ports here: " + (", ".join(names) if names else "none under /dev/serial/by-id")


def _holders(port: str) -> str:
    """Name the processes that have the port open, as far as this user may see.

    Who holds the far end of a pseudo-terminal, as a twin does, is the instrument and not another
    host, and is named only where there is nobody else.
    """
    target = os.path.realpath(port)
    hosts, far_ends = list[str](), list[str]()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            opened = {fd.name: os.path.realpath(fd) for fd in (process / "fd").iterdir()}
            if target in opened.values():
                who = f"{(process / 'comm').read_text().strip()} (pid {process.name})"
                (far_ends if _has_far_end(process, opened, target) else hosts).append(who)
    return ", ".join(hosts or far_ends)


def _has_far_end(process: Path, opened: Mapping[str, str], target: str) -> bool:
    """Whether one of a process's open files is the other side of a pseudo-terminal."""
    mark = f"tty-index:\t{Path(target).name}\n"
    return any(
        name.endswith("/ptmx") and mark in (process / "fdinfo" / fd).read_text()
        for fd, name in opened.items()
    )
