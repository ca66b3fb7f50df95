"""The daemon's side of safety: who watches, where trips are kept, and who may ask for what."""

import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio
from structlog.typing import FilteringBoundLogger

from capa.runtime.conductor import Conductor
from capa.runtime.rig import Rig
from capa.runtime.safety_book import RUNS_FREE, SPOOL_FREE
from capa.runtime.safety_monitor import Measure, OnVerdicts, SafetyMonitor
from capa.runtime.safety_requests import SafetyRequest, answer, open_box, take
from capa.runtime.trips import Trips, TripStore
from capad.settings import Settings

__all__ = ["SafetyDesk"]

_LOOK_S = 0.5
_MEGABYTE = 1e6


class SafetyDesk:
    """Keeps the trips for as long as the process lives; rigs, and their monitors, come and go.

    Trips are kept in the folder that holds the spool: it survives a reboot, and those who may
    drop files can't write there.
    """

    def __init__(self, settings: Settings, *, log: FilteringBoundLogger) -> None:
        self._settings = settings
        self._log = log
        self._store = TripStore(settings.spool.root.parent)
        self.trips = Trips(log=log)
        self.monitor: SafetyMonitor | None = None
        self.release: Callable[[str], Awaitable[str]] | None = None
        """Lets the queue go on, in somebody's name; the spool's."""

    async def load(self) -> None:
        """Take up what is latched on disk: by the last process, or by ``capa run`` since then.

        Called again once the rig is ours alone: until then ``capa run`` may have tripped.
        """
        standing = await trio.to_thread.run_sync(self._store.load)
        for trip in self.trips.take_up(standing):
            self._log.error("safety.still_tripped", rule=trip.rule, message=trip.message)

    async def save(self) -> None:
        """Have the files say what is latched, once more before the end."""
        if self.trips.unsaved:
            try:
                await trio.to_thread.run_sync(self.trips.save, self._store)
            except OSError as error:
                file = error.filename or self._store.file
                message = f"{file} can't be written: {error.strerror}"
                self._log.error("safety.trips_not_saved", message=message)

    def make_monitor(
        self,
        rig: Rig,
        conductor: Conductor,
        *,
        on_change: Callable[[], None],
        on_verdicts: OnVerdicts,
    ) -> SafetyMonitor:
        """Make what watches an open rig; the conductor tells it how each run was made safe."""
        if conductor.rules is None:
            raise RuntimeError("a conductor without rules can't be watched")
        monitor = SafetyMonitor(
            rig,
            conductor.rules,
            conductor.gate,
            self.trips,
            self._store,
            conductor,
            safing_budget_s=self._settings.safety.safing_budget_s,
            log=self._log,
            on_change=on_change,
            on_verdicts=on_verdicts,
            measure=self._measure(),
        )
        conductor.on_verdicts = monitor.judge
        conductor.forbidding = monitor.forbidding
        return monitor

    def _measure(self) -> Measure:
        folders = {RUNS_FREE: self._settings.runs.root, SPOOL_FREE: self._settings.spool.root}

        async def measure() -> Mapping[str, float]:
            # A disk that hangs must not keep the rig from being closed, nor the daemon from ending.
            return await trio.to_thread.run_sync(_free_mb, folders, abandon_on_cancel=True)

        return measure

    async def run(self) -> None:
        """Answer requests until cancelled."""
        try:
            box = await trio.to_thread.run_sync(open_box, self._settings.runtime.dir)
        except OSError as error:
            message = f"{self._settings.runtime.dir} can't be used ({error}): no `capa safety`"
            self._log.error("safety.no_requests", message=message)
            return
        while True:
            try:
                for request in await trio.to_thread.run_sync(take, box):
                    reply = await self._reply(request)
                    await trio.to_thread.run_sync(answer, box, request.id, reply)
            except OSError as error:
                self._log.warning("safety.requests_failed", message=str(error))
            await trio.sleep(_LOOK_S)

    async def _reply(self, request: SafetyRequest) -> dict[str, Any]:
        if request.do == "release" and self.release is not None:
            return await self._released(request, self.release)
        monitor = self.monitor
        if monitor is None:
            return {"ok": False, "text": "the rig is not open yet; ask again", **_NOTHING}
        if request.do == "show":
            trips = [asdict(trip) for trip in self.trips.latched]
            holding, raised = list(monitor.holding().values()), list(monitor.raised.values())
            return {"ok": True, "text": "", "trips": trips, "holding": holding, "raised": raised}
        if request.do != "clear":
            return {"ok": False, "text": f"no such request: {request.do!r}"}
        was = [trip.message for trip in self.trips.latched]
        refusal = monitor.clear(by=request.by, reason=request.reason, user=request.user)
        if refusal:
            words = f"not cleared: {refusal}"
            self._log.warning("safety.clear_refused", by=request.by, message=words)
            return {"ok": False, "text": words}
        return {"ok": True, "text": f"cleared by {request.by}: " + "; ".join(was)}

    async def _released(
        self, request: SafetyRequest, release: Callable[[str], Awaitable[str]]
    ) -> dict[str, Any]:
        """Remove the hold of the queue, in the name of who asked."""
        if not request.by.strip() or not request.reason.strip():
            return {"ok": False, "text": "not released: say who you are and why it may go on"}
        try:
            was = await release(f"{request.by} (user {request.user}): {request.reason}")
        except OSError as error:
            return {"ok": False, "text": f"not released: {error.filename}: {error.strerror}"}
        if not was:
            return {"ok": True, "text": "the queue was not held"}
        return {"ok": True, "text": f"released by {request.by}; it was held: {was}"}


_NOTHING: Mapping[str, list[str]] = {"trips": [], "holding": [], "raised": []}


def _free_mb(folders: Mapping[str, Path]) -> dict[str, float]:
    """Return the free space of each folder's disk; a folder that can't be looked at is left out."""
    found = {}
    for name, folder in folders.items():
        try:
            found[name] = shutil.disk_usage(_existing(folder)).free / _MEGABYTE
        except OSError:
            continue
    return found


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)
