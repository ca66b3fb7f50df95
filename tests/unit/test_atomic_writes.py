"""Files that matter after a power cut: on the disk before they take another's place."""

import errno
import os
import stat
from pathlib import Path

import pytest

from capa.storage.atomic import (
    hand_over,
    is_leftover,
    make_folder,
    open_for_folder,
    write_atomically,
)


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


# --- what root writes where another user may have prepared it -------------------------------------


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What root gives away, by name."""
    names = list[str]()

    def fchown(descriptor: int, _uid: int, _gid: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", fchown)
    return names


@pytest.fixture
def shadow(tmp_path: Path) -> Path:
    """A file that is not to be given away."""
    file = tmp_path / "shadow"
    file.write_text("secret")
    return file


@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_waits_for_root_is_not_followed_and_named(
    tmp_path: Path, given: list[str], shadow: Path, there: bool
) -> None:
    if not there:
        shadow.unlink()
    (tmp_path / "journal").symlink_to(shadow)
    with pytest.raises(OSError, match="a link is in the way") as caught:
        open_for_folder(tmp_path / "journal", os.O_WRONLY | os.O_APPEND)
    assert caught.value.filename == str(tmp_path / "journal")
    assert given == []
    assert shadow.exists() is there


def test_a_second_name_of_another_users_file_is_neither_written_to_nor_given_away(
    tmp_path: Path, given: list[str], shadow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looked = tmp_path / "run", os.fstat
    folder.mkdir()
    (folder / "journal").hardlink_to(shadow)
    with shadow.open("ab") as file:
        hand_over(file.fileno(), folder)
    os.close(open_for_folder(folder / "journal", os.O_WRONLY))  # the folder's owner's own
    assert given == []

    def of_another(descriptor: int) -> os.stat_result:
        fields = list(looked(descriptor))
        fields[stat.ST_UID] += 1
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", of_another)
    with pytest.raises(OSError, match="another user's file is in the way"):
        open_for_folder(folder / "journal", os.O_WRONLY)


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY])
def test_a_pipe_in_the_way_is_not_waited_for(tmp_path: Path, given: list[str], flags: int) -> None:
    os.mkfifo(tmp_path / "journal")
    with pytest.raises(OSError, match=r"in the way|No such device"):
        open_for_folder(tmp_path / "journal", flags)
    assert given == []


def test_folders_and_files_that_root_makes_are_handed_over(
    tmp_path: Path, given: list[str]
) -> None:
    make_folder(tmp_path / "state" / "of" / "box")
    make_folder(tmp_path / "state" / "of")
    os.close(open_for_folder(tmp_path / "state" / "journal", os.O_WRONLY))
    assert given == ["state", "of", "box", "journal"]


def test_a_file_in_a_folders_place_is_said(tmp_path: Path, shadow: Path) -> None:
    with pytest.raises(FileExistsError, match="shadow"):
        make_folder(shadow)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something away")
def test_what_root_makes_has_the_owner_of_the_nearest_folder_that_was_there(tmp_path: Path) -> None:
    os.chown(tmp_path, 1971, 1972)
    make_folder(tmp_path / "var" / "run")
    os.close(open_for_folder(tmp_path / "var" / "run" / "lock", os.O_RDWR))
    for made in (tmp_path / "var", tmp_path / "var" / "run", tmp_path / "var" / "run" / "lock"):
        assert (made.stat().st_uid, made.stat().st_gid) == (1971, 1972)
