"""Silences on a wire are waited for by a timer of the system's, finer than the loop's own."""

import os
import time

import pytest
import trio
import trio.testing

from adapters.links.fd import FdStream
from adapters.links.fine import FineTimer
from adapters.links.pipe import Pipe
from capa.devices.link import LinkStats


async def slept_s(timer: FineTimer, for_s: float) -> float:
    began_s = time.perf_counter()
    await timer.sleep(for_s)
    return time.perf_counter() - began_s


async def test_a_silence_is_never_shorter_than_it_was_asked_for() -> None:
    timer = FineTimer()
    for for_s in (0.0001, 0.00175, 0.004):
        for _ in range(20):
            assert await slept_s(timer, for_s) >= for_s
    timer.close()


async def test_what_is_over_already_is_not_waited_for() -> None:
    timer = FineTimer()
    with trio.fail_after(1.0):
        await timer.sleep(0.0)
        await timer.sleep(-1.0)
        await timer.sleep(1e-12)  # a timer set to nothing would never ring
    timer.close()


async def test_a_wait_that_was_cancelled_does_not_shorten_the_next() -> None:
    timer = FineTimer()
    with trio.move_on_after(0.002):
        await timer.sleep(10.0)
    with trio.move_on_after(0) as scope:
        await timer.sleep(0.0001)
    assert scope.cancelled_caught
    assert await slept_s(timer, 0.01) >= 0.01
    timer.close()


async def test_closing_ends_a_wait_in_another_task() -> None:
    timer = FineTimer()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await timer.sleep(60.0)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        timer.close()
    timer.close()  # twice is once


async def test_a_pause_on_a_pipe_that_is_closed_meanwhile_ends_at_once() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    stream = FdStream(ours, lambda: os.close(ours))
    pipe = Pipe(stream, quiet_s=0.02, stats=LinkStats())
    with trio.fail_after(5.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.pause, 60.0)
            await trio.testing.wait_all_tasks_blocked()
            await pipe.aclose()
        await pipe.pause(60.0)
    os.close(theirs)
