"""Whether a sealed bundle is what it was when it was sealed."""

from collections.abc import Iterator
from pathlib import Path

from capa.config.problems import Problem
from capa.errors import BundleError
from capa.storage.manifest import MANIFEST_FILE, Manifest, read_manifest
from capa.storage.sums import SUMS_FILE, content_files, parse_sums, sha256_of, strangers

__all__ = ["verify_bundle", "verify_contents"]


def verify_bundle(path: Path) -> list[Problem]:
    """Hash every file of a bundle again; return what is wrong with it, nothing when it is whole.

    What lies in the folder and is no file (a symlink) is named too, as not blocking: it is no
    part of the bundle, and says nothing of what is.
    """
    try:
        manifest = read_manifest(path)
    except BundleError as error:
        return [_problem("manifest_unreadable", path, MANIFEST_FILE, str(error))]
    problems = []
    if manifest.bundle_status != "sealed":
        message = f"bundle_status is {manifest.bundle_status}, not sealed"
        hint = "finalize it: python -m capa.storage.finalize DIR"
        problems.append(_problem("not_sealed", path, MANIFEST_FILE, message, hint))
    return [*problems, *verify_contents(path, manifest), *_verify_sums(path, manifest)]


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
