"""A write-ahead log with a bad frame in its middle: mended, so that what follows it is read.

SQLite stops at the first frame whose check sum is wrong, and what was committed after it is lost
without a word. But each frame's sum builds on the one before as it stands in the file, so that
every later frame can still be checked, and the pages of this program are written over and over:
without the bad frame the log mostly holds everything all the same. What it does not hold shows
when the database is checked. Format: https://www.sqlite.org/fileformat2.html#walformat
"""

import shutil
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capa.storage.atomic import fsync_file, write_atomically
from capa.storage.evidence import evidence_name
from capa.storage.inflight import wal_of

__all__ = ["first_page", "mend_wal"]

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_MASK = 0xFFFFFFFF

_Sum = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Frame:
    """A page in the log; ``ours``: written since the log was last begun anew."""

    data: bytes
    commit: bool
    good: bool
    ours: bool


class _Log:
    """A log as it lies on the disk.

    Raises:
        ValueError: its header is damaged, so that nothing can be told of the rest.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER_BYTES:
            raise ValueError("it is shorter than its header")
        magic, _, self.page_bytes, *_ = struct.unpack(">8I", data[:_HEADER_BYTES])
        self.swapped = (magic == _MAGIC_BIG) != (sys.byteorder == "big")
        self.header = data[:_HEADER_BYTES]
        self.seed: _Sum = struct.unpack(">2I", data[24:32])
        if magic not in (_MAGIC_LITTLE, _MAGIC_BIG) or self.sum(data[:24], (0, 0)) != self.seed:
            raise ValueError("its header is damaged")
        self._data = data

    def sum(self, data: bytes, seed: _Sum) -> _Sum:
        """Continue a check sum over these bytes, a multiple of eight."""
        words = array("I", data)
        if self.swapped:
            words.byteswap()
        first, second = seed
        for even, odd in zip(words[::2], words[1::2], strict=True):
            first = (first + even + second) & _MASK
            second = (second + odd + first) & _MASK
        return first, second

    def frame_sum(self, frame: bytes, seed: _Sum) -> _Sum:
        return self.sum(frame[_FRAME_HEADER_BYTES:], self.sum(frame[:8], seed))

    def frames(self) -> Iterator[_Frame]:
        """Yield the whole frames of this log; older ones, which it was written over, are not."""
        size, seed = _FRAME_HEADER_BYTES + self.page_bytes, self.seed
        for start in range(_HEADER_BYTES, len(self._data) - size + 1, size):
            frame = self._data[start : start + size]
            found: _Sum = struct.unpack(">2I", frame[16:24])
            ours = frame[8:16] == self.header[16:24]
            good = ours and self.frame_sum(frame, seed) == found
            yield _Frame(frame, frame[4:8] != b"\0\0\0\0", good, ours)
            seed = found

    def without(self, frames: list[_Frame]) -> bytes:
        """Return the log with only the good ones of these frames."""
        pieces, seed = [self.header], self.seed
        for frame in frames:
            if frame.good:
                seed = self.frame_sum(frame.data, seed)
                sums = struct.pack(">2I", *seed)
                pieces.append(frame.data[:16] + sums + frame.data[_FRAME_HEADER_BYTES:])
        return b"".join(pieces)


def mend_wal(database: Path) -> str | None:
    """Take bad frames out of a database's log, if good ones follow; return what was done.

    The log as it was goes into ``evidence/``. A log that merely ends in the middle of a frame, as
    that of a killed process may, is left alone.

    Raises:
        OSError: the log cannot be read, or its copies cannot be written.
    """
    path = wal_of(database)
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        log = _Log(path.read_bytes())
    except ValueError as error:
        shutil.copyfile(path, kept := evidence_name(path))
        fsync_file(kept)
        return f"{path.name} can't be read: {error}; it is kept in {kept.parent.name}/"
    frames = list(log.frames())
    last_commit = _last_commit(frames)
    bad = sum(not frame.good for frame in frames[:last_commit])
    torn = sum(frame.ours and not frame.good for frame in frames[last_commit + 1 :])
    if not bad and not torn:
        return None
    shutil.copyfile(path, kept := evidence_name(path))
    fsync_file(kept)
    words = f"it is kept as it was in {kept.parent.name}/"
    if not bad:
        return f"{path.name} had {torn} damaged frames at its end, which can't be read; {words}"
    write_atomically(path, log.without(frames[: last_commit + 1]))
    path.with_name(database.name + "-shm").unlink(missing_ok=True)
    told = f"{bad} damaged frames of {len(frames)}: what follows them was read"
    return f"{path.name} had {told}; {words}"


def first_page(database: Path) -> bytes | None:
    """Return the first page of a database as its log has it; None where that has none.

    With nothing but this page, SQLite finds the log to be a database's, and all others in it.

    Raises:
        OSError: the log cannot be read.
    """
    try:
        frames = list(_Log(wal_of(database).read_bytes()).frames())
    except ValueError:
        return None
    committed = frames[: _last_commit(frames) + 1]
    pages = [frame.data for frame in committed if frame.good and frame.data[:4] == b"\0\0\0\x01"]
    return pages[-1][_FRAME_HEADER_BYTES:] if pages else None


def _last_commit(frames: list[_Frame]) -> int:
    """Return the place of the last frame that ends a transaction; -1 where there is none."""
    return max((n for n, it in enumerate(frames) if it.good and it.commit), default=-1)
