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

    The calls must not block: what takes time is done by whoever waits for what they set. What came
    earlier and was held back (``pthread_sigmask``) is heard first.
    """
    with trio.open_signal_receiver(*meanings) as arriving:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, meanings)
        task_status.started()
        async for signum in arriving:
            meanings[signal.Signals(signum)]()
