"""What the engine relies on in trio: each fact that the design names, as trio has it."""

import pytest
import trio
from trio.testing import MockClock

from capa.runtime.stop import StopSignal


async def test_an_exception_in_a_cancelled_scope_can_vanish_but_a_value_stays(
    autojump_clock: MockClock,
) -> None:
    verdicts: list[str] = []

    class Stream(trio.abc.AsyncResource):
        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    with trio.move_on_after(1) as above:
        async with Stream():
            try:
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(5, shield=True):
                    await trio.lowlevel.checkpoint()
                    verdicts.append("unreachable")
                    raise RuntimeError("the valve stayed open")
    assert above.cancelled_caught
    assert verdicts == ["unreachable"]


async def test_a_bounded_shield_ends_by_itself_and_a_cancellation_waits_for_it(
    autojump_clock: MockClock,
) -> None:
    with trio.move_on_after(1):
        with trio.move_on_after(5, shield=True):
            await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(5)
        await trio.lowlevel.checkpoint()
        pytest.fail("the cancellation was forgotten")
    assert trio.current_time() == pytest.approx(5)


async def test_a_child_that_raises_cancels_its_siblings(autojump_clock: MockClock) -> None:
    closed: list[str] = []

    async def close(name: str, *, dead: bool) -> None:
        await trio.sleep(0.1 if dead else 0.2)
        if dead:
            raise OSError(name)
        closed.append(name)

    with pytest.RaisesGroup(OSError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: close("dead", dead=True))
            nursery.start_soon(lambda: close("alive", dead=False))
    assert closed == []


async def test_a_stop_is_one_event_with_the_first_reason(autojump_clock: MockClock) -> None:
    stop = StopSignal()
    woken: list[float] = []

    async def sleeper() -> None:
        with trio.move_on_after(3600):
            await stop.wait()
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        nursery.start_soon(sleeper)
        await trio.sleep(5)
        stop.set("SIGINT")
        stop.set("later")
    assert woken == pytest.approx([5, 5])
    assert stop.reason == "SIGINT"
    assert stop.set_at_s == pytest.approx(5)


async def test_a_shielded_child_outlives_the_cancellation_of_its_nursery(
    autojump_clock: MockClock,
) -> None:
    recording = trio.CancelScope(shield=True)
    beats: list[float] = []

    async def record() -> None:
        with recording:
            while True:
                beats.append(trio.current_time())
                await trio.sleep(1)

    with trio.move_on_after(2.5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(record)
            try:
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(10, shield=True):
                    await trio.sleep(3)
                recording.cancel()
    assert len(beats) == 6
