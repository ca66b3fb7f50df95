"""A daemon's parts around a watched bench of twins, in virtual time and without a process."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from adapters.links.link import StreamLink
from capa.config.hardware import HardwareProfile
from capa.runtime.parts import Parts
from capa.runtime.safe_state import ChannelVerdict
from capa.runtime.stages import LaterStages
from capad.console import Console
from capad.opening import Opening
from capad.safing import Safing
from capad.service import Bench, Options, Service
from capad.settings import Settings
from capad.supervision import Notifier
from tests.support.engine import FAMILIES, quiet_log
from tests.support.watched import Watched, furnace_profile, watched

__all__ = ["Box", "box"]


@dataclass
class Box:
    """A daemon's parts around a watched bench, before it is ready."""

    service: Service
    opening: Opening
    safing: Safing
    bench: Bench
    watched: Watched
    out: io.StringIO

    @property
    def said(self) -> str:
        return self.out.getvalue()


@asynccontextmanager
async def box(folder: Path, of: HardwareProfile | None = None) -> AsyncIterator[Box]:
    wanted = furnace_profile() if of is None else of
    async with watched(folder, wanted) as w:
        out = io.StringIO()
        settings = Settings.model_validate(
            {"spool": {"root": folder / "spool"}, "runtime": {"dir": folder / "run"}}
        )
        service = Service(
            settings, Options(), console=Console(out), notifier=Notifier({}), log=quiet_log()
        )
        opening = Opening(service, terminate=lambda _reason: None)
        safing = Safing(service, made_safe=opening.made_safe)
        parts = Parts(wanted, Path("bench.toml"), "", FAMILIES, {}, StreamLink, {})
        later = LaterStages(
            wanted.safe_state, w.rig.registry, w.rig.bus, drive=_never, log=quiet_log()
        )
        bench = Bench(parts, w.rig, w.conductor, w.monitor, later, waits_for_all=True)
        service.bench, service.safety.monitor = bench, w.monitor
        yield Box(service, opening, safing, bench, w, out)


async def _never(_pending: object) -> dict[str, ChannelVerdict]:
    await trio.lowlevel.checkpoint()
    raise AssertionError("no later stage is due here")
