"""Files that are either the old one or the new one, whenever the power fails."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = [
    "LEFTOVER_SUFFIX",
    "clear_temporaries",
    "fsync_dir",
    "fsync_file",
    "hand_over",
    "is_leftover",
    "write_atomically",
    "write_for_folder",
]

LEFTOVER_SUFFIX = ".capa-tmp"


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: beside it, fsynced, renamed, the folder fsynced.

    Raises:
        OSError: as the file system says; ``path`` is then unchanged and nothing is left over.
    """
    _replace(path, data, mode, handed_over=False)


def write_for_folder(path: Path, data: bytes) -> None:
    """Do the same, and have the file belong to whom its folder belongs to, if root writes it.

    Raises:
        OSError: as for ``write_atomically``.
    """
    _replace(path, data, 0o644, handed_over=True)


def _replace(path: Path, data: bytes, mode: int, *, handed_over: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{LEFTOVER_SUFFIX}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            if handed_over:
                hand_over(descriptor, path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def hand_over(descriptor: int, folder: Path) -> None:
    """Give an open file the owner and group of a folder, where we are root.

    What root writes into another user's folder has to stay that user's to change. A file system
    that knows no owners has nothing to give away.
    """
    if os.geteuid() == 0:
        with suppress(OSError):
            whose = folder.stat()
            os.fchown(descriptor, whose.st_uid, whose.st_gid)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what a killed ``write_atomically`` left behind."""
    return name.startswith(".") and name.endswith(LEFTOVER_SUFFIX)


def clear_temporaries(folder: Path) -> None:
    """Delete what killed writers left in a folder; nobody may be writing there just now.

    What can't be deleted stays: it harms nobody.
    """
    with suppress(OSError):
        for entry in sorted(folder.iterdir()):
            if is_leftover(entry.name) and entry.is_file() and not entry.is_symlink():
                with suppress(OSError):
                    entry.unlink()


def fsync_dir(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def fsync_file(path: Path) -> None:
    """Make the content of a file survive a power cut."""
    _fsync(path, os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
