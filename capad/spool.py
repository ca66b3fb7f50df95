"""The spool as it lives: watching, claiming, checking, queueing, and what stands in its way."""

import errno
import importlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import trio
from structlog.typing import FilteringBoundLogger

from capa.config.problems import ProblemsError
from capad.intake import Prepared
from capad.jobs import Job, JobState, shown_name
from capad.pulse import Pulse
from capad.reports import Report, rejection
from capad.settings import SpoolSettings
from capad.settling import Settling, Stamp
from capad.spool_folders import SpoolFolders

__all__ = ["Preparer", "Spool"]

HOLD_FILE = "hold"
_FINISH_TRIES_WHEN_STOPPING = 3
_WATCH_AGAIN_S = 0.3
_EARLY_LOOKS_S = (0.05, 0.1, 0.2, 0.4)


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
        self._own_hold: str | None = None
        self._rechecking = False
        self._left_behind = True
        self.changed = Pulse()
        self.held: str | None = None
        self.trouble: str | None = None
        self.beat_at_s = trio.current_time()
        self.scanned = trio.Event()
        self.started = False
        self.incoming = 0

    @property
    def queued(self) -> tuple[Job, ...]:
        """The jobs that wait, in order."""
        return tuple(job for job, _ in self._queue)

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
            nursery.start_soon(self._watch, nursery)
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
            if self._queue and self.held is None and not blocked():
                job, prepared = self._queue.pop(0)
                try:
                    active = await self._activate(job)
                except OSError:
                    self._queue.insert(0, (job, prepared))
                    await trio.sleep(self._settings.rescan_s)
                    continue
                if active is not None:
                    return active, prepared
            with trio.move_on_after(0.5):
                await self.changed.wait()

    async def put_back(self, job: Job, prepared: Prepared, note: str) -> None:
        """Return a job that could not be armed to the head of the queue."""
        back = await self._blocking(partial(self._folders.move, job, JobState.QUEUED, note))
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
        tries = 0
        while True:
            try:
                await trio.to_thread.run_sync(self._finish, job, to, report)
            except OSError as error:
                tries += 1
                self.in_trouble(error, f"job {job.id} can't be moved to {to}/")
                if stopping() and tries >= _FINISH_TRIES_WHEN_STOPPING:
                    return
                await trio.sleep(min(1.0, self._settings.rescan_s))
            else:
                self.changed.set()
                return

    @property
    def hold_file(self) -> Path:
        """The file whose presence holds the queue."""
        return self._folders.root / HOLD_FILE

    async def hold(self, reason: str) -> None:
        """Hold the queue until somebody removes ``hold``."""
        self.held = self._own_hold = reason
        self.changed.set()
        await self._write_hold()

    # --- one scan --------------------------------------------------------------------------------

    async def _round(self) -> None:
        self.beat_at_s = trio.current_time()
        try:
            seen, hold = await trio.to_thread.run_sync(self._look)
        except OSError as error:
            self.in_trouble(error, "incoming/ can't be read")
            return
        await self._see_hold(hold)
        self._settling.look(seen, trio.current_time())
        trouble = await self._take_up() if self._left_behind else None
        for name, stamp in self._settling.due(trio.current_time()):
            trouble = await self._take(name, stamp) or trouble
        self.incoming = len(self._settling)
        if self._rechecking:
            await self._recheck()
        if trouble is None and not self._settling.due(trio.current_time()):
            self.trouble = None

    def _look(self) -> tuple[dict[str, Stamp], str | None]:
        try:
            hold = (self._folders.root / HOLD_FILE).read_bytes()[:500].decode("utf-8", "replace")
        except FileNotFoundError:
            hold = None
        except OSError as error:
            hold = f"there is a hold that can't be read ({error.strerror})"
        return self._folders.look(), hold

    async def _take(self, name: str, stamp: Stamp) -> str | None:
        """Claim and check one file; what went wrong with the disk is returned as a message."""
        try:
            taken = await trio.to_thread.run_sync(self._claim_and_check, name, stamp)
        except OSError as error:
            self._left_behind = True
            return self.in_trouble(error, f"{shown_name(name)} can't be claimed")
        self._settling.forget(name)
        if taken is not None:
            self._admit(taken)
        return None

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
        return _Taken(job, prepared, None)

    def _admit(self, taken: _Taken) -> None:
        if taken.prepared is not None:
            self._log.info("job.queued", job=taken.job.id, owner=taken.job.owner)
            self._queue.append((taken.job, taken.prepared))
        elif taken.report is not None:
            for problem in taken.report.problems:
                self._log.warning("job.rejected", job=taken.job.id, message=str(problem))
            self._on_rejected(taken.job, taken.report)
        self.changed.set()

    async def _take_up(self) -> str | None:
        """Take up what a kill or the disk left behind: half-claimed files, jobs not checked yet."""
        try:
            jobs = await trio.to_thread.run_sync(self._queued_on_disk)
        except OSError as error:
            return self.in_trouble(error, "the queue can't be read")
        self._left_behind = False
        known = {job.id for job in self.queued}
        await self._check_all([job for job in jobs if job.id not in known])
        return self.trouble if self._left_behind else None

    def _queued_on_disk(self) -> list[Job]:
        self._folders.complete_staged()
        return list(self._folders.jobs(JobState.QUEUED))

    async def _recheck(self) -> None:
        self._rechecking = False
        jobs = list(self.queued)
        self._queue.clear()
        await self._check_all(jobs)

    async def _check_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                self._admit(await trio.to_thread.run_sync(self._check, job))
            except OSError as error:
                self._left_behind = True
                self.in_trouble(error, f"job {job.id} can't be read; it is left in queued/")

    # --- moves -----------------------------------------------------------------------------------

    async def _activate(self, job: Job) -> Job | None:
        try:
            return await trio.to_thread.run_sync(self._folders.move, job, JobState.ACTIVE)
        except FileNotFoundError:
            self._log.warning("job.gone", job=job.id, message="removed from queued/ by hand")
        except OSError as error:
            self.in_trouble(error, f"job {job.id} can't be started")
            raise
        return None

    def _finish(self, job: Job, to: JobState, report: Report) -> None:
        """Report, then move; a full disk costs the report and the history, not the move."""
        try:
            self._folders.report(job, report.as_json(), report.as_text())
            self._folders.move(job, to, report.summary)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._folders.move(job, to, report.summary, record=False)

    async def _blocking(self, act: Callable[[], Job]) -> Job | None:
        try:
            return await trio.to_thread.run_sync(act)
        except OSError as error:
            self.in_trouble(error, "job.json can't be written")
            return None

    # --- holding and trouble ---------------------------------------------------------------------

    async def _see_hold(self, text: str | None) -> None:
        if text is None and self._own_hold is not None:
            await self._write_hold()  # it could not be written before
            return
        now = None if text is None else _first_line(text)
        if now != self.held:
            self._log.warning("queue.held" if now else "queue.released", reason=now or "")
        self.held = now

    async def _write_hold(self) -> None:
        reason = self._own_hold
        if reason is None:
            return
        path = self.hold_file
        text = f"{reason}\nRemove this file to release the queue: rm '{path}'\n"
        try:
            await trio.to_thread.run_sync(partial(_write, path, text))
        except OSError as error:
            self.in_trouble(error, "the hold can't be written; the queue is held all the same")
        else:
            self._own_hold = None
            self.held = _first_line(text)
            self._log.warning("queue.held", reason=reason)

    def in_trouble(self, error: OSError, what: str) -> str:
        """Say once what is wrong with the disk; it stays in the status until it is mended."""
        why = {
            errno.EROFS: "the file system is read-only",
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the quota is used up",
            errno.EACCES: "the daemon lacks the permission",
            errno.EPERM: "the daemon lacks the permission",
        }.get(error.errno or 0, error.strerror or str(error))
        message = f"spool {self._folders.root}: {what}: {why}; tried again until it is mended"
        if message != self.trouble:
            self._log.error("spool.trouble", message=message)
        self.trouble = message
        self.changed.set()
        return message

    # --- waking up -------------------------------------------------------------------------------

    def _pause_s(self) -> float:
        now_s = trio.current_time()
        next_at_s = self._settling.next_at_s(now_s)
        rescan_s = self._settings.rescan_s
        return rescan_s if next_at_s is None else min(rescan_s, max(0.0, next_at_s - now_s))

    async def _watch(self, nursery: trio.Nursery) -> None:
        """Wake the scan when something happens; events that get lost cost ``rescan_s``."""
        watchfiles = await trio.to_thread.run_sync(importlib.import_module, "watchfiles")
        nursery.start_soon(self._look_early)
        while True:
            try:
                await self._listen(watchfiles.awatch)
            except* (OSError, RuntimeError) as errors:
                # A name that is not UTF-8 is one of the reasons: watchfiles can't say such a path.
                reasons = "; ".join(str(error) for error in _leaves(errors))
                self._log.info("spool.watch_restarted", message=reasons)
            self._poke.set()
            await trio.sleep(_WATCH_AGAIN_S)

    async def _listen(self, awatch: Callable[..., AsyncGenerator[object, None]]) -> None:
        places = (self._folders.incoming, self._folders.root)
        stop = trio.Event()  # the only thing that ends the watcher's thread before its time-out
        changes = awatch(*places, recursive=False, watch_filter=None, stop_event=stop)
        async with trio.open_nursery() as nursery, aclosing(changes):
            nursery.start_soon(_set_when_cancelled, stop)
            async for _ in changes:
                self._poke.set()
            nursery.cancel_scope.cancel()

    async def _look_early(self) -> None:
        """Scan a few times while the watcher gets going, which it does not tell."""
        for pause_s in _EARLY_LOOKS_S:
            await trio.sleep(pause_s)
            self._poke.set()


async def _set_when_cancelled(stop: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the errors in a group of groups."""
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _first_line(text: str) -> str:
    """Return the reason for a hold: printable, on one line."""
    lines = text.strip().splitlines() or ["no reason given"]
    return "".join(c for c in lines[0] if c.isprintable())[:200]


def _write(path: os.PathLike[str], text: str) -> None:
    """Write a small file that anybody who may write the folder may also change or remove."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o664)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        os.fchmod(descriptor, 0o664)
