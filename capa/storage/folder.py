"""The folder of a new bundle: there whole or not at all, with some room kept for its end."""

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from capa.errors import BundleError
from capa.storage.atomic import fsync_dir, write_atomically
from capa.storage.lock import FolderLock
from capa.storage.manifest import Manifest, write_manifest

__all__ = ["PACKAGES_FILE", "free_reserve", "is_unborn", "make_folder", "packages_json"]

PACKAGES_FILE = "env/packages.json"
RESERVE_BYTES = 256 * 1024
"""What the last events and the manifest of a run's end take, and some more."""

_RESERVE = ".reserve.capa-tmp"
"""A leftover by its name: finalizing removes it, and nobody takes it for a part of the bundle."""
_UNBORN = ".new"
_RUN_ID = r"\d{8}-\d{6}-[0-9a-f]{4}"


def make_folder(path: Path, files: Mapping[str, str], manifest: Manifest) -> FolderLock:
    """Make the folder under another name and rename it, so that it is there whole or not at all.

    Returns the lock on it, held: at no moment may another take it for one that nobody records.

    Raises:
        BundleError: there is one of this name, or somebody took it for a leftover; try again.
        OSError: the disk refuses; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise BundleError(f"{path}: there is a bundle of this name already")
    building = path.with_name(f".{path.name}{_UNBORN}")
    building.mkdir()
    lock = _held(building)
    try:
        for name, text in {**files, PACKAGES_FILE: packages_json()}.items():
            target = building / name
            target.parent.mkdir(exist_ok=True)
            write_atomically(target, text.encode("utf-8", "backslashreplace"))
        _keep_reserve(building)
        write_manifest(building, manifest)
        building.rename(path)
        fsync_dir(path.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        lock.release()
        raise
    return lock


def _held(building: Path) -> FolderLock:
    """Take the folder in hand: whoever clears away what was left unborn leaves it alone then.

    One who was faster removes it. It is not ours to touch any more.
    """
    lock = FolderLock(building)
    try:
        held = lock.acquire()
    except FileNotFoundError:
        held = False
    if held and not building.exists():  # the lock is on a folder that is gone
        lock.release()
        held = False
    if not held:
        raise BundleError(f"{building}: was cleared away as a leftover; try again")
    return lock


def is_unborn(folder: Path) -> bool:
    """Whether this is what a kill left of ``make_folder``: nothing was recorded in it yet."""
    if not re.fullmatch(rf"\.{_RUN_ID}{re.escape(_UNBORN)}", folder.name):
        return False
    return folder.is_dir() and not folder.is_symlink() and not any(folder.glob("*.sqlite*"))


def _keep_reserve(folder: Path) -> None:
    """Take room on the disk, which ``free_reserve`` gives back.

    A disk that fills up during a run would otherwise leave no room to say how the run ended.
    """
    descriptor = os.open(folder / _RESERVE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
    finally:
        os.close(descriptor)


def free_reserve(folder: Path) -> None:
    """Give the room back, for the end of the run; nothing happens when there is none."""
    with suppress(OSError):
        (folder / _RESERVE).unlink(missing_ok=True)


def packages_json() -> str:
    """Return what is installed, by the names of its metadata folders: no file of it is opened."""
    record = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "packages": dict(sorted(_installed())),
    }
    return json.dumps(record, indent=2) + "\n"


def _installed() -> Iterator[tuple[str, str]]:
    seen = set()
    for folder in filter(os.path.isdir, sys.path):
        for entry in Path(folder).glob("*.dist-info"):
            name, _, version = entry.name.removesuffix(".dist-info").partition("-")
            if name not in seen:  # the first one on the path is the one that is imported
                seen.add(name)
                yield name, version
