"""A file in the spool becomes a run and a sealed bundle, by the real process on real bytes."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.daemon_process import (
    DEMO_PROFILE,
    REPOSITORY,
    Twin,
    method_toml,
    running_daemon,
    wire_outputs,
)


def test_a_dropped_method_runs_and_leaves_a_sealed_bundle(twin: Twin, tmp_path: Path) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        assert "IDLE" in daemon.status
        assert "last safe: proven" in daemon.status
        daemon.drop("small.method.toml", method_toml())
        job = daemon.wait_job("done")
        report = json.loads((job / "report.json").read_text())
        assert report["run"]["run_status"] == "completed"
        assert report["run"]["bundle_status"] == "sealed"
        assert report["run"]["verdicts"]["heater.setpoint"]["verdict"] == "proven"
        assert "completed" in (job / "report.txt").read_text()
        bundle = Path(report["run"]["bundle"])
        check = subprocess.run(
            ["sha256sum", "-c", "--quiet", "manifest.sha256"], cwd=bundle, check=False
        )
        assert check.returncode == 0
        assert (bundle / "method.toml").read_text() == method_toml()
        assert json.loads((job / "job.json").read_text())["run_id"] == bundle.name
        assert twin.setpoint() == 20.0
        daemon.wait_status("IDLE")


def test_jobs_run_one_after_the_other_in_the_order_of_their_names(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        for name in ("b", "c", "a"):
            (daemon.spool / "incoming" / f"{name}.method.toml").write_text(method_toml(hold_s=0.1))
        daemon.wait_job("done", 3)
        assert [job.name.rsplit("-", 1)[1] for job in daemon.jobs("done")] == ["a", "b", "c"]


def test_a_file_that_was_there_before_the_daemon_is_run(twin: Twin, tmp_path: Path) -> None:
    incoming = tmp_path / "spool" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "early.method.toml").write_text(method_toml(hold_s=0.1))
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.wait_job("done")


def test_once_with_the_twin_runs_what_is_there_and_exits_clean(tmp_path: Path) -> None:
    incoming = tmp_path / "spool" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "one.method.toml").write_text(method_toml())
    done = _once(tmp_path, "--twin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one.method.toml: DONE" in done.stdout
    assert "safe state: heater.setpoint = 20: proven" in done.stdout
    assert "bundle: " in done.stdout
    assert "abort it with Ctrl-C" in done.stdout
    before_the_run = done.stdout.partition("one.method.toml")[0]
    assert "cooling is over: purge.flow = 0: proven" in before_the_run
    assert wire_outputs(tmp_path / "run" / "twin")[-1]["value"] == 20.0
    assert _saves(tmp_path / "run" / "twin", "furnace") <= 1  # of some fifteen setpoints


def _saves(folder: Path, device: str) -> int:
    """How often a simulated device has written its non-volatile memory, as it counts itself."""
    lines = (folder / "wire.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines if '"memory"' in line]
    return max((one["value"] for one in told if one["device"] == device), default=0)


def test_once_with_a_bad_file_says_what_is_wrong_and_exits_with_2(
    twin: Twin, tmp_path: Path
) -> None:
    incoming = tmp_path / "spool" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "bad.method.toml").write_text("name = 'x'\n[[steps]]\nkind = 'rump'\n")
    done = _once(tmp_path, "--hardware", str(twin.profile))
    assert done.returncode == 2
    assert "REJECTED" in done.stdout
    assert "ramp" in done.stdout


def test_once_with_nothing_to_do_exits_clean(twin: Twin, tmp_path: Path) -> None:
    assert _once(tmp_path, "--hardware", str(twin.profile)).returncode == 0


def test_a_second_daemon_on_the_same_spool_is_refused_by_the_firsts_pid(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        done = _once(tmp_path, "--hardware", str(twin.profile))
        assert done.returncode == 78
        assert f"pid {daemon.process.pid}" in done.stderr


def test_a_wrong_flag_is_a_usage_error(tmp_path: Path) -> None:
    done = _once(tmp_path, "--hardwear", "x")
    assert done.returncode == 64
    assert "--hardwear" in done.stderr


def test_a_missing_profile_is_a_configuration_error_that_names_it(tmp_path: Path) -> None:
    done = _once(tmp_path, "--hardware", str(tmp_path / "none.toml"))
    assert done.returncode == 78
    assert "none.toml" in done.stderr


def test_a_twin_whose_run_is_over_ends_without_a_warning(tmp_path: Path) -> None:
    """Its furnace is hot, and its purge due; both end with it."""
    (tmp_path / "spool" / "incoming").mkdir(parents=True)
    (tmp_path / "spool" / "incoming" / "a.method.toml").write_text(method_toml())
    done = _once(tmp_path, "--twin")
    assert done.returncode == 0
    assert "DONE" in done.stdout
    assert done.stderr == ""
    assert "still due" not in done.stdout


def test_check_prints_the_settings_in_force(tmp_path: Path) -> None:
    done = _once(tmp_path, "--check", "--hardware", str(DEMO_PROFILE))
    assert done.returncode == 0
    assert f"rig.profile = '{DEMO_PROFILE}'" in done.stdout
    assert "capa devices check" in done.stdout


def _once(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "capad.main", "--once", *flags),
            *("--spool", str(folder / "spool"), "--runs", str(folder / "runs")),
            *("--runtime-dir", str(folder / "run")),
            *(() if "--hardware" in flags else ("--hardware", str(DEMO_PROFILE))),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
    )
