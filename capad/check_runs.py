"""Whether ``[runs]`` fits the box: the disk, the safety monitor, the key that signs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from capa.config.problems import Problem
from capa.config.safety import DiskWatch
from capad.settings import RunSettings

__all__ = ["check_runs"]

_GB = 1e9
_MB_IN_GB = 1e3


def check_runs(runs: RunSettings, disk: DiskWatch) -> list[Problem]:
    """Return what does not fit; nothing of it keeps the daemon from starting.

    ``disk`` is when the safety monitor speaks up about free space.
    """
    found = [] if runs.sign_key is None else list(_check_key(runs.sign_key))
    if runs.keep.min_free_gb is not None:
        found += _check_room(runs.keep.min_free_gb, runs.root, disk)
    return found


def _check_key(path: Path) -> Iterator[Problem]:
    if not os.access(path, os.R_OK):
        why = "can't be read" if path.exists() else "is not there"
        hint = f"ssh-keygen -t ed25519 -N '' -f {path}; readable for the daemon's user alone"
        yield _note("sign_key", f"{why}: bundles are not signed", str(path), hint)


def _check_room(wanted_gb: float, root: Path, disk: DiskWatch) -> Iterator[Problem]:
    spoken_gb = disk.warn_below_mb / _MB_IN_GB
    if wanted_gb <= spoken_gb:
        message = f"min_free_gb is {wanted_gb:g}: the safety monitor speaks up before room is made"
        hint = f"more than {spoken_gb:g}, which is disk.warn_below_mb of the profile"
        yield _note("keep.min_free_gb", message, None, hint)
    place = next((path for path in (root, *root.parents) if path.exists()), root)
    total_gb = shutil.disk_usage(place).total / _GB
    if wanted_gb > total_gb / 2:
        message = f"min_free_gb is {wanted_gb:g}, of a disk of {total_gb:.1f} GB"
        hint = "with less than half of the disk for bundles, most do not stay for long"
        yield _note("keep.min_free_gb", message, None, hint)


def _note(key: str, message: str, file: str | None, hint: str) -> Problem:
    return Problem(
        f"settings.runs.{key}", message, blocking=False, file=file, where=f"runs.{key}", hint=hint
    )
