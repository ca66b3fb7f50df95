"""Virtual time that threads can't spend.

A clock that jumps when every task waits also jumps while a task waits for a thread: a file that
takes 3 ms to write then takes minutes of virtual time, or none, as the machine's load has it. So
what goes to a thread is done in place in tests of virtual time.
"""

from collections.abc import Callable
from typing import Any

import pytest
import trio

__all__ = ["threads_in_place"]


async def _in_place(sync_fn: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as trio's own
    del options  # how to cancel and limit a thread that is none
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)


def threads_in_place(patch: pytest.MonkeyPatch) -> None:
    """Have trio do work meant for threads in the loop's own."""
    patch.setattr(trio.to_thread, "run_sync", _in_place)
