"""``evidence/``: what can't be read is kept as it was found, and replaces nothing."""

import os
from collections.abc import Iterable
from pathlib import Path

from capa.storage.atomic import fsync_dir, write_atomically

__all__ = [
    "EVIDENCE_DIR",
    "evidence_name",
    "free_evidence",
    "in_the_way",
    "keep_copy",
    "keep_evidence",
]

EVIDENCE_DIR = "evidence"
_COMPANIONS = ("-wal", "-shm", "-journal")


def keep_evidence(path: Path) -> None:
    """Move a file, with what SQLite keeps beside it, into ``evidence/``."""
    for suffix in (*_COMPANIONS, ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.replace(evidence_name(source))
    if (folder := path.parent / EVIDENCE_DIR).exists():
        fsync_dir(folder)


def keep_copy(path: Path) -> None:
    """Have in ``evidence/``, once, what a file holds that is about to be replaced.

    So it is still in its place after a kill. What can't be copied, a folder say, is moved.
    """
    if not os.path.lexists(path):
        return
    try:
        target = path.readlink() if path.is_symlink() else None
        data = b"" if target else path.read_bytes()
    except OSError:
        path.rename(evidence_name(path))
    else:
        if any(_holds(kept, target, data) for kept in _kept(path)):
            return
        if target:
            evidence_name(path).symlink_to(target)
        else:
            write_atomically(evidence_name(path), data)
    fsync_dir(path.parent / EVIDENCE_DIR)
    fsync_dir(path.parent)


def _kept(path: Path) -> list[Path]:
    """Return what ``evidence_name`` ever gave out for a file."""
    folder = path.parent / EVIDENCE_DIR
    return [kept for kept in folder.glob("*") if kept.name.startswith(path.name)]


def _holds(kept: Path, target: Path | None, data: bytes) -> bool:
    if kept.is_symlink():
        return kept.readlink() == target
    return target is None and kept.is_file() and kept.read_bytes() == data


def free_evidence(folder: Path) -> Path | None:
    """Put aside what is called ``evidence`` and is no folder; return what it is called now.

    It comes before anything is kept: through a link, that would leave the bundle.
    """
    path = folder / EVIDENCE_DIR
    if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
        return None
    aside = _not_taken(path.with_name(f"{EVIDENCE_DIR}.aside"))
    path.rename(aside)
    fsync_dir(folder)
    return aside


def in_the_way(folder: Path, files: Iterable[str], folders: Iterable[str]) -> dict[Path, Path]:
    """Return what stands where a file, or a folder, of the bundle's own belongs and is none.

    A link in that place would have finalizing write elsewhere. By path: where to keep it.
    """
    found = {}
    for name in (*folders, *files):
        path = folder / name
        fits = path.is_file() if name in files else path.is_dir()
        if os.path.lexists(path) and (not fits or path.is_symlink()):
            found[path] = evidence_name(path)
    return found


def evidence_name(path: Path) -> Path:
    """Return a name in ``evidence/`` that is not taken: evidence never replaces evidence."""
    folder = path.parent / EVIDENCE_DIR
    folder.mkdir(exist_ok=True)
    return _not_taken(folder / path.name)


def _not_taken(path: Path) -> Path:
    number = 1
    candidate = path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate
