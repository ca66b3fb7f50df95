"""Waiting to the microsecond, for what is shorter than the loop's own clock is fine.

``epoll`` counts whole milliseconds and rounds up, so that ``trio.sleep`` is late by half of one
on average: nothing for a person, and a fifth of an exchange at 115 200 baud. A ``timerfd`` is a
descriptor that becomes readable at its time (timerfd_create(2)); Python has it from 3.13 on.
"""

import ctypes
import os
from typing import Final

import trio

__all__ = ["FineTimer"]

_CLOCK_MONOTONIC: Final = 1
_NS: Final = 1_000_000_000
_SHORTEST_NS: Final = 1_000
"""A timer set to zero never rings."""


class _Times(ctypes.Structure):
    """``struct itimerspec``: the interval, which is none, and the time until it rings."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


_libc = ctypes.CDLL(None, use_errno=True)


class FineTimer:
    """One timer for one task, of real time only. Close it, or leave it to its finalizer.

    It has its descriptor from the first wait on; a line whose protocol wants no silence needs none.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._closed = False
        self._times = _Times()

    async def sleep(self, for_s: float) -> None:
        """Wait so long; a checkpoint in any case.

        Raises:
            ClosedResourceError: it was closed, before or meanwhile.
            OSError: the system has no descriptor left.
        """
        if for_s <= 0:
            await trio.lowlevel.checkpoint()
            return
        if self._fd < 0:
            self._open()
        times = self._times
        times.s, times.ns = divmod(max(int(for_s * _NS), _SHORTEST_NS), _NS)
        _libc.timerfd_settime(self._fd, 0, ctypes.byref(times), None)
        await trio.lowlevel.wait_readable(self._fd)
        os.read(self._fd, 8)

    def _open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this timer was closed")
        self._fd = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timer is to be had")

    def close(self) -> None:
        """Give the descriptor back; whoever waits gets an error."""
        self._closed = True
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        """Give the descriptor back, where nobody did."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
