"""Whatever is dropped, however: the right outcome, words to act on, and life goes on."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import Daemon, Twin, method_toml, running_daemon
from tests.support.polling import eventually

GOOD = method_toml(hold_s=0.1)
STEP = '[[steps]]\nkind = "setpoint"\ntarget = { name = "heater.setpoint" }\n'

BAD_TEXTS = {
    "not_toml": ("this is { not toml", ["toml:1:", "not TOML"]),
    "empty": ("", ["empty"]),
    "unknown_kind": ('name = "x"\n[[steps]]\nkind = "rump"\n', ["step 1", "`ramp`"]),
    "typo": (f'name = "x"\n{STEP}valeu = 5.0\n', ["step 1 (setpoint)", "valeu", "`value`"]),
    "wrong_type": (f'name = "x"\n{STEP}value = "hot"\n', ["step 1 (setpoint)", "value"]),
    "nan": (f'name = "x"\n{STEP}value = nan\n', ["step 1 (setpoint)", "value", "finite"]),
    "infinity": (f'name = "x"\n{STEP}value = inf\n', ["step 1 (setpoint)", "value", "finite"]),
    "no_such_target": (
        f'name = "x"\n{STEP}value = 5.0\n'.replace("heater.setpoint", "heater.setpiont"),
        ["heater.setpiont", "`heater.setpoint`"],
    ),
    "past_a_limit": (f'name = "x"\n{STEP}value = 99999.0\n', ["99999", "heater.setpoint"]),
    "two_problems": (
        f'name = "x"\n{STEP}valeu = 5.0\n[[steps]]\nkind = "rump"\n',
        ["valeu", "rump"],
    ),
}


@pytest.fixture(scope="module")
def daemon(twin: Twin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), twin.profile) as running:
        yield running


def rejected(daemon: Daemon, stem: str) -> Path:
    def look() -> Path | None:
        jobs = [job for job in daemon.jobs("rejected") if job.name.endswith(f"-{stem}")]
        return jobs[-1] if jobs else None

    return eventually(look, f"{stem} is rejected", say=daemon.log)


def the_next_file_runs(daemon: Daemon) -> None:
    before = len(daemon.jobs("done"))
    daemon.drop("good.method.toml", GOOD)
    daemon.wait_job("done", before + 1)


@pytest.mark.parametrize("stem", BAD_TEXTS)
def test_a_bad_method_is_rejected_with_every_problem_and_its_place(
    daemon: Daemon, stem: str
) -> None:
    text, words = BAD_TEXTS[stem]
    daemon.drop(f"{stem}.method.toml", text)
    said = (rejected(daemon, stem) / "report.txt").read_text()
    assert f"{stem}.method.toml" in said
    for word in words:
        assert word in said, said
    assert json.loads((rejected(daemon, stem) / "report.json").read_text())["problems"]


def test_after_all_that_the_next_file_runs(daemon: Daemon) -> None:
    the_next_file_runs(daemon)
    assert daemon.jobs("failed") == []


def test_a_10_mb_file_is_rejected_without_being_read(daemon: Daemon) -> None:
    aside = daemon.spool / ".big"
    with aside.open("wb") as file:
        file.truncate(10_000_000)
    aside.rename(daemon.spool / "incoming" / "big.method.toml")
    assert "10000000 bytes" in (rejected(daemon, "big") / "report.txt").read_text()


def test_a_symlink_is_rejected_and_not_followed(daemon: Daemon, tmp_path: Path) -> None:
    target = tmp_path / "target.method.toml"
    target.write_text(GOOD)
    (daemon.spool / "incoming" / "link.method.toml").symlink_to(target)
    assert "symbolic link" in (rejected(daemon, "link") / "report.txt").read_text()


def test_a_directory_is_rejected(daemon: Daemon) -> None:
    (daemon.spool / "incoming" / "folder.method.toml").mkdir()
    assert "directory" in (rejected(daemon, "folder") / "report.txt").read_text()


def test_a_name_that_says_nothing_is_rejected_with_the_names_there_are(daemon: Daemon) -> None:
    daemon.drop("readme.md", "hello")
    assert "NAME.method.toml" in (rejected(daemon, "readme_md") / "report.txt").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "Probe Ä Öl 50 kW.method.toml".encode(),
        b"\xff\xfe caf\xe9.method.toml",
        b"new\nline.method.toml",
        b"-rf.method.toml",
    ],
)
def test_a_method_runs_whatever_its_name_is(daemon: Daemon, name: bytes) -> None:
    before = len(daemon.jobs("done"))
    daemon.drop(name, GOOD)
    job = daemon.wait_job("done", before + 1)
    assert os.fsdecode(name) in {path.name for path in job.iterdir()}


def test_a_half_copied_file_waits_until_it_is_complete(daemon: Daemon) -> None:
    before = len(daemon.jobs("done"))
    half = len(GOOD) // 2
    began_s = time.monotonic()
    with (daemon.spool / "incoming" / "slow.method.toml").open("w") as file:
        while time.monotonic() - began_s < 2.0:  # a copy that trickles for two seconds
            file.write("#\n")
            file.flush()
            time.sleep(0.1)
        file.write(GOOD[:half])
        file.flush()
        time.sleep(0.1)
        assert not [j for j in daemon.jobs("rejected") if j.name.endswith("-slow")]
        file.write(GOOD[half:])
    daemon.wait_job("done", before + 1)


def test_the_same_file_twice_is_two_jobs(daemon: Daemon) -> None:
    before = len(daemon.jobs("done"))
    daemon.drop("twice.method.toml", GOOD)
    daemon.wait_job("done", before + 1)
    daemon.drop("twice.method.toml", GOOD)
    daemon.wait_job("done", before + 2)


def test_a_file_removed_before_it_is_claimed_is_no_job(daemon: Daemon) -> None:
    path = daemon.spool / "incoming" / "gone.method.toml"
    path.write_text(GOOD)
    path.unlink()
    the_next_file_runs(daemon)
    folders = [j.name for s in ("queued", "rejected", "failed") for j in daemon.jobs(s)]
    assert not [name for name in folders if name.endswith("-gone")]


def test_a_temporary_name_is_left_alone_until_it_is_renamed(daemon: Daemon) -> None:
    part = daemon.spool / "incoming" / "up.method.toml.part"
    part.write_text(GOOD)
    the_next_file_runs(daemon)
    assert part.exists()
    before = len(daemon.jobs("done"))
    part.rename(part.with_suffix(""))
    daemon.wait_job("done", before + 1)
