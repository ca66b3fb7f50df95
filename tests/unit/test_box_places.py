"""Where the tool ``capa`` looks on a box: one answer for each question, and the daemon's own."""

import errno
import os
from pathlib import Path

import pytest
import structlog

from capa.cli.run import _runs_root
from capa.config.box import runtime_of_box, sign_key_of_box, state_of_box
from capa.errors import CapaError
from capa.runtime.rig_lock import RigBusyError, RigLock
from capa.storage.find import runs_folder
from capad.guarding import Guarding
from capad.settings import Settings, load_settings


@pytest.mark.parametrize("told", [{"CAPA_RUNS": "/a"}, {"CAPA_RUNS": "/b", "CAPA_RUNS_ROOT": "/a"}])
def test_runs_are_looked_for_where_capa_run_puts_them(
    told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CAPA_RUNS", "CAPA_RUNS_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in told.items():
        monkeypatch.setenv(name, folder)
    assert _runs_root(None) == runs_folder(None) == Path("/a")
    assert _runs_root(Path("/x")) == runs_folder(Path("/x")) == Path("/x")


@pytest.mark.parametrize(
    "text",
    [
        "[runs]\n",
        '[spool]\nroot = "state/spool"\n[runs]\nsign_key = "keys/box"\n',
        '[spool]\nroot = "../state/x/../spool/.."\n',
        '[spool]\nroot = "/srv/capad/spool"\n[runtime]\ndir = "run"\n',
    ],
)
def test_the_tool_finds_the_state_and_the_key_where_the_daemon_has_them(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "etc" / "capad.toml"
    file.parent.mkdir()
    file.write_text(text)
    settings: Settings = load_settings(file, {})
    assert state_of_box(file) == settings.spool.root.parent
    assert sign_key_of_box(file) == settings.runs.sign_key
    assert runtime_of_box(file) == settings.runtime.dir


def test_without_settings_there_is_no_box(tmp_path: Path) -> None:
    assert state_of_box(tmp_path / "capad.toml") is None
    assert sign_key_of_box(tmp_path / "capad.toml") is None


@pytest.mark.parametrize("text", ["[spool", "spool = 3", "[spool]\nroot = 3"])
def test_settings_that_do_not_say_where_are_said_to_be_unreadable(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "capad.toml"
    file.write_text(text)
    with pytest.raises(CapaError, match="can't be read"):
        state_of_box(file)


def test_on_a_box_whose_daemon_was_never_started_the_rig_is_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capa.runtime.rig_lock.PATIENCE_S", 0.0)
    nowhere, tool, daemon = (RigLock(tmp_path / "run") for _ in range(3))
    nowhere.acquire_if_there()
    assert not (tmp_path / "run").exists()
    tool.acquire_if_there(make=True)
    with pytest.raises(RigBusyError):
        daemon.acquire()
    tool.release()
    daemon.acquire()
    daemon.release()


def test_a_lock_that_root_makes_is_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[tuple[int, int]]()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _descriptor, *whose: given.append(whose))
    lock = RigLock(tmp_path)
    lock.acquire()
    lock.release()
    assert given == [(tmp_path.stat().st_uid, tmp_path.stat().st_gid)]


def test_a_link_in_the_locks_place_refuses_the_run_and_leaves_the_target_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = tmp_path / "shadow"
    shadow.write_text("secret")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "capad.lock").symlink_to(shadow)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda *_: pytest.fail("it was given away"))
    with pytest.raises(RigBusyError, match=r"run/capad\.lock: a link is in the way"):
        RigLock(tmp_path / "run").acquire_if_there(make=True)
    assert shadow.read_text() == "secret"


def test_on_a_box_whose_folder_cannot_be_made_the_rig_is_not_driven_without_a_lock(
    tmp_path: Path,
) -> None:
    (tmp_path / "srv").write_text("in the way")
    with pytest.raises(RigBusyError, match="run this as root or as the daemon's user"):
        RigLock(tmp_path / "srv" / "run").acquire_if_there(make=True)


def refuse(monkeypatch: pytest.MonkeyPatch, file: Path, number: int) -> None:
    """Have nobody open this file."""
    opened = os.open

    def refusing(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path) == file:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_lock_that_the_daemon_may_not_open_can_be_anybodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file, made = tmp_path / "capad.lock", tmp_path / "made by root"
    made.touch()
    guarding = Guarding(tmp_path, log=structlog.get_logger())
    refuse(monkeypatch, file, number)
    assert guarding.take() == ""  # there is none that anybody could hold
    made.rename(file)
    assert guarding.take().startswith("whether another program drives it can't be seen by this")
    assert str(file) in guarding.take()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_in_trouble_is_nobody_who_drives_the_rig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "capad.lock").touch()
    refuse(monkeypatch, tmp_path / "capad.lock", number)
    assert Guarding(tmp_path, log=structlog.get_logger()).take() == ""
