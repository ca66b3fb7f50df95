"""``spool/hold``: the file whose presence holds the queue, and whose first line says why."""

import os
from contextlib import suppress
from pathlib import Path

from capa.storage.atomic import fsync_dir, write_atomically

__all__ = ["HOLD_FILE", "Hold"]

HOLD_FILE = "hold"
_FILE_MODE = 0o664
"""Anybody who may write into the spool may change or remove it."""


class Hold:
    """The hold as it is known; what touches the disk blocks and may raise OSError.

    ``held`` is why the queue is held, None while it is not. ``unwritten``: the daemon wants it
    held and could not write the file yet, so the file's absence releases nothing.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / HOLD_FILE
        self.held: str | None = None
        self._wanted: str | None = None

    @property
    def unwritten(self) -> bool:
        """Whether the file is still to be written."""
        return self._wanted is not None

    def ask(self, reason: str) -> None:
        """Hold from now on; ``write`` makes it last."""
        self.held = self._wanted = _first_line(reason)

    def write(self) -> None:
        """Write the file, durably: a power cut after a crash must not start the next run."""
        reason = self._wanted
        if reason is None:
            return
        text = f"{reason}\nRemove this file to release the queue: rm '{self.path}'\n"
        write_atomically(self.path, text.encode(), mode=_FILE_MODE)
        self.path.chmod(_FILE_MODE)  # whatever the umask
        if self._wanted == reason:
            self._wanted = None

    def release(self) -> None:
        """Remove the file."""
        with suppress(FileNotFoundError):
            self.path.unlink()
            fsync_dir(self.path.parent)
        self._wanted = self.held = None

    def read(self) -> str | None:
        """Return what the file says; None if there is none. Anything there is a hold."""
        try:
            with open(self.path, "rb", opener=_at_once) as file:  # which closes a folder, too
                return file.read(500).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"there is a hold that can't be read ({error.strerror})"

    def see(self, text: str | None) -> bool:
        """Take what ``read`` returned; True if that changes anything."""
        now = None if text is None else _first_line(text)
        changed = now != self.held
        self.held = now
        return changed


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for who writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _first_line(text: str) -> str:
    """Return the reason for a hold: printable, on one line."""
    lines = text.strip().splitlines() or ["no reason given"]
    return "".join(c for c in lines[0] if c.isprintable())[:200]
