"""Opening a rig: the guardian's plan first, then the links, watched from the first sample on."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import trio

from capa.runtime.conductor import Conductor
from capa.runtime.console import verdict_lines
from capa.runtime.progress import RunProgress
from capa.runtime.rig import Rig
from capa.runtime.safe_state import ChannelVerdict, drive_safe_state
from capa.runtime.safety_monitor import SafetyMonitor
from capa.runtime.stage_store import STAGES_FILE, Pending, StageStore
from capa.runtime.stages import LaterStages
from capa.runtime.twin_child import running_twin
from capad.heartbeats import Heartbeat
from capad.service import Bench, Service
from capad.wiring import Parts, load_parts, make_conductor, open_parts

__all__ = ["CRASHED", "Opening"]

CRASHED = 2
_BUSY = "another program drives the rig; nothing was sent"
_BUSY_RETRY_S = 1.0
_DEVICE_BEAT_S = 5.0
_RECORDER_BEAT_S = 15.0
"""Longer than the conductor's own patience with the recorder, so that it can act first."""
_SPOOL_BEAT_S = 30.0
_SAFETY_BEAT_S = 2.0


class Opening:
    """Opens rigs, one after the other, and hears what happens on them.

    Args:
        service: the daemon.
        terminate: ends it, for a reason.

    ``busy`` says in words that another program drives the rig, while ``take`` waits for it; had it
    to, ``waited`` stays true.
    """

    def __init__(self, service: Service, *, terminate: Callable[[str], None]) -> None:
        self._service = service
        self._terminate = terminate
        self._said: dict[str, str] = {}
        self.busy = ""
        self.waited = False

    async def take(self) -> bool:
        """Wait until no other program drives the rig; False when told to end before that.

        Nothing is sent to it meanwhile: the safe state that a start drives would end a run of
        ``capa run``. For one shot nobody waits. Who is told to end looks once more, for the other
        may have died and left the rig as it was: then it is True all the same.
        """
        service = self._service
        while True:
            told_before = bool(service.stopping)
            words = await trio.to_thread.run_sync(service.guarding.take)
            if not words:
                self.busy = ""
                return True
            self.busy, self.waited = _BUSY, True
            if service.options.once:
                service.code = CRASHED
                self._terminate(words)
                return False
            if told_before:
                service.enter("STOPPING", _BUSY)
                service.warn("rig.left", f"nothing was sent to the rig: {words}")
                return False
            if service.stopping:
                continue
            text = f"waiting for the rig: {words}"
            if service.doing != text:
                service.enter("STARTING", text)
                service.warn("rig.busy", text)
            with service.woken(_BUSY_RETRY_S):
                await trio.sleep_forever()

    @asynccontextmanager
    async def opened(self, parts: Parts) -> AsyncIterator[Bench]:
        """Open the rig, on the twin if asked for, watched from the first sample on."""
        service = self._service
        async with (
            self._real_or_twin(parts) as used,
            open_parts(used, log=service.log) as rig,
            trio.open_nursery() as watch,
        ):
            conductor = make_conductor(
                rig,
                used,
                service.settings,
                log=service.log,
                on_progress=self._progressed,
            )
            monitor = service.safety.make_monitor(
                rig, conductor, on_change=self._alarmed, on_verdicts=self.made_safe
            )
            stages = await self._later_stages(used, rig, conductor, monitor)
            bench = Bench(used, rig, conductor, monitor, stages, self._waits_for_all(used))
            conductor.later, conductor.forbidding = stages, bench.forbidding
            service.bench, service.safety.monitor = bench, monitor
            await watch.start(monitor.run)
            watch.start_soon(stages.run)
            service.heartbeats.watch(self._beats)
            try:
                yield bench
            finally:
                service.bench = service.safety.monitor = None
                service.heartbeats.unwatch(self._beats)
                watch.cancel_scope.cancel()

    async def _later_stages(
        self, parts: Parts, rig: Rig, conductor: Conductor, monitor: SafetyMonitor
    ) -> LaterStages:
        """Make what drives the later stages; it goes on where the last process stopped waiting."""
        service, stages = self._service, parts.profile.safe_state
        real, toy = service.settings.spool.root.parent, service.settings.runtime.dir / "twin"
        store = StageStore((toy if service.options.twin else real) / STAGES_FILE)
        pending, words = await trio.to_thread.run_sync(store.load, stages)
        if words:
            service.log.warning("safe_state.later_forgotten", message=words)
        return LaterStages(
            stages,
            rig.registry,
            rig.bus,
            drive=partial(self._drive_later, rig, conductor, monitor),
            store=store,
            pending=pending,
            log=service.log,
            on_change=self._later_changed,
        )

    async def _drive_later(
        self, rig: Rig, conductor: Conductor, monitor: SafetyMonitor, pending: Pending
    ) -> Mapping[str, ChannelVerdict]:
        """Drive a later stage as the first one is driven; not reached after a run, it trips."""
        service = self._service
        verdicts = await drive_safe_state(
            rig,
            budget_s=service.settings.safety.safing_budget_s,
            stage=pending.stage,
            on_write=conductor.gate.note,
        )
        service.say_verdicts(verdicts)
        monitor.judge(verdicts, latch=bool(pending.after))
        return verdicts

    def _later_changed(self) -> None:
        """Hear that a later stage is waited for, driven, or through."""
        service = self._service
        if service.bench is not None and (words := service.bench.stages.waiting):
            service.console.waiting(f"cooling: {words}")
        elif service.bench is not None and (driven := service.bench.stages.verdicts):
            outputs = "; ".join(verdict_lines(driven))
            service.console.waiting(f"cooling is over: {outputs}")
        if service.options.once:
            service.wake()
        service.supervisor.refresh()

    def _waits_for_all(self, parts: Parts) -> bool:
        """Whether the next run waits for the last stage: the profile's word, else the box's."""
        asked = parts.profile.safety.next_run_may_start
        return (asked or self._service.settings.safety.next_run_may_start) == "after_last_stage"

    async def _guarded(self, parts: Parts) -> Parts:
        """Take the rig, and write the guardian's plan, before a link opens; return the parts."""
        service = self._service
        lacks = await trio.to_thread.run_sync(
            partial(service.guarding.prepare, parts, simulated=service.options.twin)
        )
        for words in (*lacks, service.guarding.trouble):
            if words is not None:
                service.console.say(words)
        await service.safety.load()  # from here on the rig is ours: what trips it, trips here
        return parts

    @asynccontextmanager
    async def _real_or_twin(self, parts: Parts) -> AsyncIterator[Parts]:
        service = self._service
        if not service.options.twin:
            yield await self._guarded(parts)
            return
        service.enter("STARTING", "waiting for the twin")
        directory = service.settings.runtime.dir / "twin"
        async with running_twin(
            parts.profile_file, directory, log=service.log, on_death=self._twin_died
        ) as file:
            simulated = await trio.to_thread.run_sync(load_parts, file, parts.procedures)
            yield await self._guarded(simulated)

    def _twin_died(self, message: str) -> None:
        service = self._service
        service.lost = message
        service.log.error("twin.died", message=message)
        service.console.say(message)
        if service.options.once:
            service.code = CRASHED
            self._terminate(message)

    def _alarmed(self) -> None:
        """Hear from the safety monitor that something was raised, cleared or latched."""
        service = self._service
        bench = service.bench
        if bench is not None:  # else the rig is being closed: nothing has cleared
            words = dict(bench.monitor.raised)
            for trip in service.safety.trips.latched:
                words[f"trip {trip.rule}"] = f"TRIPPED: {trip.message}"
            self._say_changes(words)
        service.supervisor.refresh()
        if service.options.once and service.safety.trips.latched:
            service.wake()

    def _say_changes(self, words: dict[str, str]) -> None:
        """Say what was raised, and what is over; a rule that only counts on is not repeated."""
        said, self._said = self._said, words
        for name in words.keys() - said.keys():
            self._service.console.say(words[name])
        for name in said.keys() - words.keys():
            self._service.console.say(f"cleared: {said[name]}")

    def made_safe(self, verdicts: Mapping[str, ChannelVerdict]) -> None:
        """Take note of how the safe state ended; what was not reached, the monitor tries again."""
        service = self._service
        service.made_safe(verdicts)
        if service.bench is not None:
            service.bench.stages.heard(verdicts)

    def _progressed(self, progress: RunProgress) -> None:
        """Hear of a step that began or ended."""
        service = self._service
        service.console.progress(progress)
        service.supervisor.refresh()

    def _beats(self) -> dict[str, Heartbeat]:
        """Return the heartbeats of all that is vital now."""
        service = self._service
        bench, spool = service.bench, service.spool
        beats = {}
        if bench is not None:
            reply_s = sum(link.reply_timeout_s for link in bench.parts.profile.links)
            age_s = _DEVICE_BEAT_S + 4 * reply_s
            beats = {name: Heartbeat(at, age_s) for name, at in bench.rig.heartbeats().items()}
            beats["safety monitor"] = Heartbeat(bench.monitor.beat_at_s, _SAFETY_BEAT_S)
            recorded_at_s = bench.conductor.recorder_beat_at_s
            if recorded_at_s is not None:
                beats["recorder"] = Heartbeat(recorded_at_s, _RECORDER_BEAT_S)
        if spool is not None and spool.scanned.is_set():
            beats["spool"] = Heartbeat(
                spool.beat_at_s, service.settings.spool.rescan_s + _SPOOL_BEAT_S
            )
        return beats
