"""One hash over the content of everything a distribution installed.

Covered: every file that the distribution's RECORD lists, and every other file in the folders it
owns, so that an added file shows as well as a changed one. For an editable install also the
source tree: whatever can be imported from the folders its ``.pth`` files name, and every path its
import finder names (https://packaging.python.org/en/latest/specifications/binary-distribution-format/,
https://peps.python.org/pep-0660/).

Not covered, because it differs between two installs of one wheel: byte code in ``__pycache__``,
launchers that the installer writes for console scripts, and the installer's own notes
(``_VOLATILE``). Nor are the distributions it depends on, which are for the constraints file.
The hash shows what has changed since somebody looked. It is no defence against one who may write
into the environment: they could change this file.
"""

import ast
import csv
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

from capa.errors import CapaError

__all__ = ["HASH_PREFIX", "Fingerprint", "FingerprintError", "fingerprint"]

HASH_PREFIX = "sha256:"

_VOLATILE = frozenset(
    {
        "INSTALLER",
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "REQUESTED",
        "direct_url.json",
        "provenance_url.json",
        "uv_build.json",
        "uv_cache.json",
    }
)
_INFO_SUFFIXES = (".dist-info", ".egg-info")
_CACHE = "__pycache__"
_CHUNK = 1 << 20


class FingerprintError(CapaError):
    """The files of a distribution can't be told or can't be read."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hash, and the files it covers: real paths, links resolved."""

    hash: str
    files: frozenset[Path]


def fingerprint(distribution: Distribution) -> Fingerprint:
    """Hash a distribution's files, sorted by their path within it.

    Raises:
        FingerprintError: it has no RECORD, or a file can't be read.
    """
    try:
        labelled = _collect(distribution)
        lines = sorted(f"{_digest(path)} {json.dumps(label)}\n" for label, path in labelled)
        files = frozenset(path.resolve() for _, path in labelled)
    except OSError as error:
        raise FingerprintError(
            f"{distribution.name}: {error.filename}: {error.strerror}; its hash can't be taken"
        ) from error
    whole = hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass"))
    return Fingerprint(HASH_PREFIX + whole.hexdigest(), files)


def _collect(distribution: Distribution) -> set[tuple[str, Path]]:
    """Return each file with the path it is known by, which does not tell where it is installed."""
    recorded = _recorded(distribution)
    root = Path(str(distribution.locate_file(""))).absolute()
    found = {(str(name), root / name) for name in recorded if (root / name).is_file()}
    for folder in _owned_folders(recorded, root):
        found |= {(path.relative_to(root).as_posix(), path) for path in _walk(root / folder)}
    editable = _is_editable(distribution)
    for name in (name for name in recorded if len(name.parts) == 1):
        found |= set(_redirected(root / name, editable=editable))
    launchers = _launchers(distribution)
    return {
        (label, path)
        for label, path in found
        if not _is_volatile(PurePosixPath(label)) and label not in launchers
    }


def _recorded(distribution: Distribution) -> list[PurePosixPath]:
    try:
        files = distribution.files
    except (ValueError, TypeError, csv.Error) as error:
        raise FingerprintError(
            f"{distribution.name}: its RECORD is damaged ({error}); install it again"
        ) from error
    if not files:
        raise FingerprintError(
            f"{distribution.name} has no record of its files; install it with pip or uv"
        )
    return [PurePosixPath(file) for file in files]


def _owned_folders(recorded: Iterable[PurePosixPath], root: Path) -> set[PurePosixPath]:
    """Return the topmost folders with a file of its own: a namespace it shares is not among them.

    What lies outside (``../../../share``) is shared by nature; only the recorded files count.
    """
    names = list(recorded)
    folders = {name.parent for name in names if len(name.parts) > 1 and name.parts[0] != ".."}
    folders |= {name for name in names if name.parts[0] != ".." and (root / name).is_dir()}
    folders -= {folder for folder in folders if _CACHE in folder.parts}
    return {folder for folder in folders if not folders.intersection(folder.parents)}


def _launchers(distribution: Distribution) -> set[str]:
    groups = ("console_scripts", "gui_scripts")
    names = {entry.name for entry in distribution.entry_points if entry.group in groups}
    names |= {f"{name}.exe" for name in names}
    return {str(file) for file in distribution.files or () if _is_launcher(file, names)}


def _is_launcher(file: PurePosixPath, names: set[str]) -> bool:
    return ".." in file.parts and file.parent.name in ("bin", "Scripts") and file.name in names


def _is_volatile(label: PurePosixPath) -> bool:
    in_info = len(label.parts) > 1 and label.parts[0].endswith(_INFO_SUFFIXES)
    return _CACHE in label.parts or (in_info and label.name in _VOLATILE)


def _is_editable(distribution: Distribution) -> bool:
    """Whether the installer says so (https://peps.python.org/pep-0610/)."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        return bool(origin["dir_info"]["editable"])
    except (ValueError, KeyError, TypeError):
        return False


def _redirected(file: Path, *, editable: bool) -> Iterator[tuple[str, Path]]:
    """Yield what a ``.pth`` or a finder at the top of the install sends the import system to.

    Finders are looked for in editable installs only, and by the leading underscore that all
    builders give them: the paths that any other module names are none of the distribution's.
    """
    if file.suffix == ".pth" and file.is_file():
        for folder in _pth_folders(file):
            for path in _importable(folder):
                yield f"source/{path.relative_to(folder).as_posix()}", path
    elif editable and file.suffix == ".py" and file.name.startswith("_") and file.is_file():
        for target in _named_paths(file):
            for path in _walk(target):
                yield f"source/{path.relative_to(target.parent).as_posix()}", path


def _pth_folders(file: Path) -> list[Path]:
    """Read a ``.pth`` as the ``site`` module does: one folder a line, imports and remarks aside."""
    lines = (line.strip() for line in file.read_text("utf-8", "surrogateescape").splitlines())
    named = (line for line in lines if line and not line.startswith(("#", "import ", "import\t")))
    return [folder for line in named if (folder := file.parent / line).is_dir()]


def _importable(folder: Path) -> Iterator[Path]:
    """Yield the modules at the top of a folder and every file of the packages in it."""
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and entry.suffix in (".py", ".pyc", ".so", ".pyd"):
            yield entry
        elif entry.is_dir() and entry.name.isidentifier() and entry.name != _CACHE:
            files = [] if (entry / "pyvenv.cfg").exists() else list(_walk(entry))
            if any(file.suffix in (".py", ".pyc", ".so", ".pyd") for file in files):
                yield from files


def _named_paths(file: Path) -> list[Path]:
    """Return every absolute path that stands in a finder's code as text, and exists."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    paths = sorted(text for text in texts if isinstance(text, str) and text.startswith(os.sep))
    return [path for text in paths if text != os.sep and (path := _existing(text))]


def _existing(text: str) -> Path | None:
    """Return the path, or for a module named without its suffix its file."""
    if "\0" in text:
        return None
    return next((p for p in (Path(text), Path(f"{text}.py")) if p.exists()), None)


def _walk(top: Path) -> Iterator[Path]:
    """Yield every file below, through links too, each folder once."""
    if not top.is_dir():
        yield top
        return
    seen: set[str] = set()
    for at, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(at)
        folders[:] = sorted(name for name in folders if name not in (_CACHE, ".git"))
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(at, name) for name in sorted(files))


def _digest(path: Path) -> str:
    """Hash a file; what is no regular file (or a link to nothing) is known by its kind."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "missing"
    if not stat.S_ISREG(mode):
        return f"special-{stat.S_IFMT(mode):o}"
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
