"""Bounded waits on things that happen in other processes."""

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


def eventually(
    look: Callable[[], T | None],
    what: str,
    *,
    within_s: float = 10.0,
    every_s: float = 0.02,
    say: Callable[[], str] = str,
) -> T:
    """Return what ``look`` returns once it is truthy; fail naming ``what`` after ``within_s``.

    ``say`` adds what is known when it failed (a log, a status).
    """
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what}\n{say()}")
        time.sleep(every_s)
