"""How often an EZ-ZONE's power and setpoint are read, whatever becomes of the polls."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from adapters.watlow.adapter import WatlowAdapter
from adapters.watlow.twin import WatlowTwin
from capa.devices.spec import DeviceSpec
from capa.errors import DeviceError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

SLOW = ("power", "setpoint", "mode")


class Bench:
    def __init__(self, slow_hz: float = 2.0) -> None:
        options = {"slow_hz": slow_hz, "also_read": ["mode"]}
        twin = {"reply_delay_s": 0.01}
        spec = DeviceSpec(
            name="heater", adapter="watlow", link="bus", poll_hz=10.0, options=options, twin=twin
        )
        self.twin = WatlowTwin(spec, StillPlant())
        self.driver = WatlowAdapter(spec, DirectLink([self.twin]))
        self.read_at_s: dict[str, list[float]] = {name: [] for name in SLOW}

    async def poll(self, times: int, due_s: Callable[[int], float]) -> None:
        begun_s = trio.current_time()
        for index in range(times):
            await trio.sleep_until(begun_s + due_s(index))
            for reading in await self.driver.poll():
                if reading.field in SLOW:
                    self.read_at_s[reading.field].append(reading.at_s)

    def gaps_s(self, field: str) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.read_at_s[field])]


async def test_polls_that_are_on_time_read_power_and_setpoint_by_turns(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    await bench.poll(100, lambda n: 0.1 * n + 0.03 * (n % 3 == 1))  # give or take
    assert {name: len(times) for name, times in bench.read_at_s.items()} == {
        "power": 20, "mode": 20, "setpoint": 21,
    }  # fmt: skip
    for power_s, setpoint_s in zip(
        bench.read_at_s["power"], bench.read_at_s["setpoint"][1:], strict=True
    ):
        assert setpoint_s - power_s == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize(
    ("period_s", "longest_s"), [(0.2, 0.6), (0.3, 0.6), (0.5, 0.5), (2.0, 2.0)]
)
async def test_power_and_setpoint_are_read_in_time_where_polls_are_slow(
    period_s: float, longest_s: float, autojump_clock: MockClock
) -> None:
    bench = Bench()
    await bench.poll(round(30.0 / period_s), lambda n: period_s * n)
    for name in SLOW:
        assert max(bench.gaps_s(name)) == pytest.approx(longest_s, abs=0.05)


async def test_after_polls_that_failed_everything_that_is_overdue_is_read(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(slow_hz=0.2)
    await bench.poll(5, lambda n: 0.1 * n)
    bench.twin.fault("exception", active=True)
    for _ in range(70):
        with pytest.raises(DeviceError):
            await bench.driver.poll()
        await trio.sleep(0.1)
    bench.twin.fault("exception", active=False)
    await bench.poll(1, lambda _: 0.0)
    assert [len(bench.read_at_s[name]) for name in SLOW] == [2, 2, 2]
