"""Signals, on the shortest way from the kernel to what they mean."""

import signal
from collections.abc import Callable, Mapping

import trio

__all__ = ["listen"]


async def listen(
    meanings: Mapping[signal.Signals, Callable[[], None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call what each signal means, in the loop, until cancelled.

    The calls must not block: what takes time is done by whoever waits for what they set.
    """
    with trio.open_signal_receiver(*meanings) as arriving:
        task_status.started()
        async for signum in arriving:
            meanings[signal.Signals(signum)]()
