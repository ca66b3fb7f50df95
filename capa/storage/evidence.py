"""``evidence/``: what can't be read is kept as it was found, and replaces nothing."""

import os
from collections.abc import Iterable
from pathlib import Path

from capa.storage.atomic import fsync_dir

__all__ = ["EVIDENCE_DIR", "clear_the_way", "evidence_name", "keep_evidence"]

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


def clear_the_way(folder: Path, files: Iterable[str], folders: Iterable[str]) -> list[str]:
    """Put aside what stands where a file, or a folder, of the bundle's own belongs and is none.

    A link in that place would have finalizing write elsewhere. Returns the names.
    """
    moved = []
    for name in (EVIDENCE_DIR, *folders, *files):
        path = folder / name
        fits = path.is_file() if name in files else path.is_dir()
        if not os.path.lexists(path) or (fits and not path.is_symlink()):
            continue
        if name == EVIDENCE_DIR:
            path.rename(path.with_name(f"{EVIDENCE_DIR}.aside"))
        else:
            path.rename(evidence_name(path))
        moved.append(name)
    return moved


def evidence_name(path: Path) -> Path:
    """Return a name in ``evidence/`` that is not taken: evidence never replaces evidence."""
    folder = path.parent / EVIDENCE_DIR
    folder.mkdir(exist_ok=True)
    number = 1
    candidate = folder / path.name
    while os.path.lexists(candidate):
        number += 1
        candidate = folder / f"{path.name}.{number}"
    return candidate
