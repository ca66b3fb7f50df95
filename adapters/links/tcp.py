"""TCP: device servers and instruments with an Ethernet port of their own."""

import os
import socket
from functools import partial
from typing import Final

import trio

from adapters.links.fd import FdStream
from capa.devices.spec import LinkSpec
from capa.errors import LinkClosedError

__all__ = ["connector"]

CONNECT_S: Final = 3.0
KEEPALIVE_IDLE_S: Final = 5
KEEPALIVE_INTERVAL_S: Final = 2
KEEPALIVE_PROBES: Final = 3


async def connector(spec: LinkSpec) -> FdStream:
    """Connect to ``spec.port``, which is ``host:port``; give up after ``CONNECT_S``.

    Raises:
        LinkClosedError: names the address, the reason and the remedy.
    """
    host, number = _address(spec)
    try:
        with trio.fail_after(CONNECT_S):
            stream = await trio.open_tcp_stream(host, number)
    except trio.TooSlowError as error:
        raise LinkClosedError(
            f"link {spec.name}: {spec.port} did not answer within {CONNECT_S:g} s; "
            "check that it is on and on this network"
        ) from error
    except OSError as error:
        raise LinkClosedError(
            f"link {spec.name}: cannot connect to {spec.port}: {_reason(error)}; "
            "check address, port and that the device server is on"
        ) from error
    return _tuned(stream)


def _address(spec: LinkSpec) -> tuple[str, int]:
    host, _, number = spec.port.rpartition(":")
    if not host or not number.isdecimal():
        raise LinkClosedError(
            f"link {spec.name}: port {spec.port!r} is not host:port, such as 10.0.0.5:4001"
        )
    return host.strip("[]"), int(number)


def _reason(error: OSError) -> str:
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):  # trio tried several addresses of one name
        return "; ".join(str(each) for each in cause.exceptions)
    return error.strerror or str(cause or error)


def _tuned(stream: trio.SocketStream) -> FdStream:
    """Send at once, and have the kernel notice a peer that lost its power.

    The stream's descriptor is awaited directly, as a serial port's is.
    """
    own = stream.socket
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    ):
        own.setsockopt(level, option, value)
    fd = own.detach()
    return FdStream(fd, partial(os.close, fd))
