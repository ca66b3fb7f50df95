"""Trips and ``capa safety`` on the real processes: latched, kept over restarts, cleared by name."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.daemon_process import (
    REPOSITORY,
    Daemon,
    Twin,
    method_toml,
    running_daemon,
)
from tests.support.polling import eventually


def capa(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "capa.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=30,
        check=False,
    )


def break_sensor(twin: Twin, *flags: str) -> None:
    told = capa("twin-fault", str(twin.folder), "sensor_break", "--device", "furnace", *flags)
    assert told.returncode == 0, told.stderr


def clear(daemon: Daemon, reason: str) -> "subprocess.CompletedProcess[str]":
    box = str(daemon.folder / "run")
    return capa("safety", "clear", "--by", "maria", "--reason", reason, "--runtime-dir", box)


def release(daemon: Daemon) -> "subprocess.CompletedProcess[str]":
    box = str(daemon.folder / "run")
    words = ("--by", "maria", "--reason", "the sample is out", "--runtime-dir", box)
    return capa("safety", "release", *words)


def test_a_trip_is_latched_kept_over_a_restart_and_cleared_by_name(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.drop("long.method.toml", method_toml(hold_s=600))
        daemon.wait_setpoint(twin, above=50)
        break_sensor(twin)
        job = daemon.wait_job("failed")
        assert twin.setpoint() == 20.0
        text = (job / "report.txt").read_text()
        assert "TRIPPED: heater.pv: furnace says sensor_fail" in text
        assert "capa safety clear" in text
        run = json.loads((job / "report.json").read_text())["run"]
        assert run["run_status"] == "aborted"
        assert "sensor_fail" in run["trip"]
        assert "capa safety clear" in daemon.wait_status("TRIPPED")
        refused = clear(daemon, "no idea")
        assert refused.returncode == 1
        assert "still holds: heater.pv: furnace says sensor_fail" in refused.stdout
    assert json.loads((tmp_path / "trips.json").read_text())["trips"]
    break_sensor(twin, "--off")
    with running_daemon(tmp_path, twin.profile) as daemon:  # READY, and tripped
        daemon.wait_status("TRIPPED")
        told = release(daemon)
        assert (told.returncode, told.stderr) == (0, "")
        assert "released by maria; it was held: long.method.toml aborted" in told.stdout
        assert not (daemon.spool / "hold").exists()
        assert release(daemon).stdout == "the queue was not held\n"
        daemon.drop("small.method.toml", method_toml())
        daemon.wait_status("queue 1")
        shown = capa("safety", "show", "--runtime-dir", str(tmp_path / "run"))
        assert shown.returncode == 1
        assert "TRIPPED" in shown.stdout
        assert daemon.jobs("active") == []
        told = clear(daemon, "thermocouple replaced")
        assert (told.returncode, told.stderr) == (0, "")
        assert "cleared by maria" in told.stdout
        daemon.wait_job("done")
        shown = capa("safety", "show", "--runtime-dir", str(tmp_path / "run"))
        assert (shown.returncode, shown.stdout) == (0, "no trip is latched\n")
        eventually(
            lambda: not json.loads((tmp_path / "trips.json").read_text())["trips"],
            "the file says so, too",
        )
    journal = [json.loads(line) for line in (tmp_path / "trips.jsonl").read_text().splitlines()]
    assert [line["event"] for line in journal] == ["latched", "cleared"]
    assert journal[1]["reason"] == "thermocouple replaced"


def test_without_a_daemon_capa_safety_says_so(tmp_path: Path) -> None:
    told = capa("safety", "show", "--runtime-dir", str(tmp_path))
    assert told.returncode == 2
    assert "is capad running" in told.stderr
