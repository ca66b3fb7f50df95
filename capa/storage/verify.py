"""Whether a sealed bundle is what it was when it was sealed."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from capa.config.problems import Problem
from capa.errors import BundleError
from capa.storage.chain import walk_chain
from capa.storage.inflight import EVENTS_FILE, connect_for_reading
from capa.storage.manifest import MANIFEST_FILE, Manifest, read_manifest
from capa.storage.signing import SIGNATURE_FILE, SigningError, signature_problem
from capa.storage.sums import SUMS_FILE, content_files, parse_sums, sha256_of, strangers

__all__ = ["verify_bundle", "verify_contents"]

_MOST_BREAKS = 10


def verify_bundle(path: Path, *, allowed_signers: Path | None = None) -> list[Problem]:
    """Hash every file of a bundle again; return what is wrong with it, nothing when it is whole.

    The chain of the events is followed too, and the signature checked where there is one; with
    ``allowed_signers``, a file of trusted keys, there must be one, by one of them. What lies in
    the folder and is no file (a symlink) is named too, as not blocking: it is no part of the
    bundle, and says nothing of what is.
    """
    try:
        manifest = read_manifest(path)
    except BundleError as error:
        message = str(error).removeprefix(f"{path / MANIFEST_FILE}: ")
        return [_problem("manifest_unreadable", path, MANIFEST_FILE, message)]
    problems = []
    if manifest.bundle_status != "sealed":
        message = f"bundle_status is {manifest.bundle_status}, not sealed"
        hint = f"capa bundle finalize {path}"
        problems.append(_problem("not_sealed", path, MANIFEST_FILE, message, hint))
    return [
        *problems,
        *_verify_name(path, manifest),
        *verify_contents(path, manifest),
        *_verify_chain(path, manifest),
        *_verify_sums(path, manifest),
        *_verify_signature(path, manifest, allowed_signers),
    ]


def _verify_name(path: Path, manifest: Manifest) -> Iterator[Problem]:
    if manifest.run_id != path.resolve().name:
        message = f"says that it is of run {manifest.run_id}; was the folder renamed?"
        yield _problem("other_name", path, MANIFEST_FILE, message, blocking=False)


def _verify_chain(path: Path, manifest: Manifest) -> Iterator[Problem]:
    """Follow the chain of the events to the end that the manifest states."""
    stated = manifest.events_chain
    if not (path / EVENTS_FILE).exists():
        if stated is not None:  # the list of files may have been made anew without it
            message = f"is missing; {stated.rows} events were sealed"
            yield _problem("chain_missing", path, EVENTS_FILE, message)
        return
    try:
        with closing(connect_for_reading(path / EVENTS_FILE)) as connection:
            if stated is None and not _has_chain(connection):  # format 1
                return
            rows = connection.execute("SELECT * FROM events ORDER BY id")
            chain = walk_chain(rows, manifest.run_id)
    except (sqlite3.Error, TypeError, ValueError) as error:
        yield _problem("chain_unreadable", path, EVENTS_FILE, f"cannot be followed: {error}")
        return
    broken = () if stated is None else stated.breaks
    for number in sorted(set(chain.breaks) - set(broken))[:_MOST_BREAKS]:
        message = f"event {number} does not follow on the one before: one was removed or edited"
        yield _problem("chain_broken", path, EVENTS_FILE, message)
    if broken:
        places = ", ".join(map(str, broken[:_MOST_BREAKS]))
        message = f"the chain was broken when the bundle was sealed, at event {places}"
        yield _problem("chain_was_broken", path, EVENTS_FILE, message, blocking=False)
    if stated is None:
        if manifest.bundle_status == "sealed":
            message = "the manifest does not state where the chain of the events ends"
            yield _problem("chain_not_stated", path, EVENTS_FILE, message)
    elif (chain.rows, chain.head) != (stated.rows, stated.head):
        message = f"has {chain.rows} events and another end than the {stated.rows} that were sealed"
        yield _problem("chain_altered", path, EVENTS_FILE, message)


def _has_chain(connection: sqlite3.Connection) -> bool:
    columns = connection.execute("SELECT name FROM pragma_table_info('events')").fetchall()
    return ("prev_hash",) in columns


def _verify_signature(
    path: Path, manifest: Manifest, allowed_signers: Path | None
) -> Iterator[Problem]:
    signature, signer = path / SIGNATURE_FILE, manifest.signer
    if signer is None:
        if allowed_signers is not None:
            yield _problem("not_signed", path, SIGNATURE_FILE, "the bundle is not signed")
        elif signature.exists():
            message = "is there, but the manifest names no key"
            yield _problem("signature_stray", path, SIGNATURE_FILE, message)
        return
    if not signature.exists():
        yield _problem("signature_missing", path, SIGNATURE_FILE, "is missing; it was signed once")
        return
    try:
        sums = (path / SUMS_FILE).read_bytes()
        wrong = signature_problem(sums, signature, signer, allowed_signers=allowed_signers)
    except (OSError, SigningError) as error:
        blocking = allowed_signers is not None
        message = f"was not checked: {error}"
        yield _problem("signature_unchecked", path, SIGNATURE_FILE, message, blocking=blocking)
        return
    if wrong is not None:
        yield _problem("signature_bad", path, SIGNATURE_FILE, wrong)


def verify_contents(path: Path, manifest: Manifest) -> list[Problem]:
    """Compare every file of the folder with the manifest's list."""
    present = content_files(path)
    problems = [
        _problem("file_missing", path, name, "is in the manifest, but not there")
        for name in manifest.files.keys() - present.keys()
    ]
    problems += [
        _problem("stranger", path, name, "is not in the manifest; it was put there later")
        for name in present.keys() - manifest.files.keys()
    ]
    problems += [
        _problem("not_a_file", path, name, words, blocking=False)
        for name, words in strangers(path).items()
    ]
    for name in manifest.files.keys() & present.keys():
        problems += _verify_file(path, name, present[name], manifest)
    return sorted(problems, key=lambda problem: problem.file or "")


def _verify_file(folder: Path, name: str, path: Path, manifest: Manifest) -> Iterator[Problem]:
    expected = manifest.files[name]
    try:
        size, digest = path.stat().st_size, sha256_of(path)
    except OSError as error:
        yield _problem("file_unreadable", folder, name, f"cannot be read: {error.strerror}")
        return
    if size != expected.size:
        message = f"has {size} bytes, had {expected.size} when it was sealed"
        yield _problem("file_altered", folder, name, message)
    elif digest != expected.sha256:
        yield _problem("file_altered", folder, name, "differs from what was sealed (sha256)")


def _verify_sums(path: Path, manifest: Manifest) -> Iterator[Problem]:
    """Compare ``manifest.sha256`` with the manifest's list and with the manifest itself."""
    try:
        sums = parse_sums((path / SUMS_FILE).read_bytes())
    except OSError as error:
        yield _problem("sums_missing", path, SUMS_FILE, f"cannot be read: {error.strerror}")
        return
    except ValueError as error:
        yield _problem("sums_unreadable", path, SUMS_FILE, str(error))
        return
    if sums.pop(MANIFEST_FILE, "") != sha256_of(path / MANIFEST_FILE):
        message = "differs from its sum in manifest.sha256"
        yield _problem("file_altered", path, MANIFEST_FILE, message)
    listed = {name: entry.sha256 for name, entry in manifest.files.items()}
    for name, _ in sorted(sums.items() ^ listed.items()):
        yield _problem("sums_disagree", path, name, "manifest.sha256 and manifest.json disagree")


def _problem(
    code: str,
    folder: Path,
    name: str,
    message: str,
    hint: str | None = None,
    *,
    blocking: bool = True,
) -> Problem:
    return Problem(f"bundle.{code}", message, blocking, file=str(folder / name), hint=hint)
