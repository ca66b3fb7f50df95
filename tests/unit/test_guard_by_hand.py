"""``capad-guard`` in the hands of a person, who may be root."""

import fcntl
import sys
from pathlib import Path

import pytest

from capad.guard import main


@pytest.fixture(autouse=True)
def _at_the_usual_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "setswitchinterval", lambda _s: None)


def test_whoever_holds_the_rig_is_not_taken_for_the_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "capad.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["--runtime-dir", str(tmp_path)]) == 75
    said = capsys.readouterr().err
    assert "another program (pid 4711: capad, or capa run) drives this rig" in said


@pytest.mark.parametrize("name", ["guard.jsonl", "trap"])
def test_a_link_in_the_place_of_what_it_writes_is_not_followed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    shadow = tmp_path / "shadow"
    shadow.write_text("secret")
    if name == "trap":
        monkeypatch.setattr("os.getpid", lambda: 4711)
        name = ".guard_verdicts.json.4711.capa-tmp"
    (tmp_path / name).symlink_to(shadow)
    assert main(["--runtime-dir", str(tmp_path)]) == 4  # there is no plan
    assert shadow.read_text() == "secret"
    assert "the verdicts can't be kept" in capsys.readouterr().err
