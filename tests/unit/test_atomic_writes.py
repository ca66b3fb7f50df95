"""Files that matter after a power cut: on the disk before they take another's place."""

import errno
import os
import stat
from pathlib import Path

import pytest

from capa.storage.atomic import is_leftover, write_atomically


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the file system, in order."""
    told: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        told.append("fsync folder" if is_folder else "fsync file")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        told.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    return told


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, calls: list[str]
) -> None:
    write_atomically(tmp_path / "safe_plan.json", b"new")
    assert calls == ["fsync file", "rename", "fsync folder"]
    assert (tmp_path / "safe_plan.json").read_bytes() == b"new"


def test_a_disk_that_does_not_take_it_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trips.json"
    path.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each for each in tmp_path.iterdir() if is_leftover(each.name)] == []
