"""Waking up when something happens in a folder: inotify, where there is one to tell.

Nothing depends on it. Events get lost, and a network file system tells nothing of what other
machines do: the spool looks again by itself every ``rescan_s``.
"""

import importlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

__all__ = ["watch"]

_AGAIN_S = 0.3
_EARLY_LOOKS_S = (0.05, 0.1, 0.2, 0.4)


async def watch(
    places: Sequence[Path], poke: Callable[[], None], log: FilteringBoundLogger
) -> None:
    """Call ``poke`` when something happens in one of the folders, until cancelled."""
    watchfiles = await trio.to_thread.run_sync(importlib.import_module, "watchfiles")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_look_early, poke)
        while True:
            try:
                await _listen(watchfiles.awatch, places, poke)
            except* (OSError, RuntimeError) as errors:
                # A name that is not UTF-8 is one of the reasons: watchfiles can't say such a path.
                reasons = "; ".join(str(error) for error in _leaves(errors))
                log.info("spool.watch_restarted", message=reasons)
            poke()
            await trio.sleep(_AGAIN_S)


async def _listen(
    awatch: Callable[..., AsyncGenerator[object, None]],
    places: Sequence[Path],
    poke: Callable[[], None],
) -> None:
    stop = trio.Event()  # the only thing that ends the watcher's thread before its time-out
    changes = awatch(*places, recursive=False, watch_filter=None, stop_event=stop)
    async with trio.open_nursery() as nursery, aclosing(changes):
        nursery.start_soon(_set_when_cancelled, stop)
        async for _ in changes:
            poke()
        nursery.cancel_scope.cancel()


async def _look_early(poke: Callable[[], None]) -> None:
    """Look a few times while the watcher gets going, which it does not tell."""
    for pause_s in _EARLY_LOOKS_S:
        await trio.sleep(pause_s)
        poke()


async def _set_when_cancelled(stop: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the errors in a group of groups."""
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
