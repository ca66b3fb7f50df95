"""The spool as it lives: watching, claiming, checking, queueing, and what stands in its way."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import trio
from structlog.typing import FilteringBoundLogger

from capa.clock import utc_now
from capa.config.problems import ProblemsError
from capad.holding import Hold
from capad.intake import Prepared
from capad.jobs import Job, JobState, shown_name
from capad.pulse import Pulse
from capad.reports import Report, rejection
from capad.settings import SpoolSettings
from capad.settling import Settling, Stamp
from capad.spool_folders import SpoolFolders
from capad.troubles import Troubles
from capad.turns import ClockWatch, boot_s, due, first_ready, waits_text
from capad.watching import watch

__all__ = ["Preparer", "Spool"]

_FINISH_TRIES_WHEN_STOPPING = 3
_RESCANS_TO_GIVE_UP = 2
"""What still is tried has been tried again by then."""
_LOOK = "incoming/ can't be read"
_TAKE_UP = "the queue can't be read"
_MOVE = "a job can't be moved out of active/"
_SAVE = "job.json can't be written"
_SAVED_LATER = "which run it is, is written when the job ends"
_SETTLED_LATER = "it is settled at the first start that may read it"
_HOLD = "the hold can't be written; the queue is held all the same"


class Preparer(Protocol):
    """Checks a job; see ``capad.intake.Intake``."""

    def prepare(self, job: Job, data: bytes, companion: str | None = None) -> Prepared:
        """Return the run that the file asks for, or raise ``ProblemsError``."""
        ...


@dataclass(frozen=True, slots=True)
class _Taken:
    job: Job
    prepared: Prepared | None
    report: Report | None


class Spool:
    """The directory queue. ``run`` is its task; ``next`` and ``finish`` belong to the run loop.

    A disk that is full or read-only is a state with a name (``trouble``), tried again every
    ``rescan_s``; it ends nothing.

    Args:
        folders: the spool on disk, prepared.
        settings: how long and how often.
        preparer: checks jobs against the rig in force.
        log: a structlog logger.
        on_rejected: hears of each rejected job with its report.
    """

    def __init__(
        self,
        folders: SpoolFolders,
        settings: SpoolSettings,
        preparer: Preparer,
        *,
        log: FilteringBoundLogger,
        on_rejected: Callable[[Job, Report], None],
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._preparer = preparer
        self._log = log
        self._on_rejected = on_rejected
        self._settling = Settling(settings.settle_s)
        self._queue: list[tuple[Job, Prepared]] = []
        self._poke = trio.Event()
        self._hold = Hold(folders.root)
        self._clock = ClockWatch()
        self._rechecking = False
        self._left_behind = True
        self._skipped: set[str] = set()
        self.changed = Pulse()
        self._troubles = Troubles(folders.root, log)
        self.beat_at_s = trio.current_time()
        self.scanned = trio.Event()
        self.started = False
        self.incoming = 0

    @property
    def trouble(self) -> str | None:
        """What the disk refuses just now; None when it takes everything."""
        return self._troubles.words

    @property
    def queued(self) -> tuple[Job, ...]:
        """The jobs that wait, as they came."""
        return tuple(job for job, _ in self._queue)

    @property
    def waits(self) -> str:
        """What waits for its time, and until when; empty when nothing does."""
        return waits_text(self.queued, utc_now())

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, not even a file that is not still yet."""
        return self.scanned.is_set() and not self._queue and not self.incoming

    def look_again(self) -> None:
        """Scan now."""
        self._poke.set()

    def use(self, preparer: Preparer) -> None:
        """Check everything against another rig from now on, what is queued included."""
        self._preparer = preparer
        self._rechecking = True
        self._poke.set()

    async def run(self) -> None:
        """Watch and scan, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                watch, (self._folders.incoming, self._folders.root), self.look_again, self._log
            )
            while True:
                await self._round()
                self.scanned.set()
                self.changed.set()
                with trio.move_on_after(self._pause_s()):
                    await self._poke.wait()
                self._poke = trio.Event()

    async def next(self, blocked: Callable[[], bool]) -> tuple[Job, Prepared]:
        """Return the next job, now in ``active/``, once the queue is not held nor ``blocked``."""
        while True:
            await self._look_at_clock()
            place = first_ready(self.queued, utc_now())
            if place is not None and self.held is None and not blocked():
                job, prepared = self._queue.pop(place)
                try:
                    active = await self._activate(job)
                except OSError:
                    self._queue.insert(place, (job, prepared))
                    await trio.sleep(self._settings.rescan_s)
                    continue
                if active is not None:
                    return active, prepared
                continue
            with trio.move_on_after(0.5):
                await self.changed.wait()

    async def put_back(
        self, job: Job, prepared: Prepared, note: str, *, stopping: Callable[[], bool]
    ) -> None:
        """Return a job that could not be armed to its place in the queue; tried like ``finish``."""
        back = await self._insist(partial(self._move, job, JobState.QUEUED, note), stopping)
        if back is not None:
            self._queue.insert(0, (back, prepared))

    async def remember_run(self, job: Job, run_id: str) -> Job:
        """Note in ``job.json`` which run the job became; tried once."""
        marked = replace(job, run_id=run_id)
        await self._blocking(partial(self._folders.save, marked))
        return marked

    async def finish(
        self, job: Job, to: JobState, report: Report, *, stopping: Callable[[], bool]
    ) -> None:
        """Move a job to where it ends, with its report; tried until the disk takes it."""
        await self._insist(partial(self._finish, job, to, report), stopping)

    async def _insist(self, act: Callable[[], Job], stopping: Callable[[], bool]) -> Job | None:
        """Move a job, as often as it takes; None if the daemon is to end and the disk refuses."""
        tries = 0
        while True:
            try:
                moved = await trio.to_thread.run_sync(act)
            except OSError as error:
                tries += 1
                self.in_trouble(error, _MOVE)
                if stopping() and tries >= _FINISH_TRIES_WHEN_STOPPING:
                    return None
                await trio.sleep(min(1.0, self._settings.rescan_s))
            else:
                self._troubles.end(_MOVE)
                self._troubles.end(_SAVE)  # the move is in it, and what stood there before
                self.changed.set()
                return moved

    @property
    def held(self) -> str | None:
        """Why nothing is started, if the queue is held."""
        return self._hold.held

    @property
    def hold_file(self) -> Path:
        """The file whose presence holds the queue."""
        return self._hold.path

    async def hold(self, reason: str) -> None:
        """Hold the queue until somebody removes ``hold``, or ``release``."""
        self._hold.ask(reason)
        self.changed.set()
        await self._write_hold()

    async def release(self, by: str) -> str:
        """Let the queue go on, in somebody's name; removes ``hold``, and returns what it said.

        Raises:
            OSError: the file can't be removed; the queue stays held.
        """
        await self._see_hold(await trio.to_thread.run_sync(self._hold.read))
        was = self.held or ""
        await trio.to_thread.run_sync(self._hold.release)
        self._log.warning("queue.released", by=by, reason=was)
        self.changed.set()
        return was

    # --- one scan --------------------------------------------------------------------------------

    async def _round(self) -> None:
        self.beat_at_s = trio.current_time()
        try:
            seen, hold = await trio.to_thread.run_sync(self._look)
        except OSError as error:
            self.in_trouble(error, _LOOK)
            return
        self._troubles.end(_LOOK)
        await self._see_hold(hold)
        await self._look_at_clock()
        self._settling.look(seen, trio.current_time())
        if self._left_behind:
            await self._take_up()
        for name, stamp in self._settling.due(trio.current_time()):
            await self._take(name, stamp)
        self.incoming = len(self._settling)
        if self._rechecking:
            await self._recheck()
        await self._forget_given_up()

    async def _forget_given_up(self) -> None:
        """Take back what nobody tries any more (its file is gone), once the disk takes a file."""
        given_up = self._troubles.given_up(_RESCANS_TO_GIVE_UP * self._settings.rescan_s)
        if not given_up:
            return
        try:
            await trio.to_thread.run_sync(self._folders.try_disk)
        except OSError as error:
            self._log.debug("spool.still_in_trouble", message=str(error))
            return
        for what in given_up:
            self._troubles.end(what)

    def _look(self) -> tuple[dict[str, Stamp], str | None]:
        return self._folders.look(), self._hold.read()

    async def _take(self, name: str, stamp: Stamp) -> None:
        """Claim and check one file."""
        what = f"{shown_name(name)} can't be moved to queued/"
        try:
            taken = await trio.to_thread.run_sync(self._claim_and_check, name, stamp)
        except OSError as error:
            self._left_behind = True
            self.in_trouble(error, what)
            return
        self._troubles.end(what)
        self._settling.forget(name)
        if taken is not None:
            self._admit(taken)

    def _claim_and_check(self, name: str, stamp: Stamp) -> _Taken | None:
        job = self._folders.claim(name, stamp)
        return None if job is None else self._check(job)

    def _check(self, job: Job) -> _Taken:
        """Check a queued job, and reject it if it must be; in a thread."""
        try:
            companion = self._folders.companion(job)
            prepared = self._preparer.prepare(job, self._folders.content(job), companion)
        except ProblemsError as error:
            report = rejection(job, error.problems)
            self._finish(job, JobState.REJECTED, report)
            return _Taken(job, None, report)
        if companion is None and prepared.companion is not None:
            self._folders.keep_companion(job, prepared.companion)
        return _Taken(self._with_turn(job, prepared), prepared, None)

    def _with_turn(self, job: Job, prepared: Prepared) -> Job:
        """Note in the job when it may start, and before which others, as its experiment says."""
        wanted = prepared.experiment
        not_before = None if wanted.not_before is None else wanted.not_before.isoformat()
        if (job.priority, job.not_before) == (wanted.priority, not_before):
            return job
        return self._folders.save(replace(job, priority=wanted.priority, not_before=not_before))

    def _admit(self, taken: _Taken) -> None:
        if taken.prepared is not None:
            self._log.info("job.queued", job=taken.job.id, owner=taken.job.owner)
            self._queue.append((taken.job, taken.prepared))
        elif taken.report is not None:
            for problem in taken.report.problems:
                self._log.warning("job.rejected", job=taken.job.id, message=str(problem))
            self._on_rejected(taken.job, taken.report)
        self.changed.set()

    async def _take_up(self) -> None:
        """Take up what a kill or the disk left behind: half-claimed files, jobs not checked yet."""
        try:
            jobs, skipped = await trio.to_thread.run_sync(self._queued_on_disk)
        except OSError as error:
            self.in_trouble(error, _TAKE_UP)
            return
        self._troubles.end(_TAKE_UP)
        self._left_behind = bool(skipped)
        await self._tell_skipped(skipped)
        known = {job.id for job in self.queued}
        await self._check_all([job for job in jobs if job.id not in known])

    def _queued_on_disk(self) -> tuple[list[Job], list[tuple[JobState, str, PermissionError]]]:
        self._folders.complete_staged()
        skipped = self._folders.skipped()
        self._folders.put_right()
        return list(self._folders.jobs(JobState.QUEUED)), skipped

    async def _tell_skipped(self, skipped: list[tuple[JobState, str, PermissionError]]) -> None:
        """Have it known which jobs may not be read; of one that was running, hold the queue."""
        told = set()
        for state, job, error in skipped:
            what = f"job {job} can't be read; it is left in {state}/"
            told.add(what)
            active = state is JobState.ACTIVE
            self.in_trouble(error, what, then=_SETTLED_LATER if active else "")
            if active and what not in self._skipped and what not in (self.held or ""):
                await self.hold(f"{what}; {self.held}" if self.held else what)
        for what in self._skipped - told:
            self._troubles.end(what)
        self._skipped = told

    async def _recheck(self) -> None:
        self._rechecking = False
        jobs = list(self.queued)
        self._queue.clear()
        await self._check_all(jobs)

    async def _check_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            what = f"job {job.id} can't be read; it is left in queued/"
            try:
                self._admit(await trio.to_thread.run_sync(self._check, job))
            except OSError as error:
                self._left_behind = True
                self.in_trouble(error, what)
            else:
                self._troubles.end(what)

    # --- moves -----------------------------------------------------------------------------------

    async def _activate(self, job: Job) -> Job | None:
        what, active = f"job {job.id} can't be started", None
        try:
            active = await trio.to_thread.run_sync(self._start, job)
        except FileNotFoundError:
            self._log.warning("job.gone", job=job.id, message="removed from queued/ by hand")
        except OSError as error:
            self.in_trouble(error, what)
            raise
        self._troubles.end(what)
        return active

    def _start(self, job: Job) -> Job:
        return self._folders.found_in(job, JobState.ACTIVE) or self._folders.move(
            job, JobState.ACTIVE
        )

    def _finish(self, job: Job, to: JobState, report: Report) -> Job:
        """Report, then move; a full disk costs the report and the history, not the move."""
        if (there := self._folders.found_in(job, to)) is not None:
            return there
        try:
            self._folders.report(job, report.as_json(), report.as_text())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        return self._move(job, to, report.summary)

    def _move(self, job: Job, to: JobState, note: str) -> Job:
        """Move a job; a full disk costs the line of its history, not the move."""
        if (there := self._folders.found_in(job, to)) is not None:
            return there
        try:
            return self._folders.move(job, to, note)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return self._folders.move(job, to, note, record=False)

    async def _blocking(self, act: Callable[[], Job]) -> Job | None:
        try:
            saved = await trio.to_thread.run_sync(act)
        except OSError as error:
            self.in_trouble(error, _SAVE, then=_SAVED_LATER)
            return None
        self._troubles.end(_SAVE)
        return saved

    # --- holding and trouble ---------------------------------------------------------------------

    async def _see_hold(self, text: str | None) -> None:
        if text is None and self._hold.unwritten:
            await self._write_hold()  # it could not be written before
        elif self._hold.see(text):
            self._log.warning("queue.held" if self.held else "queue.released", reason=self.held)

    async def _write_hold(self) -> None:
        try:
            await trio.to_thread.run_sync(self._hold.write)
        except OSError as error:
            self.in_trouble(error, _HOLD)
        else:
            self._troubles.end(_HOLD)
            self._log.warning("queue.held", reason=self.held)

    async def _look_at_clock(self) -> None:
        """Hold the queue if a jump of the wall clock is all that made a job due."""
        now = utc_now()
        jump = self._clock.jumped(now, boot_s())
        if not jump:
            return
        self._log.warning("clock.jumped", seconds=jump.total_seconds())
        early = [j for j in self.queued if (at := due(j)) is not None and now - jump < at <= now]
        if early:
            await self.hold(
                f"the clock jumped by {jump} while {shown_name(early[0].name)} was waiting for its"
                " time: look at date, then release the queue"
            )

    def in_trouble(self, error: OSError, what: str, *, then: str = "") -> None:
        """Say once what is wrong with the disk; it stays in the status until it is mended."""
        self._troubles.begin(what, error, then=then)
        self.changed.set()

    def mended(self, what: str) -> None:
        """Take back a trouble: what could not be done is done."""
        self._troubles.end(what)

    # --- waking up -------------------------------------------------------------------------------

    def _pause_s(self) -> float:
        now_s = trio.current_time()
        next_at_s = self._settling.next_at_s(now_s)
        rescan_s = self._settings.rescan_s
        return rescan_s if next_at_s is None else min(rescan_s, max(0.0, next_at_s - now_s))
