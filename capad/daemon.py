"""The daemon: one nursery, one rig at a time in it, one run at a time in that.

Signals, supervision and the spool live as long as the process; a rig lives until the profile is
read again; a run lives inside its rig, which is why a stop has links to travel on.
"""

import gc
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import trio
from structlog.typing import FilteringBoundLogger

from capa.config.problems import ProblemsError
from capa.plugins.later import ProceduresLater
from capa.runtime.conductor import Conductor
from capa.runtime.progress import RunProgress
from capa.runtime.report import RunReport, RunRequest
from capa.runtime.rig import Rig
from capa.runtime.safe_state import ChannelVerdict, Verdict, drive_safe_state
from capa.runtime.safety_monitor import SafetyMonitor
from capa.runtime.twin_child import running_twin
from capad.console import Console
from capad.guarding import Guarding, guard_report
from capad.heartbeats import Heartbeat, Heartbeats
from capad.intake import Intake, Prepared, config_text
from capad.jobs import Job, shown_name
from capad.lock import SpoolLock
from capad.recovery import recover
from capad.reports import Report, before_arming, of_run
from capad.safety_desk import SafetyDesk
from capad.settings import Settings
from capad.signals import listen
from capad.spool import Spool
from capad.spool_folders import SpoolFolders
from capad.status import SafeRecord, Snapshot, status_line
from capad.supervision import Notifier, Supervisor
from capad.wiring import Parts, find_plugins, load_parts, make_conductor, open_parts

__all__ = ["Daemon", "Options"]

ABORTED, CRASHED, NOT_VERIFIED = 1, 2, 3
_DEVICE_BEAT_S = 5.0
_RECORDER_BEAT_S = 15.0
"""Longer than the conductor's own patience with the recorder, so that it can act first."""
_SPOOL_BEAT_S = 30.0
_SAFETY_BEAT_S = 2.0
_SAFE_RETRY_S = 2.0
_ANSWER_WAIT_S = 1.0
_RIG_CODES = frozenset({"rig.device_silent", "rig.tripped", "rig.alarm"})


@dataclass(frozen=True, slots=True)
class Options:
    """What is decided per start: flags that are no settings, and who watches."""

    twin: bool = False
    once: bool = False
    interactive: bool = False
    """Whether Ctrl-C with nothing running ends the program."""


@dataclass(slots=True)
class _Bench:
    """The rig in force and what conducts it."""

    parts: Parts
    rig: Rig
    conductor: Conductor
    monitor: SafetyMonitor


class Daemon:
    """Everything between the command line and the rig; ``run`` returns the exit code."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        console: Console,
        notifier: Notifier,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._options = options
        self._console = console
        self._log = log
        self._folders = SpoolFolders(
            settings.spool.root, max_bytes=settings.spool.max_bytes, owners=settings.spool.owners
        )
        self._safety = SafetyDesk(settings, log=log)
        self._guarding = Guarding(settings.runtime.dir, log=log)
        self._said: frozenset[str] = frozenset()
        self._heartbeats = Heartbeats()
        self._supervisor = Supervisor(
            notifier,
            self._heartbeats,
            status=self.status,
            needs_time=lambda: self._phase in ("STARTING", "STOPPING"),
            log=log,
        )
        self._phase = "STARTING"
        self._doing = f"reading {settings.rig.profile}"
        self._bench: _Bench | None = None
        self._spool: Spool | None = None
        self._current: Job | None = None
        self._idle: trio.CancelScope | None = None
        self._stopping = ""
        self._abort = ""
        self._reload = False
        self._next_parts: Parts | None = None
        self._safe: SafeRecord | None = None
        self._lost: str | None = None
        self._code = 0

    async def run(self) -> int:
        """Serve until told to end, or with ``once`` until the spool is empty.

        Raises:
            ProblemsError (in groups): the profile can't be used, or the spool is taken.
        """
        lock = SpoolLock(self._settings.spool.root)
        async with trio.open_nursery() as nursery:
            await nursery.start(
                listen,
                {
                    signal.SIGINT: self._interrupted,
                    signal.SIGTERM: self._terminated,
                    signal.SIGHUP: self._hung_up,
                },
            )
            nursery.start_soon(self._supervisor.run)
            parts = await trio.to_thread.run_sync(self._load)
            self._spool = self._make_spool(parts)
            await trio.to_thread.run_sync(lock.acquire)
            await self._safety.load()
            nursery.start_soon(self._safety.run)
            while not self._stopping:
                await self._serve(nursery, parts)
                parts = self._next_parts or parts
            await self._safety.save()
            nursery.cancel_scope.cancel()
        lock.release()
        return self._code if self._options.once else 0

    # --- signals: no waiting here, only what those who wait will see -----------------------------

    def _interrupted(self) -> None:
        """SIGINT: abort the run and hold the queue; in a terminal with nothing running, end."""
        if self._current is not None and self._bench is not None:
            self._bench.conductor.stop("SIGINT: an operator asked for an abort")
            self._abort = "aborted by SIGINT"
            self._console.say("aborting: the run is stopped and the rig made safe")
        elif self._options.interactive:
            self._terminated("Ctrl-C with nothing running")
        else:
            self._abort = "aborted by SIGINT"  # for a job on its way to be started
            self._wake()
            self._log.warning("signal.sigint", message="nothing runs; a queue is held")
        self._supervisor.refresh()

    def _terminated(self, reason: str = "SIGTERM: the service was asked to end") -> None:
        """SIGTERM: stop the run without a cooldown dwell, make safe, seal, exit."""
        if self._current is not None and self._bench is not None:
            self._bench.conductor.stop(reason)
            self._bench.conductor.stop(reason)  # the second one forgoes the dwell
        self._stopping = self._stopping or reason
        self._supervisor.stopping()
        self._wake()
        self._log.info("daemon.stopping", reason=reason)
        self._console.say(f"ending ({reason})")
        if self._current is None:
            self._enter("STOPPING", "making the rig safe")

    def _hung_up(self) -> None:
        """SIGHUP: read the profile again, once nothing runs."""
        self._reload = True
        when = "when the run has ended" if self._current is not None else "now"
        self._log.info("profile.reload", message=f"the profile is read again {when}")
        self._wake()

    def _wake(self) -> None:
        """Have the run loop look at what was set, if it is waiting for a job."""
        if self._idle is not None:
            self._idle.cancel()

    def _load(self) -> Parts:
        """Read the profile and settle which plug-ins may run; in a thread."""
        return load_parts(self._settings.rig.profile, find_plugins(self._settings.plugins))

    # --- one rig ---------------------------------------------------------------------------------

    async def _serve(self, nursery: trio.Nursery, parts: Parts) -> None:
        """Open the rig, prove it safe, run jobs until the end or a new profile."""
        self._next_parts = None
        async with self._opened(parts) as bench, trio.open_nursery() as local:
            try:
                if await self._become_safe(bench):
                    await self._work(nursery, local, bench)
            finally:
                local.cancel_scope.cancel()
                budget_s = self._settings.safety.safing_budget_s + 1
                with trio.move_on_after(budget_s, shield=True):
                    await self._leave_safe(bench)

    @asynccontextmanager
    async def _opened(self, parts: Parts) -> AsyncIterator[_Bench]:
        """Open the rig, on the twin if asked for, watched from the first sample on."""
        async with (
            self._real_or_twin(parts) as used,
            open_parts(used, log=self._log) as rig,
            trio.open_nursery() as watch,
        ):
            conductor = make_conductor(
                rig, used, self._settings, log=self._log, on_progress=self._progressed
            )
            monitor = self._safety.make_monitor(
                rig, conductor, on_change=self._alarmed, on_verdicts=self._made_safe
            )
            bench = _Bench(used, rig, conductor, monitor)
            self._bench, self._safety.monitor = bench, monitor
            await watch.start(monitor.run)
            self._heartbeats.watch(self._beats)
            try:
                yield bench
            finally:
                self._bench = self._safety.monitor = None
                self._heartbeats.unwatch(self._beats)
                watch.cancel_scope.cancel()

    async def _guarded(self, parts: Parts) -> Parts:
        """Have the guardian's plan written, which comes before a link opens; return the parts."""
        lacks = await trio.to_thread.run_sync(
            partial(self._guarding.prepare, parts, simulated=self._options.twin)
        )
        for words in (*lacks, self._guarding.trouble):
            if words is not None:
                self._console.say(words)
        return parts

    @asynccontextmanager
    async def _real_or_twin(self, parts: Parts) -> AsyncIterator[Parts]:
        if not self._options.twin:
            yield await self._guarded(parts)
            return
        self._enter("STARTING", "waiting for the twin")
        directory = self._settings.runtime.dir / "twin"
        async with running_twin(
            parts.profile_file, directory, log=self._log, on_death=self._twin_died
        ) as file:
            simulated = await trio.to_thread.run_sync(load_parts, file, parts.procedures)
            yield await self._guarded(simulated)

    def _twin_died(self, message: str) -> None:
        self._lost = message
        self._log.error("twin.died", message=message)
        self._console.say(message)
        if self._options.once:
            self._code = CRASHED
            self._terminated(message)

    async def _become_safe(self, bench: _Bench) -> bool:
        """Drive stage one until what must answer has answered for it; False when told to end."""
        self._enter("STARTING", "driving the safe state")
        twin = ", simulated by twins" if self._options.twin else ""
        self._console.say(f"rig {bench.parts.profile.name} ({self._settings.rig.profile}){twin}")
        while not self._stopping:
            await self._drive(bench)
            answering = await bench.rig.wait_answering(_ANSWER_WAIT_S)
            missing = self._missing(bench, answering)
            if not missing:
                self._say_silent(bench, answering)
                return True
            text = "waiting for " + ", ".join(
                f"{name} ({bench.rig.health(name).detail or 'safe state not proven'})"
                for name in missing
            )
            self._enter("STARTING", text)
            self._console.waiting(text)
            with trio.move_on_after(_SAFE_RETRY_S) as self._idle:
                await bench.rig.wait_answering(_SAFE_RETRY_S)
        return False

    async def _drive(self, bench: _Bench) -> None:
        """Drive stage one and keep the verdicts."""
        verdicts = await drive_safe_state(
            bench.rig,
            budget_s=self._settings.safety.safing_budget_s,
            on_write=bench.conductor.gate.note,
        )
        self._made_safe(verdicts)
        bench.monitor.judge(verdicts, latch=False)
        for verdict in verdicts.values():
            bad = verdict.verdict is Verdict.UNREACHABLE
            (self._log.error if bad else self._log.info)(
                "safe_state.verdict",
                channel=verdict.channel,
                value=verdict.value,
                verdict=verdict.verdict.value,
                message=verdict.detail,
            )

    def _missing(self, bench: _Bench, answering: Mapping[str, bool]) -> list[str]:
        """Return the required devices that are silent, or whose safe state is not reached."""
        required = {device.name for device in bench.parts.profile.devices if device.required}
        silent = {name for name in required if not answering.get(name, False)}
        return sorted(silent | (self._unsafe_devices(bench) & required))

    def _unsafe_devices(self, bench: _Bench) -> set[str]:
        found = set()
        for name, verdict in (self._safe.verdicts if self._safe else {}).items():
            binding = bench.rig.registry.resolve(name).binding
            if verdict.verdict is Verdict.UNREACHABLE and binding is not None:
                found.add(binding.device)
        return found

    def _say_silent(self, bench: _Bench, answering: Mapping[str, bool]) -> None:
        for name, answers in answering.items():
            if not answers:
                detail = bench.rig.health(name).detail
                text = f"{name} does not answer ({detail}); it may be missing (required = false)"
                self._log.warning("device.missing", device=name, message=text)
                self._console.say(text)

    async def _leave_safe(self, bench: _Bench) -> None:
        """Before the links close: once more, and for the last time, the safe state."""
        if self._stopping:
            self._enter("STOPPING", "driving the safe state")
        await self._drive(bench)
        self._supervisor.refresh()

    def _made_safe(self, verdicts: Mapping[str, ChannelVerdict]) -> None:
        """Take note of how the safe state ended; what was not reached, the monitor tries again."""
        self._safe = SafeRecord(verdicts, _local_now())

    def _alarmed(self) -> None:
        """Hear from the safety monitor that something was raised, cleared or latched."""
        bench = self._bench
        words = {} if bench is None else dict(bench.monitor.raised)
        for trip in self._safety.trips.latched:
            words[f"trip {trip.rule}"] = f"TRIPPED: {trip.message}"
        for name in words.keys() - self._said:
            self._console.say(words[name])
        self._said = frozenset(words)
        self._supervisor.refresh()
        if self._options.once and self._safety.trips.latched:
            self._wake()

    # --- jobs ------------------------------------------------------------------------------------

    def _make_spool(self, parts: Parts) -> Spool:
        return Spool(
            self._folders,
            self._settings.spool,
            self._intake(parts),
            log=self._log,
            on_rejected=self._rejected,
        )

    def _intake(self, parts: Parts) -> Intake:
        return Intake(
            parts.profile,
            incoming=self._folders.incoming,
            profile_file=self._settings.rig.profile,
            procedures=parts.procedures,
        )

    def _rejected(self, _job: Job, report: Report) -> None:
        self._code = max(self._code, CRASHED)
        self._console.report(report)

    async def _work(self, nursery: trio.Nursery, local: trio.Nursery, bench: _Bench) -> None:
        spool = self._the_spool
        spool.use(self._intake(bench.parts))
        self._enter("IDLE", f"waiting for files in {self._folders.incoming}")
        self._supervisor.ready()
        gc.freeze()  # what start-up made stays; later collections need not look at it
        gc.enable()
        self._log.info("daemon.ready", profile=str(bench.parts.profile_file))
        local.start_soon(_warm, bench.parts)
        if not spool.started:
            spool.started = True
            nursery.start_soon(self._run_spool, spool)
        if self._options.once:
            local.start_soon(self._watch_for_the_end, spool)
        self._say_idle()
        while not self._stopping and not await self._reloaded():
            if self._options.once and self._nothing_left(spool):
                self._stopping = "the spool is empty"
                break
            await self._hold_if_asked(spool)
            got = await self._next(spool)
            if got is not None:
                await self._conduct(spool, bench, *got)

    @property
    def _the_spool(self) -> Spool:
        if self._spool is None:
            raise RuntimeError("the spool is made before the first rig is opened")
        return self._spool

    async def _run_spool(self, spool: Spool) -> None:
        """Settle what was interrupted, then watch; a disk in trouble is tried again."""
        reports: list[Report] = []
        while True:
            try:
                await trio.to_thread.run_sync(self._folders.prepare)
                guard = await trio.to_thread.run_sync(guard_report, self._settings.runtime.dir)
                reports = await recover(
                    self._folders, self._settings.runs.root, guard=guard, log=self._log
                )
            except OSError as error:
                spool.in_trouble(error, "its folders can't be used")
                await trio.sleep(self._settings.spool.rescan_s)
            else:
                break
        for report in reports:
            self._console.report(report)
        if any(report.outcome == "failed" for report in reports):
            await spool.hold(f"job {reports[-1].job.id} was interrupted: {reports[-1].summary}")
        await spool.run()

    async def _next(self, spool: Spool) -> tuple[Job, Prepared] | None:
        """Wait for a job; None when woken for another reason."""
        got = None
        with trio.CancelScope() as self._idle:
            got = await spool.next(self._blocked)
        self._idle = None
        return got

    def _blocked(self) -> bool:
        """Whether nothing may be armed: tripped, in alarm, a device silent or not known safe."""
        alarms = () if self._bench is None else self._bench.monitor.forbidding()
        tripped = self._safety.trips.latched
        unguarded = self._guarding.trouble
        return bool(
            self._stopping or self._reload or tripped or alarms or unguarded or self._silent()
        )

    def _silent(self) -> tuple[str, ...]:
        """Return the devices without which nothing is armed, and that do not answer just now."""
        bench = self._bench
        if bench is None:
            return ()
        needed = {device.name for device in bench.parts.profile.devices if device.required}
        for name in bench.rig.registry.names:
            resolved = bench.rig.registry.resolve(name)
            if resolved.binding is not None and resolved.spec.commandable:
                needed.add(resolved.binding.device)
        silent = {name for name in needed if not bench.rig.answers(name)}
        return tuple(sorted(silent | self._unsafe_devices(bench)))

    async def _conduct(self, spool: Spool, bench: _Bench, job: Job, prepared: Prepared) -> None:
        """Run one job to its report."""
        if self._abort or self._stopping:
            await self._conclude(spool, before_arming(job, self._abort or self._stopping))
            return
        self._current, self._doing = job, f"arming {shown_name(job.name)}"
        self._phase = "RUN"
        self._console.say(f"{shown_name(job.name)}, dropped by {job.owner}: starting")
        request = RunRequest(
            experiment=prepared.experiment,
            source_name=shown_name(job.name),
            method_text=prepared.method_text,
            hardware_text=bench.parts.profile_text,
            config_text=config_text(prepared),
            operator_id=prepared.experiment.operator.id,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, spool, bench.conductor, job)
            run = await bench.conductor.run(request)
            nursery.cancel_scope.cancel()
        job, self._current = self._current, None
        if run.verdicts:
            self._safe = SafeRecord(run.verdicts, _local_now())
        self._enter("STOPPING" if self._stopping else "IDLE", self._waiting_text())
        if _only_the_rig(run):
            await self._put_back(spool, job, prepared, run)
        else:
            await self._conclude(spool, of_run(job, run))

    async def _conclude(self, spool: Spool, report: Report) -> None:
        """Hold the queue if the end was not good, put the job away, say so."""
        run = report.run
        self._code = max(self._code, _exit_code(report))
        if report.holds:
            await spool.hold(f"{shown_name(report.job.name)} {report.summary}")
        self._abort = ""
        await spool.finish(
            report.job, report.outcome, report, stopping=lambda: bool(self._stopping)
        )
        self._log.info(
            "job.ended",
            job=report.job.id,
            outcome=report.outcome.value,
            run_id=None if run is None else run.run_id,
            message=report.summary,
        )
        self._console.report(report)
        self._enter("STOPPING" if self._stopping else "IDLE", self._waiting_text())
        self._say_idle()

    async def _put_back(self, spool: Spool, job: Job, prepared: Prepared, run: RunReport) -> None:
        """The rig went silent between the look and the arming: the job keeps its place."""
        text = f"{shown_name(job.name)} waits: {run.exit_reason}"
        self._log.warning("job.put_back", job=job.id, message=text)
        self._console.waiting(text)
        await spool.put_back(job, prepared, run.exit_reason)
        self._enter("IDLE", self._waiting_text())

    async def _follow(self, spool: Spool, conductor: Conductor, job: Job) -> None:
        """Keep the console up to date, and note the run's id in the job as soon as there is one."""
        while True:
            progress = conductor.progress
            if progress is not None:
                if job.run_id is None:
                    job = self._current = await spool.remember_run(job, progress.run_id)
                self._console.progress(progress)
            await trio.sleep(0.25)

    def _progressed(self, progress: RunProgress) -> None:
        """Hear of a step that began or ended."""
        self._console.progress(progress)
        self._supervisor.refresh()

    async def _hold_if_asked(self, spool: Spool) -> None:
        """An abort with nothing running holds what waits."""
        if self._abort and self._idle is None:
            reason, self._abort = self._abort, ""
            if spool.queued and spool.held is None:
                await spool.hold(f"{reason} with nothing running")

    async def _reloaded(self) -> bool:
        """Read the profile again if asked to; True if the rig is to be opened anew."""
        if not self._reload:
            return False
        self._reload = False
        self._supervisor.reloading()
        try:
            self._next_parts = await trio.to_thread.run_sync(self._load)
        except ProblemsError as error:
            self._log.error("profile.rejected", message=f"the old one stays in force: {error}")
            self._console.say(f"the profile has problems, the old one stays in force:\n{error}")
            self._supervisor.ready()
            return False
        return True

    # --- once ------------------------------------------------------------------------------------

    def _nothing_left(self, spool: Spool) -> bool:
        """Whether a one-shot run is through, for good or for bad."""
        if spool.trouble is not None:
            self._console.say(spool.trouble)
            self._code = max(self._code, CRASHED)
            return True
        if spool.held is not None and spool.scanned.is_set():
            self._console.say(f"the queue is held: {spool.held}; rm '{spool.hold_file}'")
            self._code = max(self._code, ABORTED)
            return True
        if self._guarding.trouble is not None:
            self._code = max(self._code, CRASHED)
            return True
        if self._safety.trips.latched:
            self._console.say(f"tripped: {self._safety.trips.text}; see capa safety")
            self._code = max(self._code, ABORTED)
            return True
        return spool.is_empty

    async def _watch_for_the_end(self, spool: Spool) -> None:
        while True:
            await spool.changed.wait()
            if self._current is None and (spool.is_empty or spool.held or spool.trouble):
                self._wake()

    # --- what is said ----------------------------------------------------------------------------

    def status(self) -> str:
        """Return the status line."""
        spool, bench = self._spool, self._bench
        running = self._current is not None and bench is not None
        return status_line(
            Snapshot(
                phase="RUN" if running else self._phase,
                doing=self._doing,
                progress=bench.conductor.progress if running and bench else None,
                stop_reason=(self._abort or self._stopping) if running else "",
                held=None if spool is None else spool.held,
                hold_file="" if spool is None else str(spool.hold_file),
                queue=0 if spool is None else len(spool.queued),
                silent=self._silent() if self._phase != "STARTING" else (),
                trouble=self._lost
                or self._guarding.trouble
                or (None if spool is None else spool.trouble),
                safe=self._safe,
                trip=self._safety.trips.text,
                alarms=() if bench is None else tuple(bench.monitor.raised.values()),
            )
        )

    def _enter(self, phase: str, doing: str) -> None:
        self._phase, self._doing = phase, doing
        self._supervisor.refresh()

    def _waiting_text(self) -> str:
        return f"waiting for files in {self._folders.incoming}"

    def _say_idle(self) -> None:
        """Say what is waited for now: files, or somebody to release the queue."""
        spool, text = self._spool, self._waiting_text()
        if spool is not None and spool.held:
            text = f"the queue is held; to release it: rm '{spool.hold_file}'"
        if not self._options.once and not self._stopping:
            end = "; Ctrl-C ends the program" if self._options.interactive else ""
            self._console.waiting(f"{text}{end}")

    def _beats(self) -> dict[str, Heartbeat]:
        """Return the heartbeats of all that is vital now."""
        bench, spool = self._bench, self._spool
        beats = {}
        if bench is not None:
            reply_s = sum(link.reply_timeout_s for link in bench.parts.profile.links)
            age_s = _DEVICE_BEAT_S + 4 * reply_s
            beats = {name: Heartbeat(at, age_s) for name, at in bench.rig.heartbeats().items()}
            beats["safety monitor"] = Heartbeat(bench.monitor.beat_at_s, _SAFETY_BEAT_S)
            bundle = bench.conductor.bundle
            recorded_at_s = None if bundle is None else bundle.health.heartbeat_at_s
            if recorded_at_s is not None:
                beats["recorder"] = Heartbeat(recorded_at_s, _RECORDER_BEAT_S)
        if spool is not None and spool.scanned.is_set():
            beats["spool"] = Heartbeat(
                spool.beat_at_s, self._settings.spool.rescan_s + _SPOOL_BEAT_S
            )
        return beats


async def _warm(parts: Parts) -> None:
    """Load the procedures before the first job asks for them, now that the rig is safe."""
    if isinstance(parts.procedures, ProceduresLater):
        await trio.to_thread.run_sync(parts.procedures.warm, abandon_on_cancel=True)


def _local_now() -> datetime:
    return datetime.now().astimezone()


def _only_the_rig(run: RunReport) -> bool:
    """Whether arming was refused for reasons that lie in the rig and may pass."""
    blocking = [problem for problem in run.problems if problem.blocking]
    refused = run.run_status == "refused"
    return refused and bool(blocking) and all(p.code in _RIG_CODES for p in blocking)


def _exit_code(report: Report) -> int:
    """Return the code of one job, as ``--once`` counts it."""
    run = report.run
    if run is None:
        return ABORTED
    if run.run_status in ("crashed", "refused"):
        return CRASHED
    if run.run_status == "aborted":
        return ABORTED
    return 0 if run.bundle_status == "sealed" else NOT_VERIFIED
