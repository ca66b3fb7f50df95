"""A bench of twins with a conductor and the safety monitor watching, in virtual time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from adapters.twin.memory import TwinHandle
from capa.config.hardware import HardwareProfile
from capa.runtime.conductor import Conductor
from capa.runtime.gate import Gate
from capa.runtime.rig import Rig
from capa.runtime.safety_book import RuleBook
from capa.runtime.safety_monitor import Measure, SafetyMonitor
from capa.runtime.trips import Trips, TripStore
from tests.support.engine import bench_rig, conductor, profile, quiet_log

__all__ = ["Watched", "at_once", "furnace_profile", "until", "watched"]


async def at_once(work: Callable[[], None]) -> None:
    """Stand in for a thread: virtual time can't wait for one."""
    await trio.lowlevel.checkpoint()
    work()


async def until(look: Callable[[], object], *, within_s: float = 60.0) -> None:
    """Return once ``look`` returns something true; fail after ``within_s``."""
    for _ in range(round(within_s / 0.05)):
        if look():
            return
        await trio.sleep(0.05)
    raise AssertionError(f"not within {within_s} s")


def furnace_profile(**changes: object) -> HardwareProfile:
    """The bench with an over-temperature alarm, a power channel, and its thermal rules."""
    channels: list[dict[str, Any]] = [c.model_dump() for c in profile().channels]
    by_name = {channel["name"]: channel for channel in channels}
    by_name["heater.pv"]["alarms"] = [
        {"id": "over", "op": ">", "threshold": 500.0, "hysteresis": 5.0, "action": "safe_shutdown"},
        {"id": "warm", "op": ">", "threshold": 450.0, "action": "pause"},
    ]
    power = {"name": "heater.power", "kind": "power", "unit": "%", "device": "furnace"}
    channels.append({**power, "field": "power"})
    thermal = {"setpoint": "heater.setpoint", "pv": "heater.pv", "power": "heater.power"}
    safety = {"sensor": {"channels": {"heater.pv": "safe_shutdown"}}, "thermal": [thermal]}
    return profile(**{"channels": channels, "safety": safety, **changes})


@dataclass
class Watched:
    """Everything that watches and is watched."""

    rig: Rig
    twins: TwinHandle
    gate: Gate
    book: RuleBook
    conductor: Conductor
    trips: Trips
    store: TripStore
    monitor: SafetyMonitor
    changes: list[str] = field(default_factory=list)

    def outputs(self) -> dict[str, float]:
        return self.twins.outputs()

    @property
    def tripped(self) -> list[str]:
        return [trip.rule for trip in self.trips.latched]


@asynccontextmanager
async def watched(
    folder: Path,
    of: HardwareProfile | None = None,
    *,
    trips: Trips | None = None,
    measure: Measure | None = None,
    **changes: object,
) -> AsyncIterator[Watched]:
    """Open the bench on its twins, watched; the trips are kept in ``folder``."""
    async with (
        bench_rig(furnace_profile() if of is None else of) as (rig, twins),
        trio.open_nursery() as nursery,
    ):
        gate = Gate(rig, log=quiet_log())
        now_s = trio.current_time()
        book = RuleBook.of(
            rig.profile,
            rig.registry,
            commanded=gate.commanded,
            now_s=now_s,
            trouble=rig.trouble,
        )
        one = conductor(rig, folder / "runs", gate=gate, rules=book, **changes)
        kept = Trips(log=quiet_log()) if trips is None else trips
        store = TripStore(folder)
        monitor = SafetyMonitor(
            rig,
            book,
            gate,
            kept,
            store,
            one,
            safing_budget_s=5.0,
            log=quiet_log(),
            measure=measure,
            save=at_once,
        )
        one.on_verdicts = monitor.judge
        one.forbidding = monitor.forbidding
        await nursery.start(monitor.run)
        yield Watched(rig, twins, gate, book, one, kept, store, monitor)
        nursery.cancel_scope.cancel()
