"""A held method: its time stands still, cooling goes on, a stop is heard."""

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from capa.experiment.hold import Hold
from tests.support.engine import Bench, bench, method

HEATER = {"name": "heater.setpoint"}


async def held_between(one: Bench, begin_s: float, end_s: float) -> None:
    await trio.sleep(begin_s)
    one.executor.hold.set("too warm")
    await trio.sleep(end_s - begin_s)
    one.executor.hold.release()


async def test_a_dwell_has_left_after_the_hold_what_it_had_before(
    autojump_clock: MockClock,
) -> None:
    one = bench()
    of = method({"kind": "hold", "target": HEATER, "value": 100.0, "duration_s": 60.0})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(held_between, one, 10.0, 1000.0)
        began_s = trio.current_time()
        await one.executor.run_to_completion(of)
    assert trio.current_time() - began_s == pytest.approx(60.0 + 990.0)


async def test_a_ramp_stays_where_it_is_and_ends_exactly_on_its_end_value(
    autojump_clock: MockClock,
) -> None:
    one = bench()
    ramp = {"kind": "ramp", "target": HEATER, "start_value": 0.0, "end_value": 100.0}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(held_between, one, 4.95, 100.0)
        began_s = trio.current_time()
        await one.executor.run_to_completion(method({**ramp, "duration_s": 10.0}))
    sent = [(at_s - began_s, value) for at_s, _, value in one.dispatcher.sent]
    assert [value for at_s, value in sent if 4.95 < at_s < 100.0] == []
    assert sent[-1][1] == 100.0
    steps = [b - a for (_, a), (_, b) in pairwise(sent)]
    assert max(steps) == pytest.approx(1.0)  # no jump after the hold
    assert sent[-1][0] == pytest.approx(105.0, abs=0.2)


async def test_no_step_begins_while_held_but_a_stop_is_heard(autojump_clock: MockClock) -> None:
    one = bench()
    one.executor.hold.set("too warm")
    of = method({"kind": "setpoint", "target": HEATER, "value": 100.0})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.executor.run_to_completion, of)
        await trio.sleep(3600)
        assert one.dispatcher.sent == []
        one.stop.set("enough")
    assert one.dispatcher.sent == []
    assert one.kinds() == ["method.executor.stopped"]


async def test_cooling_is_never_held_up(autojump_clock: MockClock) -> None:
    one = bench()
    one.executor.hold.set("too warm")
    cooling = {"kind": "safe_shutdown", "cool_target": {"heater.setpoint": 20.0}}
    await one.executor.run_to_completion(method(cooling))
    assert one.dispatcher.values == [20.0]


async def test_a_cooldown_after_a_stop_is_not_held_either(autojump_clock: MockClock) -> None:
    one = bench()
    one.executor.hold.set("too warm")
    one.stop.set("enough")
    cooling = {"kind": "safe_shutdown", "cool_target": {"heater.setpoint": 20.0}}
    steps = method({**cooling, "duration_s": 30.0}).steps
    began_s = trio.current_time()
    await one.executor.run_segment(steps)
    assert trio.current_time() - began_s == pytest.approx(30.0)


async def test_a_timer_that_begins_while_held_begins_when_released(
    autojump_clock: MockClock,
) -> None:
    hold, moves = Hold(), list[float]()
    hold.set("first")
    hold.set("second")
    assert hold.reason == "second"
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def release() -> None:
            await trio.sleep(100)
            hold.release()
            hold.release()

        with hold.timer(trio.current_time() + 5, moves.append):
            await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(105)
    assert moves == [float("inf"), pytest.approx(105)]
    assert hold.reason == ""
