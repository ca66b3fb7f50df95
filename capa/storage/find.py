"""Finding bundles: where runs lie, and which one a person means."""

import os
from collections.abc import Mapping
from pathlib import Path

from capa.config.box import BOX_RUNS
from capa.errors import BundleError
from capa.storage.manifest import MANIFEST_FILE
from capa.storage.removal import removed_runs

__all__ = ["bundle_folders", "find_bundle", "named_runs", "runs_folder"]

LAST = "last"
_SHOWN = 5


def named_runs(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where somebody says that runs are: the option, ``CAPA_RUNS_ROOT``, ``CAPA_RUNS``."""
    told = environ.get("CAPA_RUNS_ROOT") or environ.get("CAPA_RUNS")
    return given or (Path(told) if told else None)


def runs_folder(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder to read runs from: the one that is named, ``./runs``, or the box's own."""
    named = named_runs(given, environ)
    return named or (Path("runs") if Path("runs").is_dir() else BOX_RUNS)


def bundle_folders(runs_root: Path) -> list[Path]:
    """Return every bundle in a folder, by name and so in the order of their starts.

    Raises:
        BundleError: the folder can't be read.
    """
    try:
        folders = sorted(runs_root.iterdir())
    except OSError as error:
        raise BundleError(
            f"{runs_root}: the runs can't be read: {error.strerror}; say where they are with"
            f" --runs DIR or CAPA_RUNS_ROOT"
        ) from error
    shown = [folder for folder in folders if not folder.name.startswith(".")]
    return [folder for folder in shown if _is_bundle(folder)]


def _is_bundle(folder: Path) -> bool:
    """Whether it is one, or may be one: what may not be looked into is said where it is read."""
    try:
        return (folder / MANIFEST_FILE).exists()
    except OSError as error:  # else the name is too long for a file
        return isinstance(error, PermissionError)


def find_bundle(text: str, runs_root: Path) -> Path:
    """Return the bundle that is meant by a path, a run id, the beginning of one, or ``last``.

    Raises:
        BundleError: there is none, or more than one.
    """
    path = Path(text)
    if _is_bundle(path):
        return path
    if len(path.parts) > 1:
        raise BundleError(f"{path}: no bundle: there is no {MANIFEST_FILE} in it")
    folders = bundle_folders(runs_root)
    if text == LAST:
        if not folders:
            raise BundleError(f"{runs_root}: there is no run yet")
        return folders[-1]
    found = [folder for folder in folders if folder.name.startswith(text)]
    if not found:
        for gone in removed_runs(runs_root):
            if gone.run_id.startswith(text):
                day = gone.removed_utc[:10]
                raise BundleError(
                    f"{runs_root}: {gone.run_id} was removed on {day} by {gone.by}; "
                    f"see capa bundle list --removed"
                )
        raise BundleError(f"{runs_root}: no run is called {text}; see capa bundle list")
    if len(found) > 1 and found[0].name != text:
        names = ", ".join(folder.name for folder in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise BundleError(f"{runs_root}: {text} may be {names}{more}; say more of it")
    return found[0]
