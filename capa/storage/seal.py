"""Finalizing: from whatever a run left in its folder to a sealed bundle.

A pure function of the folder, and idempotent: each step either leaves its result in place, whole,
or can be done again, so that it may be killed at any point and started anew. Nothing is removed
before what replaces it has been written, fsynced and read back.
"""

import sqlite3
from pathlib import Path

import pyarrow as pa

from capa.clock import utc_now
from capa.config.problems import Problem
from capa.errors import BundleError
from capa.storage.atomic import clear_temporaries, write_atomically
from capa.storage.convert import STATUS_FILE, finish_inflight
from capa.storage.device_records import RECORDS_DIR
from capa.storage.evidence import EVIDENCE_DIR, free_evidence, in_the_way, keep_copy
from capa.storage.finalize import FinalizeResult
from capa.storage.inflight import EVENTS_FILE, INFLIGHT_FILE
from capa.storage.lock import FolderLock
from capa.storage.manifest import (
    MANIFEST_FILE,
    FileEntry,
    NewerFormatError,
    manifest_bytes,
    read_manifest,
    salvaged_manifest,
)
from capa.storage.outcome import close_times, finish_events, settle_outcome
from capa.storage.scalars import SCALARS_FILE
from capa.storage.signing import SIGNATURE_FILE, Key, SigningError
from capa.storage.sums import (
    SUMS_FILE,
    content_files,
    format_sums,
    sha256_of,
    sha256_of_bytes,
    strangers,
)
from capa.storage.verify import verify_bundle, verify_contents
from capa.storage.work import Work

__all__ = ["finalize_bundle"]

LOCK_TIMEOUT_S = 10.0
_DATABASES = (EVENTS_FILE, INFLIGHT_FILE)
_OUR_FILES = (
    *(f"{name}{end}" for name in _DATABASES for end in ("", "-wal", "-shm", "-journal")),
    SCALARS_FILE,
    STATUS_FILE,
    SUMS_FILE,
    SIGNATURE_FILE,
)


def finalize_bundle(
    path: Path, *, sign_key: Path | None = None, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> FinalizeResult:
    """Seal the bundle in ``path``; one that is sealed already is verified and left alone.

    A run that is still ``running`` in the manifest, and that nobody holds, was interrupted: it
    becomes ``crashed``. What stops it is returned in words, and a later call goes on from there.
    With ``sign_key``, an Ed25519 key, the sums are signed; a key that does not sign is a note.
    """
    try:
        if not any((path / name).exists() for name in (MANIFEST_FILE, EVENTS_FILE, INFLIGHT_FILE)):
            return FinalizeResult("open", f"{path}: is not a bundle; nothing was touched")
    except OSError as error:
        return FinalizeResult("finalizing", f"{path}: {error.strerror}; check its permissions")
    lock = FolderLock(path)
    try:
        if not lock.acquire_within(lock_timeout_s):
            return FinalizeResult("open", f"{path}: somebody else has this bundle in hand")
        return _finalize(path, sign_key)
    except NewerFormatError as error:
        return FinalizeResult("open", str(error))
    except (OSError, sqlite3.Error, pa.ArrowException, BundleError) as error:
        return FinalizeResult("finalizing", f"{path}: {type(error).__name__}: {error}")
    finally:
        lock.release()


def _finalize(path: Path, sign_key: Path | None) -> FinalizeResult:
    work = _begin(path)
    if work is None:
        return FinalizeResult(
            "verification_failed",
            f"{path}: was sealed, but its {MANIFEST_FILE} can't be read; nothing was touched",
        )
    if work.manifest.bundle_status == "sealed":
        return _again(work)
    if work.manifest.bundle_status == "verification_failed":
        notes = "; ".join(work.manifest.finalize_notes)
        return FinalizeResult("verification_failed", notes or "see capa bundle verify")
    if (path / SUMS_FILE).is_file():  # which is written after a manifest that says sealed
        return FinalizeResult(
            "verification_failed",
            f"{path}: was sealed, and its {MANIFEST_FILE} was altered since; nothing was touched",
        )
    _remove_leftovers(path)
    _make_way(work)
    finish_events(work)
    settle_outcome(work)
    finish_inflight(work)
    close_times(work)
    return _seal(work, sign_key)


def _begin(path: Path) -> Work | None:
    """Read the manifest; one that cannot be read is made anew from what is left of it.

    None where sums lie beside it, which are written after it: then it was altered since, and to
    seal the bundle again would hide that.
    """
    try:
        return Work(path, read_manifest(path))
    except NewerFormatError:
        raise
    except BundleError as error:
        if (path / SUMS_FILE).is_file():
            return None
        work = Work(path, salvaged_manifest(path), made_anew=True)
        work.note(f"the manifest was made anew: {error}")
        return work


def _again(work: Work) -> FinalizeResult:
    """Verify what is sealed; only the sums may be missing, after a kill between the last writes."""
    clear_temporaries(work.path)
    if not (work.path / SUMS_FILE).is_file() and not any(
        problem.blocking for problem in verify_contents(work.path, work.manifest)
    ):
        sums = {name: entry.sha256 for name, entry in work.manifest.files.items()}
        sums[MANIFEST_FILE] = sha256_of(work.path / MANIFEST_FILE)
        write_atomically(work.path / SUMS_FILE, format_sums(sums))
    problems = _blocking(work.path)
    if problems:
        return FinalizeResult("verification_failed", "; ".join(map(str, problems)))
    return FinalizeResult("sealed", "was sealed already, and verifies")


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers left, and the room that was kept for the end of the run."""
    clear_temporaries(path)
    signature = path / SIGNATURE_FILE
    if signature.is_file() and not signature.is_symlink():  # of a seal that a kill cut short
        signature.unlink()


def _make_way(work: Work) -> None:
    """Put aside what is not the bundle's own; the manifest tells of it before it is moved.

    So a kill costs nothing: what is found moved has been told, and what can't be read of the
    manifest is in ``evidence/`` before another one replaces it.
    """
    path, told = work.path, len(work.notes)
    if (aside := free_evidence(path)) is not None:
        work.note(f"{EVIDENCE_DIR} was no folder of this one's own: it is kept as {aside.name}")
    clear_temporaries(path / EVIDENCE_DIR)
    if work.made_anew:
        keep_copy(path / MANIFEST_FILE)
    moves = in_the_way(path, _OUR_FILES, (RECORDS_DIR,))
    for source, kept in moves.items():
        kind = "folder" if source.name == RECORDS_DIR else "file"
        where = kept.relative_to(path).as_posix()
        work.note(f"{source.name} was no {kind} of this one's own: it is kept as {where}")
    if work.made_anew or len(work.notes) > told:
        work.save()
    for source, kept in moves.items():
        source.rename(kept)


def _seal(work: Work, sign_key: Path | None) -> FinalizeResult:
    for name, words in strangers(work.path).items():
        work.note(f"{name} {words}; left out")
    files = {
        name: FileEntry(
            sha256=sha256_of(file), size=file.stat().st_size, rows=work.rows.get(name)
        ).model_dump()
        for name, file in content_files(work.path).items()
    }
    work.update(files=files, bundle_status="sealed", sealed_utc=utc_now())
    signature = _signature(work, sign_key)
    if signature is not None:  # before the manifest: a kill in between must not cost it
        write_atomically(work.path / SIGNATURE_FILE, signature)
    work.save()
    write_atomically(work.path / SUMS_FILE, _sums(work))
    problems = _blocking(work.path)
    if not problems:
        return FinalizeResult("sealed", "; ".join(work.notes))
    words = "; ".join(map(str, problems))
    work.note(f"did not verify after sealing: {words}")
    work.update(bundle_status="verification_failed")
    work.save()
    for name in (SUMS_FILE, SIGNATURE_FILE):
        (work.path / name).unlink(missing_ok=True)
    return FinalizeResult("verification_failed", words)


def _signature(work: Work, sign_key: Path | None) -> bytes | None:
    """Sign what the sums are going to be; the manifest names the key only if that succeeds."""
    if sign_key is None:
        return None
    try:
        key = Key.load(sign_key)
        work.update(signer=key.signer.model_dump())
        return key.sign(_sums(work))
    except SigningError as error:
        work.note(f"not signed: {error}")
        work.update(signer=None)
        return None


def _sums(work: Work) -> bytes:
    """Return the sums of every file, and of the manifest as it is (going to be) written."""
    work.update(finalize_notes=tuple(dict.fromkeys(work.notes)))
    sums = {name: entry.sha256 for name, entry in work.manifest.files.items()}
    sums[MANIFEST_FILE] = sha256_of_bytes(manifest_bytes(work.manifest))
    return format_sums(sums)


def _blocking(path: Path) -> list[Problem]:
    return [problem for problem in verify_bundle(path) if problem.blocking]
