"""One daemon per folder: a lock that the kernel drops when its holder dies.

Two folders have one: the spool, whose jobs must not be started twice, and the runs, whose
interrupted bundles one daemon recovers while another still writes them.

``flock`` knows the processes of one machine. Where several machines mount one folder, Linux
carries it over NFS as a lock of the server's, unless the mount says ``local_lock`` or ``nolock``:
then each machine only sees its own. So the file names the machine too, and its time of change is
renewed every ``BEAT_S``: a lock of another machine that was renewed a moment ago is respected,
whatever ``flock`` says. What remains is the gap of two daemons that start on two machines within
the same second, on a mount without locks; the rename that claims a file is one even then.
"""

import errno
import fcntl
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

import trio

from capa.config.problems import Problem, ProblemsError
from capa.storage.atomic import LEFTOVER_SUFFIX

__all__ = ["BEAT_S", "STALE_S", "ServiceLock"]

BEAT_S = 10.0
STALE_S = 45.0
_NAME = ".capad.lock"
_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT})


class ServiceLock:
    """Held from ``acquire`` until the process ends or ``release``; the file says by whom.

    Args:
        root: the folder; made when it is missing.
        what: how messages call it (``spool``, ``runs``), which is also the settings table.
    """

    def __init__(self, root: Path, what: str = "spool") -> None:
        self._path = root / _NAME
        self._what = what
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        On a disk that is full or read-only, where there is no lock file yet, none is taken: the
        rig has to be made safe first of all, and nothing can be written there twice.

        Raises:
            ProblemsError: another daemon has it, or the folder can't be used.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Kept open for reading only: a file open for writing would keep the file system from
            # being made read-only.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            if error.errno in _DISK_TROUBLE:
                return
            message = f"the {self._what} folder can't be used: {error.strerror}"
            hint = f"make the folder, writable for the daemon, or set {self._what}.root"
            raise self._refusal("unusable", message, hint) from None
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            with suppress(OSError):  # a disk that is gone or read-only: the kernel drops the lock
                self._path.write_text("")
            os.close(self._descriptor)
            self._descriptor = None

    async def keep(self) -> None:
        """Renew the file's time, for daemons on other machines, until cancelled."""
        while True:
            await trio.sleep(BEAT_S)
            with suppress(OSError):  # the spool tells of a disk in trouble
                await trio.to_thread.run_sync(os.utime, self._path)

    def _take(self, descriptor: int) -> None:
        holder = os.read(descriptor, 200).decode("utf-8", "replace").split()
        pid, host = (*holder, "", "")[:2]
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken(f"pid {pid or 'unknown'}{_elsewhere(host)}") from None
        except OSError as error:
            message = f"this file system has no locks ({error.strerror})"
            hint = f"put {self._what}.root onto a local disk, or mount it with locks"
            raise self._refusal("no_locks", message, hint) from None
        if _elsewhere(host) and self._is_fresh():
            raise self._taken(f"pid {pid}{_elsewhere(host)}")
        with suppress(OSError):  # a full disk costs the name, not the lock
            self._path.write_text(f"{os.getpid()} {socket.gethostname()}\n")

    def _is_fresh(self) -> bool:
        """Whether the file was renewed a moment ago, by the file server's own clock."""
        probe = self._path.with_name(f"{_NAME}.{secrets.token_hex(4)}{LEFTOVER_SUFFIX}")
        with suppress(OSError):
            probe.touch()
            age_s = probe.stat().st_mtime - self._path.stat().st_mtime
            probe.unlink()
            return age_s < STALE_S
        return False

    def _taken(self, holder: str) -> ProblemsError:
        words = "works on this spool" if self._what == "spool" else "records into this folder"
        flag = f"--{self._what}"
        hint = f"end it first, or give this one a folder of its own ({flag})"
        return self._refusal("taken", f"another daemon {words} ({holder})", hint)

    def _refusal(self, code: str, message: str, hint: str) -> ProblemsError:
        problem = Problem(f"{self._what}.{code}", message, file=str(self._path.parent), hint=hint)
        return ProblemsError([problem])


def _elsewhere(host: str) -> str:
    return f" on {host}" if host and host != socket.gethostname() else ""
