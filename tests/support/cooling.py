"""The later stages of a safe state on a bus alone: what is driven, and when, in virtual time."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio

from capa.channels.registry import ChannelRegistry
from capa.channels.sample import Sample, Status
from capa.config.hardware import SafeStage
from capa.runtime.databus import DataBus
from capa.runtime.moments import Moment
from capa.runtime.safe_state import ChannelVerdict, Verdict
from capa.runtime.stage_store import Pending, StageStore
from capa.runtime.stages import LaterStages
from tests.support.engine import FAMILIES, profile, quiet_log
from tests.support.watched import at_once

__all__ = ["HEAT_OFF", "PURGE_OFF", "Cooling", "cooling", "outcome", "stages_of"]

HEAT_OFF: dict[str, Any] = {"set": {"heater.setpoint": 20.0}}
PURGE_OFF: dict[str, Any] = {
    "set": {"purge.flow": 0.0},
    "when": {"channel": "heater.pv", "op": "<", "value": 200.0},
    "timeout_s": 7200.0,
}
_DAY = datetime(2026, 11, 20, tzinfo=UTC)


def stages_of(*tables: Mapping[str, Any]) -> tuple[SafeStage, ...]:
    """Make the stages of a safe state."""
    return tuple(SafeStage.model_validate(table) for table in tables)


def outcome(stage: SafeStage, verdict: Verdict = Verdict.PROVEN) -> dict[str, ChannelVerdict]:
    """Say how driving a stage ended."""
    at_s = trio.current_time()
    return {
        name: ChannelVerdict(name, value, verdict, value, "as told", at_s)
        for name, value in stage.set.items()
    }


@dataclass
class Cooling:
    """A process that waits for the later stages, and what it drove."""

    stages: tuple[SafeStage, ...]
    file: Path
    boot: str = "boot 1"
    wall_off_s: float = 0.0
    bus: DataBus = field(default_factory=DataBus)
    driven: list[tuple[float, int]] = field(default_factory=list)
    answers: list[Verdict] = field(default_factory=list)
    """How the next drives end; proven when there is none left."""
    takes_s: float = 0.0
    left: str | None = None
    """What stands in the file before the process starts, if it is not what the last one left."""
    later: LaterStages = field(init=False)

    def __post_init__(self) -> None:
        if self.left is not None:
            self.file.write_text(self.left)

    @property
    def kept(self) -> bool:
        """Whether a restart would find something due."""
        return self.file.exists()

    def spoil_file(self) -> None:
        """Have the file be one that can't be removed."""
        self.file.unlink()
        self.file.mkdir()

    def now(self) -> Moment:
        at_s = trio.current_time()
        return Moment(_DAY + timedelta(seconds=at_s + self.wall_off_s), self.boot, at_s)

    def publish(self, value: float, status: Status = Status.OK, *, age_s: float = 0.0) -> None:
        self.bus.publish([Sample("heater.pv", value, trio.current_time() - age_s, status)])

    def stage_one(self, verdict: Verdict = Verdict.PROVEN) -> None:
        """Have stage one driven, with nothing running."""
        self.later.heard(outcome(self.stages[0], verdict))

    async def drive(self, pending: Pending) -> Mapping[str, ChannelVerdict]:
        self.driven.append((trio.current_time(), pending.stage))
        await trio.sleep(self.takes_s)
        verdict = self.answers.pop(0) if self.answers else Verdict.PROVEN
        return outcome(self.stages[pending.stage], verdict)


@asynccontextmanager
async def cooling(one: Cooling) -> AsyncIterator[Cooling]:
    """Start a process that takes up what the last one left; its end is a kill."""
    store = StageStore(one.file)
    pending, _ = store.load(one.stages)
    registry = ChannelRegistry.from_profile(profile(), FAMILIES)
    one.bus = DataBus()
    one.later = LaterStages(
        one.stages,
        registry,
        one.bus,
        drive=one.drive,
        store=store,
        pending=pending,
        log=quiet_log(),
        now=one.now,
        save=at_once,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.later.run)
        yield one
        nursery.cancel_scope.cancel()
