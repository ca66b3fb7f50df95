"""One job after another: from the spool to the conductor, and from its report to done or failed."""

import gc
from collections.abc import Awaitable, Callable

import trio

from capa.plugins.later import ProceduresLater
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport, RunRequest
from capad.guarding import guard_report
from capad.intake import Intake, Prepared, config_text
from capad.jobs import Job, shown_name
from capad.opening import CRASHED
from capad.recovery import recover
from capad.reports import Report, before_arming, of_run
from capad.service import Bench, Service
from capad.spool import Spool
from capad.wiring import Parts

__all__ = ["Working"]

ABORTED, NOT_VERIFIED = 1, 3
_RIG_CODES = frozenset({"rig.device_silent", "rig.tripped", "rig.alarm", "rig.safe_state_kept"})
_FOLDERS = "its folders can't be used"
_DISK_CODES = frozenset({"bundle.open_failed"})


class Working:
    """Runs the jobs of one spool, on whichever rig is open.

    Args:
        service: the daemon.
        reloaded: reads the profile again if asked to; True if the rig is to be opened anew.
    """

    def __init__(self, service: Service, *, reloaded: Callable[[], Awaitable[bool]]) -> None:
        self._service = service
        self._reloaded = reloaded

    def make_spool(self, parts: Parts) -> Spool:
        """Make the spool; it judges what is dropped by the profile in force."""
        service = self._service
        return Spool(
            service.folders,
            service.settings.spool,
            self._intake(parts),
            log=service.log,
            on_rejected=self._rejected,
        )

    def _intake(self, parts: Parts) -> Intake:
        service = self._service
        return Intake(
            parts.profile,
            incoming=service.folders.incoming,
            profile_file=service.settings.rig.profile,
            procedures=parts.procedures,
        )

    def _rejected(self, _job: Job, report: Report) -> None:
        service = self._service
        service.code = max(service.code, CRASHED)
        service.console.report(report)

    async def work(self, nursery: trio.Nursery, local: trio.Nursery, bench: Bench) -> None:
        """Say READY, and run jobs until the end or a new profile.

        ``nursery`` lives as long as the process, ``local`` as long as the rig.
        """
        service = self._service
        spool = self._the_spool
        spool.use(self._intake(bench.parts))
        service.enter("IDLE", f"waiting for files in {service.folders.incoming}")
        service.supervisor.ready()
        gc.freeze()  # what start-up made stays; later collections need not look at it
        gc.enable()
        service.log.info("daemon.ready", profile=str(bench.parts.profile_file))
        local.start_soon(_warm, bench.parts)
        if not spool.started:
            spool.started = True
            nursery.start_soon(self._run_spool, spool)
        if service.options.once:
            local.start_soon(self._watch_for_the_end, spool)
        self._say_idle()
        while not service.stopping and not await self._reloaded():
            if service.options.once and self._nothing_left(spool):
                service.stopping = "the spool is empty"
                break
            await self._hold_if_asked(spool)
            if service.abort:  # woken before anybody knew what waits: it is held all the same
                await trio.lowlevel.checkpoint()
                continue
            got = await self._next(spool)
            if got is not None:
                await self._conduct(spool, bench, *got)

    @property
    def _the_spool(self) -> Spool:
        service = self._service
        if service.spool is None:
            raise RuntimeError("the spool is made before the first rig is opened")
        return service.spool

    async def _run_spool(self, spool: Spool) -> None:
        """Settle what was interrupted, then watch; a disk in trouble is tried again."""
        service = self._service
        reports: list[Report] = []
        while True:
            try:
                await trio.to_thread.run_sync(service.folders.prepare)
                runtime = service.settings.runtime.dir
                guard, unread = await trio.to_thread.run_sync(guard_report, runtime)
                reports = await recover(
                    service.folders,
                    service.settings.runs.root,
                    guard=guard,
                    unread=unread,
                    log=service.log,
                    sign_key=service.settings.runs.sign_key,
                )
            except OSError as error:
                spool.in_trouble(error, _FOLDERS)
                await trio.sleep(service.settings.spool.rescan_s)
            else:
                spool.mended(_FOLDERS)
                break
        for report in reports:
            service.console.report(report)
        if any(report.outcome == "failed" for report in reports):
            await spool.hold(f"job {reports[-1].job.id}: {reports[-1].summary}")
        await spool.run()

    async def _next(self, spool: Spool) -> tuple[Job, Prepared] | None:
        """Wait for a job; None when woken for another reason."""
        service = self._service
        got = None
        with service.woken():
            got = await spool.next(service.blocked)
        return got  # noqa: RET504 - still None when woken

    async def _conduct(self, spool: Spool, bench: Bench, job: Job, prepared: Prepared) -> None:
        """Run one job to its report."""
        service = self._service
        if service.abort or service.stopping:
            await self._conclude(spool, before_arming(job, service.abort or service.stopping))
            return
        service.current, service.doing = job, f"arming {shown_name(job.name)}"
        service.phase = "RUN"
        service.console.say(f"{shown_name(job.name)}, dropped by {job.owner}: starting")
        request = RunRequest(
            experiment=prepared.experiment,
            source_name=shown_name(job.name),
            method_text=prepared.method_text,
            hardware_text=bench.parts.profile_text,
            config_text=config_text(prepared),
            operator_id=prepared.experiment.operator.id,
            job_id=job.id,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, spool, bench.conductor, job)
            run = await bench.conductor.run(request)
            nursery.cancel_scope.cancel()
        job, service.current = service.current, None
        if run.verdicts:
            service.made_safe(run.verdicts)
        service.enter("STOPPING" if service.stopping else "IDLE", self._waiting_text())
        if _refused_for(run, _RIG_CODES):
            await self._put_back(spool, job, prepared, run)
        elif _refused_for(run, _DISK_CODES):
            await spool.hold(f"no bundle can be made: {run.exit_reason}")
            await self._put_back(spool, job, prepared, run)
        else:
            await self._conclude(spool, of_run(job, run))

    async def _conclude(self, spool: Spool, report: Report) -> None:
        """Hold the queue if the end was not good, put the job away, say so."""
        service = self._service
        run = report.run
        service.code = max(service.code, _exit_code(report))
        if report.holds:
            await spool.hold(f"{shown_name(report.job.name)} {report.summary}")
            service.abort = ""  # else it came too late for this run: it holds what waits
        await spool.finish(
            report.job, report.outcome, report, stopping=lambda: bool(service.stopping)
        )
        service.log.info(
            "job.ended",
            job=report.job.id,
            outcome=report.outcome.value,
            run_id=None if run is None else run.run_id,
            message=report.summary,
        )
        service.console.report(report)
        service.enter("STOPPING" if service.stopping else "IDLE", self._waiting_text())
        self._say_idle()

    async def _put_back(self, spool: Spool, job: Job, prepared: Prepared, run: RunReport) -> None:
        """The rig went silent before the arming, or the disk refuses: the job keeps its place."""
        service = self._service
        text = f"{shown_name(job.name)} waits: {run.exit_reason}"
        service.log.warning("job.put_back", job=job.id, message=text)
        service.console.waiting(text)
        await spool.put_back(
            job, prepared, run.exit_reason, stopping=lambda: bool(service.stopping)
        )
        service.enter("IDLE", self._waiting_text())

    async def _follow(self, spool: Spool, conductor: Conductor, job: Job) -> None:
        """Keep the console up to date, and note the run's id in the job as soon as there is one."""
        service = self._service
        while True:
            progress = conductor.progress
            if progress is not None:
                service.doing = f"ending {shown_name(job.name)}"  # shown once it is no run any more
                if job.run_id is None:
                    job = service.current = await spool.remember_run(job, progress.run_id)
                service.console.progress(progress)
            await trio.sleep(0.25)

    async def _hold_if_asked(self, spool: Spool) -> None:
        """An abort with nothing running holds what waits."""
        service = self._service
        if service.abort:
            waiting = bool(spool.queued)
            if not spool.scanned.is_set():  # asked for in the start: nobody knows yet what waits
                with service.woken():
                    await spool.scanned.wait()
                if not spool.scanned.is_set():
                    return
                waiting = not spool.is_empty
            reason, service.abort = service.abort, ""
            if waiting and spool.held is None:
                await spool.hold(f"{reason} with nothing running")

    def _nothing_left(self, spool: Spool) -> bool:
        """Whether a one-shot run is through, for good or for bad."""
        service = self._service
        if spool.trouble is not None:
            service.console.say(spool.trouble)
            service.code = max(service.code, CRASHED)
            return True
        if spool.held is not None and spool.scanned.is_set():
            service.console.say(f"the queue is held: {spool.held}; rm '{spool.hold_file}'")
            service.code = max(service.code, ABORTED)
            return True
        if service.guarding.trouble is not None:
            service.code = max(service.code, CRASHED)
            return True
        if service.safety.trips.latched:
            service.console.say(f"tripped: {service.safety.trips.text}; see capa safety")
            service.code = max(service.code, ABORTED)
            return True
        cooling = service.bench is not None and service.bench.stages.due
        simulated = service.options.twin  # a furnace that ends with the process
        return spool.is_empty and (simulated or not cooling)

    async def _watch_for_the_end(self, spool: Spool) -> None:
        service = self._service
        while True:
            await spool.changed.wait()
            if service.current is None and (spool.is_empty or spool.held or spool.trouble):
                service.wake()

    def _waiting_text(self) -> str:
        return f"waiting for files in {self._service.folders.incoming}"

    def _say_idle(self) -> None:
        """Say what is waited for now: files, or somebody to release the queue."""
        service = self._service
        spool, text = service.spool, self._waiting_text()
        if spool is not None and spool.held:
            text = f"the queue is held; to release it: rm '{spool.hold_file}'"
        if not service.options.once and not service.stopping:
            end = "; Ctrl-C ends the program" if service.options.interactive else ""
            service.console.waiting(f"{text}{end}")


async def _warm(parts: Parts) -> None:
    """Load the procedures before the first job asks for them, now that the rig is safe."""
    if isinstance(parts.procedures, ProceduresLater):
        await trio.to_thread.run_sync(parts.procedures.warm, abandon_on_cancel=True)


def _refused_for(run: RunReport, codes: frozenset[str]) -> bool:
    """Whether arming was refused for nothing but these: they lie in no job, and may pass."""
    blocking = [problem for problem in run.problems if problem.blocking]
    refused = run.run_status == "refused"
    return refused and bool(blocking) and all(p.code in codes for p in blocking)


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
