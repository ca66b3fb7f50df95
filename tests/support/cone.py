"""The shipped cone rig on its twins, slowed down for the sake of the tests' own time."""

import sqlite3
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.alicat import FAMILY as ALICAT
from adapters.links.link import StreamLink
from adapters.modbus import FAMILY as MODBUS
from adapters.twin.memory import TwinHandle, twin_connectors
from adapters.watlow import FAMILY as WATLOW
from capa.config.hardware import HardwareProfile
from capa.config.load import load_profile
from capa.devices.adapter import AdapterFamily
from capa.experiment.procedures.live import ProcedureTick
from capa.runtime.report import RunReport
from capa.runtime.rig import Rig, open_rig
from tests.support.engine import quiet_log

FAMILIES: dict[str, AdapterFamily] = {"watlow": WATLOW, "alicat": ALICAT, "modbus": MODBUS}
CONFIGS = Path(__file__).parents[2] / "configs"
PROFILE = CONFIGS / "hardware" / "cone.toml"
EXPERIMENT = CONFIGS / "experiments" / "heat_flux_tune.experiment.toml"


def cone_profile(**furnace: Any) -> HardwareProfile:  # noqa: ANN401 - settings of the plant
    """Polled twice a second; ``furnace`` changes the plant's settings."""
    whole = load_profile(PROFILE, FAMILIES)
    devices = tuple(one.model_copy(update={"poll_hz": 2.0}) for one in whole.devices)
    twin = {**whole.twin, "furnace": {**whole.twin["furnace"], **furnace}}
    return whole.model_copy(update={"devices": devices, "twin": twin})


@asynccontextmanager
async def cone_rig(of: HardwareProfile | None = None) -> AsyncIterator[tuple[Rig, TwinHandle]]:
    """Open the cone on its twins, once every device has answered."""
    wanted = cone_profile() if of is None else of
    connectors, twins = twin_connectors(wanted, FAMILIES)
    async with open_rig(
        wanted,
        families=FAMILIES,
        link_class=StreamLink,
        connectors=connectors,
        log=quiet_log(),
        profile_file="cone.toml",
    ) as rig:
        await rig.wait_answering(5.0)
        yield rig, twins


@dataclass
class Screen:
    """Keeps the ticks that a procedure shows."""

    ticks: list[ProcedureTick] = field(default_factory=list)

    def publish(self, tick: ProcedureTick) -> None:
        self.ticks.append(tick)

    @property
    def states(self) -> list[str]:
        """The states in order, without repetitions."""
        seen: list[str] = []
        for tick in self.ticks:
            if not seen or seen[-1] != tick.state:
                seen.append(tick.state)
        return seen


def messages(report: RunReport, kind: str) -> list[str]:
    """Return the messages of all events of one kind in a run's bundle."""
    assert report.bundle is not None
    with sqlite3.connect(report.bundle / "events.sqlite") as db:
        rows = db.execute("select message from events where kind = ? order by id", (kind,))
        found = [str(row[0]) for row in rows]
    db.close()
    return found


def kinds(report: RunReport, prefix: str) -> list[str]:
    """Return the kinds of the events in a run's bundle that begin so, in order."""
    assert report.bundle is not None
    with sqlite3.connect(report.bundle / "events.sqlite") as db:
        rows = db.execute("select kind from events order by id").fetchall()
    db.close()
    return [str(row[0]).removeprefix(prefix) for row in rows if str(row[0]).startswith(prefix)]


def artifact(runs: Path) -> dict[str, Any]:
    """Read the one artifact that a tune has left beside its runs."""
    (path,) = (runs.parent / "tunes").glob("*.toml")
    return tomllib.loads(path.read_text())
