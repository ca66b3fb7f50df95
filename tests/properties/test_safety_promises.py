"""Whatever comes in: a latched trip never clears by itself, an override never outlives its step."""

import math
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from capa.channels.registry import ChannelRegistry
from capa.channels.sample import Sample, Status
from capa.experiment.method import AlarmOverride
from capa.runtime.databus import DataBus
from capa.runtime.safety_book import RECORDER_LAG, RUNS_FREE, RuleBook
from capa.runtime.safety_monitor import SafetyMonitor
from capa.runtime.trips import Trips, TripStore
from tests.support.engine import FAMILIES, method, quiet_log, request, virtual
from tests.support.watched import at_once, furnace_profile, watched

PROFILE = furnace_profile()
CHANNELS = [*(channel.name for channel in PROFILE.channels), RECORDER_LAG, RUNS_FREE]
REGISTRY = ChannelRegistry.from_profile(PROFILE, FAMILIES)

values = st.floats(-1e4, 1e4) | st.just(math.nan)
readings = st.tuples(
    st.floats(0, 4), st.sampled_from(CHANNELS), values | st.just(600.0), st.sampled_from(Status)
)


class NoRuns:
    """A conductor with nothing to conduct."""

    run_id = None
    recorder_lag_s = None

    def safety_stop(self, _reason: str, *, at_once: bool) -> bool:
        return at_once and False

    def safety_event(self, *_what: object, **_more: object) -> None:
        return

    def hold_method(self, _reason: str) -> None:
        return


class Gate:
    """Remembers whether it is shut."""

    trip = ""

    def latch(self, reason: str) -> None:
        self.trip = self.trip or reason

    def note(self, *_what: object) -> None:
        return


def book() -> RuleBook:
    return RuleBook.of(PROFILE, REGISTRY, commanded=lambda _: [(20.0, math.inf)], now_s=0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(readings, max_size=30))
def test_whatever_is_read_a_latched_trip_never_clears_by_itself(
    sequence: list[tuple[float, str, float, Status]],
) -> None:
    bus, gate, trips = DataBus(), Gate(), Trips(log=quiet_log())
    no_outputs = PROFILE.model_copy(update={"safe_state": ()})
    rig = SimpleNamespace(bus=bus, profile=no_outputs)

    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as folder:
            monitor = SafetyMonitor(
                cast("Any", rig),
                book(),
                cast("Any", gate),
                trips,
                TripStore(Path(folder)),
                NoRuns(),
                safing_budget_s=1.0,
                log=quiet_log(),
                save=at_once,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(monitor.run)
                latched: set[str] = set()
                for pause_s, channel, value, status in sequence:
                    await trio.sleep(pause_s)
                    real = value if status.usable else math.nan
                    bus.publish([Sample(channel, real, trio.current_time(), status)])
                    await trio.testing.wait_all_tasks_blocked()
                    now = {trip.rule for trip in trips.latched}
                    assert latched <= now
                    assert bool(gate.trip) == bool(now)
                    latched = now
                await trio.sleep(10)
                assert latched <= {trip.rule for trip in trips.latched}
                assert TripStore(Path(folder)).load() == trips.latched
                nursery.cancel_scope.cancel()

    virtual(scenario)


@settings(max_examples=30, deadline=None)
@given(at_s=st.floats(0, 25), how=st.sampled_from(["stop", "cancel", "trip", "fault"]))
def test_whenever_and_however_a_step_ends_its_overrides_are_over(at_s: float, how: str) -> None:
    overrides = [{"alarm_id": "over", "threshold": 900.0}, {"alarm_id": "warm", "disable": True}]
    hold = {"kind": "hold", "target": {"name": "heater.setpoint"}, "value": 100.0}
    ramp = {"kind": "ramp", "target": {"name": "heater.setpoint"}, "end_value": 200.0}
    of = method(
        {**hold, "duration_s": 8.0, "safety_overrides": overrides},
        {**ramp, "duration_s": 8.0, "safety_overrides": overrides[:1]},
        {**hold, "duration_s": 8.0},
    )

    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with watched(Path(folder), PROFILE) as w:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(w.conductor.run, request(of))
                    await trio.sleep(at_s)
                    if how == "stop":
                        w.conductor.stop("a test")
                    elif how == "cancel":
                        nursery.cancel_scope.cancel()
                    elif how == "trip":
                        w.twins.plant.set("furnace.temperature_degC", 950.0)
                    else:
                        w.twins.fault("silence", device="furnace")
                assert w.book.in_force("over") == "at 500"
                assert w.book.in_force("warm") == "at 450"

    virtual(scenario)


@given(st.lists(st.tuples(st.booleans(), st.none() | st.floats(0, 1e3)), max_size=6))
def test_nested_overrides_leave_nothing_behind(layers: list[tuple[bool, float | None]]) -> None:
    rules = book()

    def nest(left: list[tuple[bool, float | None]]) -> None:
        if not left:
            return
        disable, threshold = left[0]
        override = AlarmOverride(alarm_id="over", disable=disable, threshold=threshold)
        before = rules.in_force("over")
        with rules.overridden([override]):
            nest(left[1:])
        assert rules.in_force("over") == before

    nest(layers)
    assert rules.in_force("over") == "at 500"
