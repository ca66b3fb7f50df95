"""Whatever is cancelled and however late a device is, a reply goes to whom it belongs."""

from collections.abc import Sequence
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from capa.devices.link import Priority
from capa.errors import CapaError
from tests.support.bench_device import open_bench

TIMEOUT_S = 0.1
LATEST_S = 0.55  # within the deadline and as long again, half a second at least

urgencies = st.sampled_from(Priority)
plans = st.lists(
    st.tuples(
        st.floats(0, LATEST_S),  # the device's delay
        st.floats(0, 0.8) | st.just(60.0),  # when the caller gives up
        st.floats(0, 0.2),  # when the caller comes
        urgencies,
    ),
    min_size=1,
    max_size=6,
)


async def _ask_all(plan: Sequence[tuple[float, float, float, Priority]]) -> None:
    async with open_bench("memory", Path(), reply_timeout_s=TIMEOUT_S) as bench:

        async def ask(name: str, give_up_s: float, come_s: float, priority: Priority) -> None:
            await trio.sleep(come_s)
            with trio.move_on_after(give_up_s):
                try:
                    assert await bench.ask(name, priority=priority) == name
                except CapaError:
                    return

        for delay_s, *_ in plan:
            bench.device.next_reply_late(delay_s)
        async with trio.open_nursery() as nursery:
            for index, (_, give_up_s, come_s, priority) in enumerate(plan):
                nursery.start_soon(ask, f"caller {index}", give_up_s, come_s, priority)
        bench.device.scripts.clear()
        with trio.fail_after(5):
            assert await bench.ask("afterwards") == "afterwards"


@settings(max_examples=150, deadline=None)
@given(plan=plans)
def test_whoever_gives_up_and_however_late_the_device_every_reply_reaches_its_own_caller(
    plan: list[tuple[float, float, float, Priority]],
) -> None:
    trio.run(_ask_all, plan, clock=MockClock(autojump_threshold=0))


@settings(max_examples=60, deadline=None)
@given(at_s=st.floats(0, 0.4), gone_s=st.floats(0.01, 3), late_s=st.floats(0, 0.09))
def test_whenever_the_port_vanishes_every_caller_hears_of_it_and_the_next_is_answered(
    at_s: float, gone_s: float, late_s: float
) -> None:
    async def main() -> None:
        async with open_bench("memory", Path(), reply_timeout_s=TIMEOUT_S) as bench:
            answers: list[str] = []

            async def poll(name: str) -> None:
                for _ in range(20):
                    bench.device.next_reply_late(late_s)
                    try:
                        answers.append(await bench.ask(name))
                        assert answers[-1] == name
                    except CapaError as error:
                        answers.append(type(error).__name__)
                        bench.device.scripts.clear()
                        await trio.sleep(0.05)

            async with trio.open_nursery() as nursery:
                for name in ("one", "two"):
                    nursery.start_soon(poll, name)
                await trio.sleep(at_s)
                bench.port.switch(present=False)
                await trio.sleep(gone_s)
                bench.port.switch(present=True)
            await bench.link.up()
            assert await bench.ask("afterwards") == "afterwards"
            assert len(answers) == 40

    trio.run(main, clock=MockClock(autojump_threshold=0))
