"""One run in the foreground: a rig opened for it, made safe before and after it."""

import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from capa.cli.keyboard import HELP, Keyboard
from capa.runtime.conductor import Conductor
from capa.runtime.console import RunConsole
from capa.runtime.gate import Gate
from capa.runtime.parts import Parts, load_parts, open_parts
from capa.runtime.progress import RunProgress
from capa.runtime.report import RunReport, RunRequest
from capa.runtime.rig import Rig
from capa.runtime.safe_state import ChannelVerdict, Verdict, drive_safe_state
from capa.runtime.safety_book import RuleBook
from capa.runtime.safety_monitor import SafetyMonitor
from capa.runtime.stage_store import STAGES_FILE, Pending, StageStore
from capa.runtime.stages import LaterStages
from capa.runtime.trips import Trips, TripStore
from capa.runtime.twin_child import running_twin
from capa.storage.finalize import finalize_in_child

__all__ = ["ABORTED", "CLEARING", "COMPLETED", "CRASHED", "NOT_VERIFIED", "ForegroundRun"]

COMPLETED, ABORTED, CRASHED, NOT_VERIFIED = 0, 1, 2, 3
CLEARING = "nothing is armed until capad runs and: capa safety clear --by NAME --reason TEXT"
ANSWER_WAIT_S = 10.0
GRACE_S = 10.0
SAFING_BUDGET_S = 5.0
_FOLLOW_S = 0.25


@dataclass(slots=True)
class ForegroundRun:
    """From an open terminal to an exit code.

    Args:
        parts: the profile and what it takes.
        request: the run.
        runs_root: where its bundle goes.
        twin_dir: where the twin that stands in for the instruments is put; None for a real rig.
        keyboard: the descriptor of a terminal whose lines are obeyed; None where there is none.
        state: where the box keeps what trips, and what is due of the safe state, for its daemon and
            the next run; None without a box.
        sign_key: the key that signs the bundle; None where there is none.
    """

    parts: Parts
    request: RunRequest
    runs_root: Path
    twin_dir: Path | None
    console: RunConsole
    log: FilteringBoundLogger
    keyboard: int | None = None
    state: Path | None = None
    sign_key: Path | None = None
    _trips: Trips = field(init=False)
    _gate: Gate | None = None
    _monitor: SafetyMonitor | None = None
    _conductor: Conductor | None = None
    _ran: bool = False
    """Whether a run came to be, as far as anybody knows."""
    _stopping: str = ""
    _waiting: trio.CancelScope = field(default_factory=trio.CancelScope)
    _cooling: trio.CancelScope | None = None

    def __post_init__(self) -> None:
        self._trips = Trips(log=self.log)

    async def run(self) -> int:
        """Open, make safe, run, make safe; return the exit code.

        Raises:
            ProblemsError (in groups): the twin does not start.
        """
        code = CRASHED
        async with trio.open_nursery() as nursery:
            await nursery.start(self.listen)
            async with self._real_or_twin() as parts, open_parts(parts, log=self.log) as rig:
                stages = await self._later_stages(rig)
                was_due = bool(stages.due)
                try:
                    code = await self._on(rig, parts, stages)
                finally:
                    with trio.move_on_after(2 * SAFING_BUDGET_S, shield=True):
                        left = await self._last_drive(rig, stages)
                        code = self._judged(code, left)
                        await self._leave(stages, left, tell=was_due or self._ran)
            nursery.cancel_scope.cancel()
        return code

    async def _last_drive(self, rig: Rig, stages: LaterStages) -> Mapping[str, ChannelVerdict]:
        """Drive stage one before the links close, unless that took back what a later stage did.

        Once all stages are through there is nobody left to drive such an output again.
        """
        first = rig.profile.safe_state[0].set if rig.profile.safe_state else {}
        if not stages.due and stages.verdicts.keys() & first.keys():
            return {}
        return await drive_safe_state(rig, budget_s=SAFING_BUDGET_S)

    async def listen(self, task_status: trio.TaskStatus[None]) -> None:
        """Ctrl-C stops the run, a second one ends its cooldown; SIGTERM does both at once.

        Once the run is over, either ends the wait for the later stages of the safe state. A
        terminal that goes away (SIGHUP) is as SIGTERM; Ctrl-Z is not heard: a process that sleeps
        leaves the heater on.
        """
        for unheard in (signal.SIGTSTP, signal.SIGTTIN):
            signal.signal(unheard, signal.SIG_IGN)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                self.interrupted(name, times=1 if number == signal.SIGINT else 2)

    def interrupted(self, name: str, *, times: int) -> None:
        """Hear a signal; each time that it counts for is one request to stop."""
        if self._cooling is not None:
            self._cooling.cancel()
            return
        reason = f"{name}: an operator asked for an abort"
        again = " once more: the cooldown ends" if self._stopping else ""
        self.console.say(f"aborting ({name}){again}: the rig is made safe")
        self._stopping = reason
        self._waiting.cancel()
        if self._conductor is not None:
            for _ in range(times):
                self._conductor.stop(reason)

    @asynccontextmanager
    async def _real_or_twin(self) -> AsyncIterator[Parts]:
        if self.twin_dir is None:
            yield self.parts
            return
        async with running_twin(
            self.parts.profile_file, self.twin_dir, log=self.log, on_death=self.console.say
        ) as file:
            yield await trio.to_thread.run_sync(load_parts, file, self.parts.procedures)

    async def _on(self, rig: Rig, parts: Parts, stages: LaterStages) -> int:
        twin = ", simulated by twins" if self.twin_dir is not None else ""
        self.console.say(f"rig {parts.profile.name} ({self.parts.profile_file}){twin}")
        gate = self._gate = Gate(rig, log=self.log)
        if not await self._ready(rig, parts, stages, gate):
            return ABORTED if self._stopping else CRASHED
        rules = RuleBook.of(
            rig.profile,
            rig.registry,
            commanded=gate.commanded,
            now_s=trio.current_time(),
            trouble=rig.trouble,
        )
        conductor = self._conductor = Conductor(
            rig,
            gate=gate,
            rules=rules,
            procedures=parts.procedures,
            runs_root=self.runs_root,
            grace_s=GRACE_S,
            safing_budget_s=SAFING_BUDGET_S,
            log=self.log,
            on_progress=self._progressed,
            finalize=partial(finalize_in_child, sign_key=self.sign_key),
        )
        monitor = self._monitor = SafetyMonitor(
            rig,
            rules,
            gate,
            self._trips,
            self._trip_store,
            conductor,
            safing_budget_s=SAFING_BUDGET_S,
            log=self.log,
            on_verdicts=stages.heard,
        )
        conductor.on_verdicts, conductor.forbidding = monitor.judge, monitor.forbidding
        conductor.later = stages
        async with trio.open_nursery() as nursery:
            await nursery.start(monitor.run)
            nursery.start_soon(self._follow, conductor)
            if self.keyboard is not None:
                self.console.say(f"  {HELP}")
                nursery.start_soon(Keyboard(self.keyboard, conductor, self.console.say).run)
            self._ran = True
            report = await conductor.run(self.request)
            self._ran = report.run_id is not None
            code = self._told(report)
            if self._ran and self.twin_dir is None:
                code = max(code, await self._cooled(stages))
            nursery.cancel_scope.cancel()
        return code

    @property
    def _trip_store(self) -> TripStore | None:
        return None if self.state is None else TripStore(self.state)

    async def _leave(
        self, stages: LaterStages, left: Mapping[str, ChannelVerdict], *, tell: bool
    ) -> None:
        """Have the box know what tripped and what is still due, now that nothing more is driven.

        An output that was not reached before anything ran latches nothing, as in the daemon: an
        instrument that is switched off needs nobody's name to be switched on again.
        """
        if self._monitor is not None and self._ran:
            self._monitor.judge(left)
        if stages.due:
            stages.heard(left)
        await self._keep_trips()
        due = await stages.leave()
        if due and tell and self.twin_dir is None:
            self.console.say(f"NOT DONE: {due}; capad does it when it is started")

    async def _keep_trips(self) -> None:
        """Have the box know what tripped: its daemon arms nothing until somebody has cleared it."""
        trips, store = self._trips, self._trip_store
        for trip in trips.latched:
            self.console.say(f"TRIPPED: {trip.message}")
        if store is None or not trips.latched:
            return
        try:
            if trips.unsaved:
                await trio.to_thread.run_sync(trips.save, store)
        except OSError as error:
            file = error.filename or store.file
            self.console.say(f"NOT LATCHED: {file} can't be written: {error.strerror}")
        else:
            self.console.say(f"  latched: {CLEARING}")

    async def _later_stages(self, rig: Rig) -> LaterStages:
        """Make what drives the later stages. What the daemon waited for is over once a run heats.

        So it is taken from the daemon here, called off when the run begins, and what is due after
        the run is what the daemon finds.
        """
        stages = rig.profile.safe_state
        store = pending = None
        if self.state is not None:
            store = StageStore(self.state / STAGES_FILE)
            pending, words = await trio.to_thread.run_sync(store.load, stages)
            if words:
                self.log.warning("safe_state.later_forgotten", message=words)
        return LaterStages(
            stages,
            rig.registry,
            rig.bus,
            drive=partial(self._drive_later, rig),
            store=store,
            pending=pending,
            log=self.log,
        )

    async def _drive_later(self, rig: Rig, pending: Pending) -> Mapping[str, ChannelVerdict]:
        found = await drive_safe_state(
            rig,
            budget_s=SAFING_BUDGET_S,
            stage=pending.stage,
            on_write=None if self._gate is None else self._gate.note,
        )
        if self._monitor is not None:
            self._monitor.judge(found)
        for one in found.values():
            self.console.waiting(f"{one.channel} = {one.value:g}: {one.verdict}, {one.detail}")
        return found

    async def _cooled(self, stages: LaterStages) -> int:
        """Wait for the later stages of the safe state, until a signal says not to.

        A simulated furnace needs nobody to wait for it.
        """
        with trio.CancelScope() as self._cooling:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stages.run)
                while stages.due:
                    self.console.waiting(f"cooling: {stages.due}; Ctrl-C leaves it")
                    await trio.sleep(_FOLLOW_S)
                nursery.cancel_scope.cancel()
        return CRASHED if _unreachable(stages.verdicts) else COMPLETED

    async def _ready(self, rig: Rig, parts: Parts, stages: LaterStages, gate: Gate) -> bool:
        """Wait for the devices, and prove the rig safe before anything is asked of it."""
        with self._waiting:
            answering = await rig.wait_answering(ANSWER_WAIT_S)
            silent = [
                device.name
                for device in parts.profile.devices
                if device.required and not answering[device.name]
            ]
            for name in silent:
                self.console.say(f"{name} does not answer: {rig.health(name).detail}")
            verdicts = await drive_safe_state(rig, budget_s=SAFING_BUDGET_S, on_write=gate.note)
            stages.heard(verdicts)
            unsafe = _unreachable(verdicts)
            for line in unsafe:
                self.console.say(f"not safe before the run: {line}")
            return not silent and not unsafe and not self._stopping
        return False

    def _progressed(self, progress: RunProgress) -> None:
        """Show it; a prompt waits for its answer where somebody is there to give one."""
        metadata = None if self._conductor is None else self._conductor.metadata
        if self.keyboard is not None and metadata is not None:
            metadata["_operator_attached"] = True
        self.console.progress(progress)

    async def _follow(self, conductor: Conductor) -> None:
        while True:
            if (progress := conductor.progress) is not None:
                self.console.progress(progress)
            await trio.sleep(_FOLLOW_S)

    def _told(self, report: RunReport) -> int:
        """Say how it ended; return the exit code."""
        self.console.say(f"{self.request.source_name}: {report.run_status.upper()}")
        self.console.say(f"  {report.exit_reason}")
        for problem in report.problems:
            if report.run_status != "refused" or not problem.blocking:
                self.console.say(f"  {'' if problem.blocking else 'warning: '}{problem}")
        self.console.how_it_ended(report)
        if report.run_status in ("crashed", "refused"):
            return CRASHED
        if report.run_status == "aborted":
            return ABORTED
        if report.bundle_status != "sealed":
            self.console.say(f"  the bundle is not sealed: {report.bundle_status}")
            return NOT_VERIFIED
        return COMPLETED

    def _judged(self, code: int, left: Mapping[str, ChannelVerdict]) -> int:
        """A rig that is not known to be safe is no success, whatever the run was."""
        unsafe = _unreachable(left)
        for line in unsafe:
            self.console.say(f"NOT SAFE: {line}")
        return CRASHED if unsafe and code == COMPLETED else code


def _unreachable(verdicts: Mapping[str, ChannelVerdict]) -> list[str]:
    return [
        f"{one.channel} = {one.value:g}: {one.detail}"
        for one in verdicts.values()
        if one.verdict is Verdict.UNREACHABLE
    ]
