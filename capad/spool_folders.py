"""The spool on disk: every change of a job is a rename, and the folders are fsynced.

A claimed file goes into a hidden folder of ``queued/`` that gets its real name once ``job.json``
is in it: a job either is in the queue or is not. A kill in between leaves the hidden folder, which
the next scan completes. The folder that a job lies in is the truth about its state; its
``job.json`` tells how it came there, and is put right where a kill left it one move ahead.

On a network file system, where a lock may not reach and a lost answer turns a rename that was
done into "no such file", a rename still is one or nothing, and what came of it is looked at. All
of this blocks; call it in a thread.
"""

import errno
import hashlib
import json
import os
import pwd
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from capa.clock import utc_now
from capa.config.problems import Problem, ProblemsError
from capa.storage.atomic import (
    LEFTOVER_SUFFIX,
    clear_temporaries,
    fsync_dir,
    fsync_file,
    is_leftover,
    write_atomically,
)
from capad.jobs import (
    COMPANION_FILE,
    JOB_FILE,
    Job,
    JobState,
    Move,
    dropped_name,
    is_ours,
    is_temporary,
    job_id,
    kept_name,
    moved,
    sequence_of,
    shown_name,
)
from capad.seen import Seen
from capad.settling import Stamp

__all__ = ["METHODS", "SpoolFolders", "owner_name"]

METHODS = "methods"
FOLDER_MODE, FILE_MODE = 0o755, 0o644
"""Of what is told about a job, whatever the umask: who dropped it must be able to read it. Who
may enter the spool at all is for the mode of its root."""
_STAGED = "."
_TRIED, _TRIED_BYTES = f".disk-tried{LEFTOVER_SUFFIX}", 16 * 1024
_LAST_S = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_DAMAGED = f"{JOB_FILE}.damaged"
_NOT_A_JOB = (KeyError, TypeError, ValueError, RecursionError)
_MAY_PASS = frozenset(
    {
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EINTR,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)
"""Of reading a record: what says nothing about the record itself."""
_FILE_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device node",
    stat.S_IFBLK: "a device node",
}


class SpoolFolders:
    """``incoming/`` and one folder per state below ``root``. Every method may raise OSError.

    ``incoming/methods/``, if somebody makes it, is for the methods that experiment files name;
    nothing in it is a job.
    """

    def __init__(self, root: Path, *, max_bytes: int, owners: tuple[str, ...] = ()) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self._max_bytes = max_bytes
        self._owners = frozenset(owners)
        self._next_sequence = 1
        self._seen = Seen(self.root)
        self._skipped: dict[Path, PermissionError] = {}

    def prepare(self) -> None:
        """Make the folders that are missing, and go on numbering where the last daemon stopped."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        for state in JobState:
            _make_readable(self.root / state)
        fsync_dir(self.root)
        self._clear_leftovers()
        self._make_anew()
        numbers = [
            sequence_of(entry.name.removeprefix(_STAGED)) or 0
            for state in JobState
            for entry in os.scandir(self.root / state)
        ]
        self._next_sequence = max(numbers, default=0) + 1

    def try_disk(self) -> None:
        """Write and remove a file as large as any ``job.json``: raises where that can't be done."""
        tried = self.root / JobState.QUEUED / _TRIED  # not watched: a try wakes nobody
        write_atomically(tried, bytes(_TRIED_BYTES))
        tried.unlink()

    def _clear_leftovers(self) -> None:
        """Delete the half-written files of a daemon that was killed.

        Only beside what may still change: a job that is over was moved after its last write.
        """
        clear_temporaries(self.root)
        for state in (JobState.QUEUED, JobState.ACTIVE):
            clear_temporaries(self.root / state)
            for folder in (self.root / state).iterdir():
                clear_temporaries(folder)

    def _make_anew(self) -> None:
        """Write the ``job.json`` of a job that is not over and whose own can't be read.

        Its file is what counts; what can't be read is kept beside it. A folder that is not the
        daemon's to read, or to write into, stops nobody; see ``skipped``.
        """
        self._skipped.clear()
        for state in (JobState.QUEUED, JobState.ACTIVE):
            for folder in self._job_folders(state):
                with self._or_skipped(folder):
                    self._make_one_anew(folder, state)

    def _make_one_anew(self, folder: Path, state: JobState) -> None:
        if self._read_job(folder, state) is not None:
            return
        files = _dropped_in(folder)
        if len(files) != 1:
            return
        job = self._told_by_file(folder, files[0], state)
        with suppress(FileNotFoundError):
            (folder / JOB_FILE).rename(_free(folder / _DAMAGED))
        note = f"{JOB_FILE} could not be read: made anew from the file"
        self.save(replace(job, history=(_move(state, note),)))

    @contextmanager
    def _or_skipped(self, folder: Path) -> Iterator[None]:
        """Do something with a folder, or remember that this is not allowed."""
        self._skipped.pop(folder, None)
        try:
            yield
        except PermissionError as error:
            self._skipped[folder] = error

    def skipped(self) -> list[tuple[JobState, str, PermissionError]]:
        """Return the jobs whose folder may not be read, or written where its record is gone.

        What is queued is tried again; what was active is settled at a start, and only then.
        """
        for folder in list(self._skipped):
            if not folder.exists():
                del self._skipped[folder]
            elif folder.parent.name == JobState.QUEUED and not folder.name.startswith(_STAGED):
                with self._or_skipped(folder):
                    self._make_one_anew(folder, JobState.QUEUED)
        return [
            (JobState(folder.parent.name), folder.name.removeprefix(_STAGED), error)
            for folder, error in self._skipped.items()
        ]

    def path(self, job: Job) -> Path:
        """Return the job's folder."""
        return self.root / job.state / job.id

    def look(self) -> dict[str, Stamp]:
        """Return what lies in ``incoming/``, but for names that say that it is not complete."""
        wall_ns = time.time_ns()
        seen = {}
        with os.scandir(self.incoming) as entries:
            for entry in entries:
                if is_temporary(entry.name):
                    continue
                if entry.name == METHODS and entry.is_dir(follow_symlinks=False):
                    continue
                with suppress(FileNotFoundError):
                    seen[entry.name] = _stamp(entry.stat(follow_symlinks=False), wall_ns)
        return seen

    def claim(self, name: str, stamp: Stamp) -> Job | None:
        """Take a file out of ``incoming/`` into the queue; None if it went or changed meanwhile."""
        identity = job_id(self._next_sequence, utc_now(), name)
        staged = self.root / JobState.QUEUED / f"{_STAGED}{identity}"
        staged.mkdir()
        self._next_sequence += 1
        fsync_dir(staged.parent)  # before the file is in it: a power cut must not take both
        source, target = self.incoming / name, staged / kept_name(name)
        try:
            _rename(source, target)
        except FileNotFoundError:
            self._give_up(staged)
            return None
        except OSError:
            self._give_up(staged)
            raise
        if not _stamp(target.lstat(), 0).same_as(stamp) and _given_back(target, source):
            self._give_up(staged)
            return None
        fsync_dir(staged)
        fsync_dir(self.incoming)
        job = self._told_by_file(staged, target, JobState.QUEUED)
        dropped = _utc(stamp.changed_ns)
        return self._admit(replace(job, name=name, dropped_utc=dropped))

    def _give_up(self, staged: Path) -> None:
        """Take back a claim, and its number: a file that can't be moved is tried for days."""
        staged.rmdir()
        self._next_sequence -= 1

    def complete_staged(self) -> list[Job]:
        """Finish what a kill or a full disk interrupted between the rename and the queue."""
        jobs = []
        for folder in self._job_folders(JobState.QUEUED, _STAGED):
            with self._or_skipped(folder):
                files = _dropped_in(folder)
                if len(files) == 1:
                    jobs.append(self._admit(self._told_by_file(folder, files[0], JobState.QUEUED)))
                elif not files:
                    for leftover in folder.iterdir():
                        leftover.unlink()
                    folder.rmdir()
        return jobs

    def _job_folders(self, state: JobState, mark: str = "") -> list[Path]:
        """Return the folders of jobs, in order; anything else that lies there is a stranger."""
        return [
            entry
            for entry in sorted((self.root / state).iterdir())
            if entry.name.startswith(mark)
            and sequence_of(entry.name.removeprefix(mark)) is not None
            and entry.is_dir()
        ]

    def put_right(self) -> None:
        """Have the history of each job that is not over end where the job is.

        The record of a move is written before the move, and on a full disk not at all. One that
        may not be written stops nobody here; what else is to be done with the job tells of it.
        """
        for state in (JobState.QUEUED, JobState.ACTIVE):
            for job in self.jobs(state):
                if job.history and job.history[-1].state is not state:
                    note = f"found here after a restart; {job.history[-1].state} was not reached"
                    with suppress(PermissionError):
                        self.save(replace(job, history=(*job.history, _move(state, note, job))))

    def jobs(self, state: JobState) -> Iterator[Job]:
        """Yield the jobs in a state, in order; a folder without a readable job.json is a stranger.

        Raises:
            OSError: the folder can't be read.
        """
        for folder in self._job_folders(state):
            if (job := self._read_job(folder, state)) is not None:
                yield job

    def _read_job(self, folder: Path, state: JobState) -> Job | None:
        """Return what ``job.json`` says; None if it is missing or can't be read for what it is."""
        try:
            data = _read_at_once(folder / JOB_FILE)
        except OSError as error:
            if error.errno in _MAY_PASS:
                raise
            return None
        with suppress(*_NOT_A_JOB):
            job = Job.from_json(json.loads(data), state)
            return replace(job, id=folder.name)  # of a folder that was copied, too
        return None

    def content(self, job: Job) -> bytes:
        """Read the dropped file, if it may be run at all.

        Raises:
            ProblemsError: not a regular file, too large, unreadable, or not allowed to its owner.
        """
        path = self.path(job) / job.kept
        status = path.lstat()
        self._check_owner(job)
        if not stat.S_ISREG(status.st_mode):
            what = _FILE_KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file")
            hint = "copy the file itself into incoming/"
            raise _refusal(job, "spool.not_a_file", f"is {what}, not a file", hint)
        if status.st_size > self._max_bytes:
            message = f"is {status.st_size} bytes; at most {self._max_bytes} are read"
            raise _refusal(job, "spool.too_large", message, "a method is a few kilobytes of TOML")
        data = self._read(path, job)
        if job.sha256 is not None and hashlib.sha256(data).hexdigest() != job.sha256:
            message = "is not what was claimed: its content changed while it waited in queued/"
            hint = "a queued job is not edited: drop the new version into incoming/"
            raise _refusal(job, "spool.changed", message, hint)
        return data

    def companion(self, job: Job) -> str | None:
        """Return the method's text that the job keeps, if it does."""
        with suppress(FileNotFoundError):
            return (self.path(job) / COMPANION_FILE).read_text(encoding="utf-8")
        return None

    def keep_companion(self, job: Job, text: str) -> None:
        """Keep the text of the method that the job's experiment names."""
        write_atomically(self.path(job) / COMPANION_FILE, text.encode(), mode=0o640)

    def move(self, job: Job, to: JobState, note: str = "", *, record: bool = True) -> Job:
        """Move a job to another state, with the move in its history if it is to be recorded."""
        state = moved(job, to)
        after = job
        if record:
            after = self.save(replace(job, history=(*job.history, _move(state, note, job))))
        _rename(self.path(job), self.root / state / job.id)
        fsync_dir(self.root / job.state)
        fsync_dir(self.root / state)
        return replace(after, state=state)

    def found_in(self, job: Job, state: JobState) -> Job | None:
        """Return the job as it is in another state, if that is where its folder is by now.

        A disk in trouble may do a rename and then fail: what came of it is looked at.
        """
        if self.path(job).exists() or not (self.root / state / job.id).exists():
            return None
        there = replace(job, state=state)
        return self._read_job(self.path(there), state) or there

    def save(self, job: Job) -> Job:
        """Write ``job.json`` again."""
        data = json.dumps(job.to_json(), indent=2).encode()
        _write_readable(self.path(job) / JOB_FILE, data)
        return job

    def report(self, job: Job, as_json: str, as_text: str) -> None:
        """Write the report where the job now is."""
        _write_readable(self.path(job) / "report.txt", as_text.encode())
        _write_readable(self.path(job) / "report.json", as_json.encode())

    def _told_by_file(self, folder: Path, kept: Path, state: JobState) -> Job:
        """Return a job as its dropped file alone tells of it."""
        status = kept.lstat()
        return Job(
            id=folder.name.removeprefix(_STAGED),
            name=dropped_name(kept.name),
            kept=kept.name,
            owner=owner_name(status.st_uid),
            uid=status.st_uid,
            state=state,
            sha256=_sha256(kept, self._max_bytes),
            dropped_utc=_utc(status.st_mtime_ns),
        )

    def _admit(self, job: Job) -> Job:
        """Give a staged job its ``job.json`` and its place in the queue."""
        staged = self.root / JobState.QUEUED / f"{_STAGED}{job.id}"
        earlier, history = self._seen.find(job.sha256), (_move(JobState.QUEUED, ""),)
        job = replace(job, earlier=earlier, history=history)
        data = json.dumps(job.to_json(), indent=2).encode()
        _write_readable(staged / JOB_FILE, data)
        staged.chmod(FOLDER_MODE)
        _rename(staged, self.path(job))
        fsync_dir(staged.parent)
        self._seen.note(job)
        return job

    def _check_owner(self, job: Job) -> None:
        if self._owners and not {job.owner, str(job.uid)} & self._owners:
            message = f"belongs to {job.owner}, whose files are not run here"
            hint = f"allowed are {', '.join(sorted(self._owners))} (spool.owners in capad.toml)"
            raise _refusal(job, "spool.owner", message, hint)

    def _read(self, path: Path, job: Job) -> bytes:
        try:
            with open(path, "rb", opener=_without_following) as file:
                return file.read(self._max_bytes + 1)
        except PermissionError:
            message = f"can't be read by the daemon (it belongs to {job.owner})"
            hint = "drop it again, readable: chmod g+r before the move, or use cp"
            raise _refusal(job, "spool.unreadable", message, hint) from None


def owner_name(uid: int) -> str:
    """Return the user's name, or ``uid:1234`` where this box has none for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"


def _stamp(status: os.stat_result, wall_ns: int) -> Stamp:
    age_s = (wall_ns - max(status.st_mtime_ns, status.st_ctime_ns)) / 1e9
    return Stamp(
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        mode=status.st_mode,
        uid=status.st_uid,
        age_s=age_s,
        changed_ns=max(status.st_mtime_ns, status.st_ctime_ns),
    )


def _given_back(target: Path, source: Path) -> bool:
    """Put a file back that was written to while it was taken, unless its name is taken again."""
    if os.path.lexists(source):
        return False
    target.rename(source)
    return True


def _read_at_once(path: Path) -> bytes:
    """Read a file; what is none (a pipe that nobody writes to) makes nobody wait."""
    with open(path, "rb", opener=_without_waiting) as file:  # which closes a folder, too
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _without_following(path: str, flags: int) -> int:
    return _without_waiting(path, flags | os.O_NOFOLLOW)


def _free(path: Path) -> Path:
    """Return ``path``, or with a number where that is taken."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _sha256(path: Path, max_bytes: int) -> str | None:
    """Hash a regular file of a sane size, once it is on the disk; None for anything else."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
        return None
    with suppress(PermissionError):
        fsync_file(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def _dropped_in(folder: Path) -> list[Path]:
    """Return what lies in a job's folder and is not the daemon's own: the file that was dropped."""
    return [
        entry
        for entry in folder.iterdir()
        if not is_ours(entry.name) and not is_leftover(entry.name)
    ]


def _utc(at_ns: int) -> str:
    """Return an instant as text; one past the calendar (touch sets any) as the nearest in it."""
    at_s = min(max(at_ns / 1e9, 0.0), _LAST_S)
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")


def _move(state: JobState, note: str, before: Job | None = None) -> Move:
    """Return an entry of a history; one whose clock was set back meanwhile says so."""
    at_utc = utc_now().isoformat(timespec="milliseconds")
    if before is not None and before.history and at_utc < before.history[-1].at_utc:
        note = f"{note} (the clock was set back since the last entry)".strip()
    return Move(state, at_utc, note)


def _make_readable(folder: Path) -> None:
    """Make a folder that people look into; one that is there keeps the mode that it was given."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(FOLDER_MODE)


def _write_readable(path: Path, data: bytes) -> None:
    write_atomically(path, data, mode=FILE_MODE)
    with suppress(PermissionError):  # written by another user: its mode is that one's affair
        path.chmod(FILE_MODE)


def _rename(source: Path, target: Path) -> None:
    """Rename; a network file system whose answer got lost says that there is no such file."""
    try:
        source.rename(target)
    except FileNotFoundError:
        if not os.path.lexists(target):
            raise


def _refusal(job: Job, code: str, message: str, hint: str) -> ProblemsError:
    return ProblemsError([Problem(code, message, file=shown_name(job.name), hint=hint)])
