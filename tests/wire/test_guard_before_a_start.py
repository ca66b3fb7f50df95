"""``capad-guard --unfinished``, as the unit runs it before each start: only what was left undone.

Judged by what came over the twin's wire, and by the verdicts that the daemon's start reads next.
"""

import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.guarded import GUARD, Guarded, run_guard
from tests.support.polling import eventually
from tests.support.safe_plans import RIG, WHEN, plan_of
from tests.support.twin_process import running_twin

VERDICTS = "guard_verdicts.json"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Guarded]:
    profile = tmp_path / "rig.toml"
    profile.write_text(RIG)
    (tmp_path / "run").mkdir()
    with running_twin(profile, tmp_path / "twin") as twin:
        yield Guarded(twin, tmp_path / "run")


def heard(rig: Guarded) -> int:
    return len(rig.twin.wire(event="rx"))


def left_alone(rig: Guarded) -> bool:
    """Run it, and whether it was silent, sent nothing and wrote nothing."""
    before, files = heard(rig), {f: f.stat().st_mtime_ns for f in rig.folder.iterdir()}
    done = rig.run("--unfinished")
    after = {f: f.stat().st_mtime_ns for f in rig.folder.iterdir()}
    return (done.returncode, done.stderr, heard(rig), after) == (0, "", before, files)


def made_safe(rig: Guarded) -> bool:
    """Run it, and whether it drove the outputs and says that it did so at the start."""
    done = rig.run("--unfinished")
    assert "none came to its end" in done.stderr
    record = rig.record()
    safe = record["verdicts"]["heater.setpoint"]["verdict"] == "proven"
    return done.returncode == 3 and safe and bool(record["resumed"])


def test_without_a_plan_it_touches_nothing(tmp_path: Path) -> None:
    done = run_guard(tmp_path, "--unfinished")
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])


def test_a_plan_that_cannot_be_read_is_left_to_the_daemon_which_writes_it_anew(
    rig: Guarded,
) -> None:
    (rig.folder / "safe_plan.json").write_text("{")
    assert left_alone(rig)


def test_after_one_that_came_to_its_end_it_is_silent_and_keeps_its_verdicts(rig: Guarded) -> None:
    rig.run()
    assert left_alone(rig)


def test_one_that_could_not_reach_everything_came_to_its_end_all_the_same(rig: Guarded) -> None:
    rig.plan(deadline_s=0.5)
    rig.fault("mute", device="heater")
    assert rig.run().returncode == 4
    assert left_alone(rig)


def test_one_that_was_killed_in_the_middle_is_made_up_for(rig: Guarded) -> None:
    rig.run()  # after the run before
    rig.plan(written_utc=WHEN + timedelta(hours=1))
    rig.fault("mute", device="heater")
    before = heard(rig)
    first = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), "--runtime-dir", str(rig.folder)],
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: heard(rig) > before + 3, "it is at work")
    first.send_signal(signal.SIGKILL)
    first.wait()
    rig.fault("mute", device="heater", active=False)
    assert made_safe(rig)
    assert left_alone(rig)


def test_once_the_daemon_has_taken_the_rig_again_an_older_end_counts_for_nothing(
    rig: Guarded,
) -> None:
    rig.run()
    rig.plan(written_utc=WHEN - timedelta(hours=1))  # the box's clock was put back
    assert made_safe(rig)


def test_one_beside_a_living_daemon_counts_for_nothing(rig: Guarded) -> None:
    with (rig.folder / "capad.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        rig.run("--force")
        assert rig.run("--unfinished").returncode == 75
    assert made_safe(rig)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"plan_written_utc": 1}', "\udcff"])
def test_verdicts_that_cannot_be_read_count_for_nothing(rig: Guarded, text: str) -> None:
    (rig.folder / VERDICTS).write_bytes(text.encode(errors="surrogateescape"))
    assert made_safe(rig)


def test_simulated_instruments_ended_with_the_daemon(rig: Guarded) -> None:
    (rig.folder / "safe_plan.json").write_bytes(plan_of(simulated=True).text())
    assert left_alone(rig)


def test_it_is_either_forced_or_for_what_is_unfinished(tmp_path: Path) -> None:
    assert run_guard(tmp_path, "--force", "--unfinished").returncode == 64
