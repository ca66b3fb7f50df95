"""``manifest.sha256``: the sums of every file of a bundle, as ``sha256sum -c`` reads them."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from capa.storage.atomic import is_leftover
from capa.storage.events import storable
from capa.storage.manifest import MANIFEST_FILE
from capa.storage.signing import SIGNATURE_FILE

__all__ = [
    "SUMS_FILE",
    "content_files",
    "format_sums",
    "parse_sums",
    "sha256_of",
    "sha256_of_bytes",
    "strangers",
]

SUMS_FILE = "manifest.sha256"


def content_files(folder: Path) -> dict[str, Path]:
    """Every regular file of a bundle that a manifest lists, by its name relative to the folder."""
    return {
        name: path
        for name, path in _walk(folder)
        if path.is_file()
        and not path.is_symlink()
        and not is_leftover(path.name)
        and storable(name) == name
    }


def strangers(folder: Path) -> dict[str, str]:
    """What is no part of a bundle, by name: symlinks, sockets and the like, and why not."""
    found = {}
    for name, path in _walk(folder, folders=True):
        if path.is_symlink():
            found[name] = "is a symbolic link; a bundle holds its data itself"
        elif path.is_dir():
            if (words := _odd_folder(path)) is not None:
                found[name] = words
        elif not path.is_file():
            found[name] = "is neither a file nor a folder"
        elif storable(name) != name:
            found[storable(name)] = "has a name that is no UTF-8, which a manifest can't hold"
        elif is_leftover(path.name):
            found[name] = "is called as what a killed writer leaves; it is no part of the bundle"
    return found


def _odd_folder(path: Path) -> str | None:
    try:
        return None if any(path.iterdir()) else "is an empty folder"
    except OSError as error:
        return f"is a folder that can't be read: {error.strerror}"


def _walk(folder: Path, *, folders: bool = False) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if folders:
                yield name, path
        elif name not in {MANIFEST_FILE, SUMS_FILE, SIGNATURE_FILE}:
            yield name, path


def sha256_of(path: Path) -> str:
    """Return the sum of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Return the sum of what a file is going to hold, in hex."""
    return hashlib.sha256(data).hexdigest()


def format_sums(sums: Mapping[str, str]) -> bytes:
    """Write lines as coreutils does, a name with a backslash or a line end escaped."""
    return b"".join(_line(name, digest) for name, digest in sorted(sums.items()))


def _line(name: str, digest: str) -> bytes:
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "\\" if escaped != name else ""
    return f"{mark}{digest}  {escaped}\n".encode("utf-8", "surrogateescape")


def parse_sums(data: bytes) -> dict[str, str]:
    """Read what ``format_sums`` wrote.

    Raises:
        ValueError: a line is not ``<64 hex>  <name>``.
    """
    sums = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if not line:
            continue
        digest, separator, name = line.removeprefix("\\").partition("  ")
        if len(digest) != 64 or not separator:
            raise ValueError(f"not a line of sums: {line!r}")
        sums[_unescape(name) if line.startswith("\\") else name] = digest
    return sums


def _unescape(name: str) -> str:
    parts = name.split("\\\\")
    return "\\".join(part.replace("\\n", "\n").replace("\\r", "\r") for part in parts)
