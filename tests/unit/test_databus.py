"""The data bus: the latest value, who waits for the next, and what a late reader loses."""

import pytest
import trio
from trio.testing import MockClock

from capa.channels.sample import Sample
from capa.runtime.databus import DataBus


def sample(channel: str, value: float) -> Sample:
    return Sample(channel, value, trio.current_time())


async def test_the_latest_value_has_an_age(autojump_clock: MockClock) -> None:
    bus = DataBus()
    assert bus.latest("pv") is None
    assert bus.age_s("pv") is None
    bus.publish([sample("pv", 1.0), sample("pv", 2.0)])
    await trio.sleep(3)
    latest = bus.latest("pv")
    assert latest is not None
    assert latest.value == 2.0
    assert bus.age_s("pv") == pytest.approx(3)


async def test_a_reader_gets_what_it_asked_for_and_all_of_it(autojump_clock: MockClock) -> None:
    bus = DataBus()
    with bus.subscribe("pv") as some, bus.subscribe() as everything:
        bus.publish([sample("pv", 1.0), sample("flow", 2.0)])
        bus.publish([sample("pv", 3.0)])
        assert [one.value for one in await some.get()] == [1.0, 3.0]
        assert [one.value for one in await everything.get()] == [1.0, 2.0, 3.0]


async def test_a_waiting_reader_is_woken_by_a_sample(autojump_clock: MockClock) -> None:
    bus = DataBus()
    async with trio.open_nursery() as nursery:

        async def publish() -> None:
            await trio.sleep(7)
            bus.publish([sample("pv", 1.0)])

        nursery.start_soon(publish)
        with bus.subscribe("pv") as reader:
            await reader.get()
    assert trio.current_time() == pytest.approx(7)


async def test_a_late_reader_loses_the_oldest_and_knows_how_many(
    autojump_clock: MockClock,
) -> None:
    bus = DataBus()
    with bus.subscribe("pv", maxlen=3) as reader:
        for value in range(10):
            bus.publish([sample("pv", float(value))])
        assert [one.value for one in await reader.get()] == [7.0, 8.0, 9.0]
        assert reader.dropped == 7


async def test_who_has_left_gets_nothing_more(autojump_clock: MockClock) -> None:
    bus = DataBus()
    seen: list[int] = []
    tap = lambda samples: seen.append(len(samples))  # noqa: E731 - it must be removed by identity
    bus.add_tap(tap)
    with bus.subscribe("pv"):
        bus.publish([sample("pv", 1.0)])
    bus.remove_tap(tap)
    bus.remove_tap(tap)
    bus.publish([sample("pv", 2.0)])
    assert seen == [1]
