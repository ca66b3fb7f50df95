"""Files that are either the old one or the new one, whenever the power fails."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

__all__ = [
    "LEFTOVER_SUFFIX",
    "clear_temporaries",
    "fsync_dir",
    "fsync_file",
    "hand_over",
    "is_leftover",
    "make_folder",
    "open_for_folder",
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


def open_for_folder(path: Path, flags: int, *, mode: int = 0o644) -> int:
    """Open a file to write to, made if need be; it belongs to whom its folder belongs to.

    That user may have put anything in its place: root would write to what it leads to, and then
    give it away.

    Raises:
        OSError: as the file system says, with the file's name; it is a link, or no plain file.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "a link is in the way; remove it", str(path)) from None
    try:
        _refuse_borrowed(descriptor, path)
        hand_over(descriptor, path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_borrowed(descriptor: int, path: Path) -> None:
    """Raise if this is no plain file, or a second name of one that is not the folder's owner's."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "something that is no file is in the way", str(path))
    if os.geteuid() == 0 and found.st_nlink > 1 and found.st_uid != path.parent.stat().st_uid:
        raise OSError(errno.EMLINK, "a link to another user's file is in the way", str(path))


def hand_over(descriptor: int, folder: Path) -> None:
    """Give an open file the owner and group of a folder, where we are root.

    What root writes into another user's folder has to stay that user's to change. A file system
    that knows no owners has nothing to give away, and a file with a second name may be anybody's.
    """
    if os.geteuid() == 0:
        with suppress(OSError):
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                _give(descriptor, folder)


def make_folder(path: Path) -> None:
    """Make a folder, and what is missing above it; root's belong to whom the nearest one does.

    Raises:
        OSError: as the file system says.
    """
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    except FileNotFoundError:
        make_folder(path.parent)
        make_folder(path)
        return
    if os.geteuid() == 0:
        # By a descriptor: whoever the parent belongs to may have put something else there by now.
        with suppress(OSError):
            descriptor = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _give(descriptor, path.parent)
            finally:
                os.close(descriptor)


def _give(descriptor: int, folder: Path) -> None:
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
