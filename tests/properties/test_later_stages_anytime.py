"""Whatever instant a restart happens: no later stage is driven before its condition or its time."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cooling import HEAT_OFF, Cooling, cooling, stages_of
from tests.support.engine import virtual

LONG_S = 400.0
OVER_S = 0.6
"""How long the last process lives on behind the last whole second."""
PHASE_S = 0.25
"""Readings come at whole seconds and a quarter: never at the instant of a restart."""


@dataclass(frozen=True)
class Later:
    below: float | None
    timeout_s: int | None

    @property
    def table(self) -> dict[str, Any]:
        found: dict[str, Any] = {"set": {"purge.flow": 0.0}}
        if self.below is not None:
            found["when"] = {"channel": "heater.pv", "op": "<", "value": self.below}
        if self.timeout_s is not None:
            found["timeout_s"] = self.timeout_s
        return found


@dataclass(frozen=True)
class Furnace:
    """Cools from 600 degC, and is mute for a while."""

    fall_per_s: float
    mute_from_s: int
    mute_for_s: int

    def at(self, second: int) -> float:
        if self.mute_from_s <= second < self.mute_from_s + self.mute_for_s:
            return math.nan
        return 600.0 - self.fall_per_s * second


LATER = st.builds(
    Later,
    below=st.none() | st.sampled_from([550.0, 400.0, 200.0, -1.0]),
    timeout_s=st.none() | st.integers(1, 250),
)
FURNACE = st.builds(
    Furnace,
    fall_per_s=st.floats(0.5, 10.0),
    mute_from_s=st.integers(0, 200),
    mute_for_s=st.integers(0, 150),
)
RESTARTS = st.lists(st.tuples(st.integers(1, 120), st.integers(1, 60)), max_size=3)
"""For how long the process lives until it is killed, and for how long it is dead then."""


def lives(restarts: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """Return from when until when there is a process; a half second apart from all readings."""
    found, at_s = [], 0.0
    for alive_s, dead_s in restarts:
        found.append((at_s, at_s + alive_s + 0.5))
        at_s = at_s + alive_s + 0.5 + dead_s
    return [*found, (at_s, max(at_s, LONG_S) + 1000.0)]


def expected(
    stages: list[Later], furnace: Furnace, alive: list[tuple[float, float]], end_s: float
) -> list[tuple[float, int]]:
    """Return when which stage has to be driven, by the rules alone."""
    found, since_s, stage = [], 0.0, 0
    for begin_s, killed_s in alive:
        now_s = begin_s
        while stage < len(stages):
            at_s = _next(stages[stage], furnace, since_s, now_s, end_s)
            if at_s >= killed_s or at_s > end_s + OVER_S:
                break
            found.append((at_s, stage + 1))
            since_s = now_s = at_s
            stage += 1
    return found


def _next(later: Later, furnace: Furnace, since_s: float, now_s: float, end_s: float) -> float:
    if later.below is None and later.timeout_s is None:
        return now_s
    timed_s = math.inf if later.timeout_s is None else since_s + later.timeout_s
    cool_s = math.inf
    if later.below is not None:
        seconds = range(math.ceil(now_s - PHASE_S + 1e-6), int(end_s) + 1)
        cool_s = next((k + PHASE_S for k in seconds if furnace.at(k) < later.below), math.inf)
    return max(now_s, min(timed_s, cool_s))


@settings(max_examples=150, deadline=None)
@given(later=st.lists(LATER, min_size=1, max_size=3), furnace=FURNACE, restarts=RESTARTS)
def test_each_later_stage_is_driven_when_its_condition_holds_or_its_time_is_over_and_never_before(
    later: list[Later], furnace: Furnace, restarts: list[tuple[int, int]]
) -> None:
    alive = lives(restarts)
    end_s = alive[-1][0] + LONG_S

    async def scenario() -> list[tuple[float, int]]:
        began_s = trio.current_time()
        driven: list[tuple[float, int]] = []
        stages = stages_of(HEAT_OFF, *(one.table for one in later))
        for begin_s, killed_s in alive:
            await trio.sleep_until(began_s + begin_s)
            process = Cooling(stages, file, driven=driven)
            with trio.move_on_at(began_s + min(killed_s, end_s + OVER_S)):
                async with cooling(process) as one:
                    one.stage_one()
                    second = math.ceil(begin_s - PHASE_S + 1e-6)
                    while True:
                        await trio.sleep_until(began_s + second + PHASE_S)
                        one.publish(furnace.at(second))
                        second += 1
        return [(at_s - began_s, stage) for at_s, stage in driven]

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "safe_stages.json"
        driven = virtual(scenario)
    through = min(len(later), len(driven))
    wanted = expected(later, furnace, alive, end_s)
    assert [stage for _, stage in driven[:through]] == [stage for _, stage in wanted]
    assert [at for at, _ in driven[:through]] == pytest.approx([at for at, _ in wanted], abs=1e-6)
