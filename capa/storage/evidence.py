"""``evidence/``: what can't be read is kept as it was found, and replaces nothing."""

from pathlib import Path

from capa.storage.atomic import fsync_dir

__all__ = ["EVIDENCE_DIR", "evidence_name", "keep_evidence"]

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


def evidence_name(path: Path) -> Path:
    """Return a name in ``evidence/`` that is not taken: evidence never replaces evidence."""
    folder = path.parent / EVIDENCE_DIR
    folder.mkdir(exist_ok=True)
    number = 1
    candidate = folder / path.name
    while candidate.exists():
        number += 1
        candidate = folder / f"{path.name}.{number}"
    return candidate
