"""The real daemon and its guardian: the plan, the lock, and what happens without a plan."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from capa.runtime.rig_lock import RigLock
from capa.runtime.trips import Trips, TripStore
from capad.guard import plan_in
from tests.support.daemon_process import (
    DEMO_PROFILE,
    REPOSITORY,
    Daemon,
    Twin,
    method_toml,
    running_daemon,
    running_twin,
)
from tests.support.engine import quiet_log
from tests.support.polling import eventually

SERIAL = """\
transport = "serial"
port = "/dev/serial/by-id/usb-FTDI_USB-RS485_Cable_FTFURN01-if00-port0"
baud = 38400"""
GATEWAY = 'transport = "tcp"\nport = "192.168.7.20:502"\n#'
FRAMING = 'options.framing = "tcp"\n'


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with running_twin(tmp_path / "twin") as served:
        yield served


def guard(folder: Path) -> "subprocess.CompletedProcess[str]":
    script = REPOSITORY / "capad" / "guard.py"
    return subprocess.run(
        [sys.executable, "-I", "-S", str(script), "--runtime-dir", str(folder / "run")],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_killed_daemons_rig_is_made_safe_by_the_guardian_and_the_run_says_so(
    tmp_path: Path, twin: Twin
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.drop("long.method.toml", method_toml(hold_s=600))
        daemon.wait_setpoint(twin, above=99)
        refused = guard(tmp_path)
        assert refused.returncode == 75
        assert f"pid {daemon.process.pid}" in refused.stderr
        daemon.send(signal.SIGKILL)
        daemon.wait_end()
    assert twin.setpoint() > 99
    done = guard(tmp_path)
    assert done.returncode == 0, done.stderr
    assert twin.setpoint() == pytest.approx(20.0, abs=0.01)
    with running_daemon(tmp_path, twin.profile) as daemon:
        job = daemon.wait_job("failed")
        report = (job / "report.txt").read_text()
        assert "heater.setpoint = 20 proven" in report
        assert "no word" not in report
        bundle = next(daemon.runs.glob("2*"))
    assert json.loads((bundle / "manifest.json").read_text())["guard"]["exit_code"] == 0


def test_a_furnace_behind_a_gateway_of_modbus_tcp_is_made_safe_too(tmp_path: Path) -> None:
    profile = tmp_path / "gateway.toml"
    text = DEMO_PROFILE.read_text().replace(SERIAL, GATEWAY)
    profile.write_text(text.replace('adapter = "watlow"\n', 'adapter = "watlow"\n' + FRAMING))
    with running_twin(tmp_path / "twin", profile) as twin:
        with running_daemon(tmp_path, twin.profile) as daemon:
            daemon.drop("long.method.toml", method_toml(hold_s=600))
            daemon.wait_setpoint(twin, above=99)
            daemon.send(signal.SIGKILL)
            daemon.wait_end()
        assert twin.setpoint() > 99
        done = guard(tmp_path)
        assert "heater.setpoint = 20: proven" in done.stderr
        assert twin.setpoint() == pytest.approx(20.0, abs=0.01)


def test_verdicts_from_before_a_run_are_not_that_runs(tmp_path: Path, twin: Twin) -> None:
    with running_daemon(tmp_path, twin.profile):
        pass
    assert guard(tmp_path).returncode == 0
    time.sleep(0.01)
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.drop("long.method.toml", method_toml(hold_s=600))
        daemon.wait_setpoint(twin, above=99)
        daemon.send(signal.SIGKILL)
        daemon.wait_end()
    with running_daemon(tmp_path, twin.profile) as daemon:
        report = (daemon.wait_job("failed") / "report.txt").read_text()
        assert "capad-guard left no word after it" in report
        assert "proven" not in report.replace("nobody proved", "")
        bundle = next(daemon.runs.glob("2*"))
        assert json.loads((bundle / "manifest.json").read_text())["guard"] is None


def test_the_plan_is_written_anew_when_the_profile_is_read_again(
    tmp_path: Path, twin: Twin
) -> None:
    plan = tmp_path / "run" / "safe_plan.json"
    with running_daemon(tmp_path, twin.profile) as daemon:
        assert [link["name"] for link in plan_in(plan.read_bytes())["links"]] == ["furnace_bus"]
        text = twin.profile.read_text()
        twin.profile.write_text(
            text.replace('"heater.setpoint" = 20.0', '"heater.setpoint" = 21.0')
        )
        daemon.send(signal.SIGHUP)

        def value() -> bool:
            written = plan_in(plan.read_bytes())["links"][0]["writes"][0]
            return bool(written["value"] == 21.0)

        eventually(value, "the new plan", say=daemon.log)


def test_a_rig_that_capa_run_drives_is_left_alone_until_it_is_free(
    tmp_path: Path, twin: Twin
) -> None:
    wire, lock = twin.folder / "wire.jsonl", RigLock(tmp_path / "run")
    lock.acquire()
    heard = wire.stat().st_size
    half_written = tmp_path / ".trips.json.0badcafe.capa-tmp"  # by capa run, just now
    half_written.touch()

    def waits(daemon: Daemon) -> None:
        daemon.wait_status("waiting for the rig: another program drives this rig")
        assert wire.stat().st_size == heard
        assert half_written.exists()
        trips = Trips(log=quiet_log())
        trips.latch("heater.pv", "too hot")
        trips.save(TripStore(tmp_path))
        lock.release()

    with running_daemon(tmp_path, twin.profile, early=waits) as daemon:
        daemon.wait_status("too hot")
        assert wire.stat().st_size > heard
        assert not half_written.exists()


def test_a_rig_that_was_let_go_just_before_the_end_is_made_safe(tmp_path: Path, twin: Twin) -> None:
    wire, lock = twin.folder / "wire.jsonl", RigLock(tmp_path / "run")
    lock.acquire()
    heard = wire.stat().st_size

    def let_go(daemon: Daemon) -> None:
        daemon.wait_status("waiting for the rig: another program drives this rig")
        assert wire.stat().st_size == heard
        lock.release()  # killed, and its heater on
        daemon.send(signal.SIGTERM)
        assert daemon.wait_end() == 0

    with (
        pytest.raises(AssertionError, match="capad ended before it was ready"),
        running_daemon(tmp_path, twin.profile, early=let_go),
    ):
        pass
    assert twin.setpoint() == pytest.approx(20.0, abs=0.01)
    assert (tmp_path / "run" / "safe_plan.json").exists()


def test_without_a_plan_for_the_guardian_nothing_is_armed(tmp_path: Path, twin: Twin) -> None:
    (tmp_path / "run" / "safe_plan.json").mkdir(parents=True)  # no file can take its place
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.wait_status("no safe plan for capad-guard")
        daemon.drop("small.method.toml", method_toml())
        eventually(lambda: daemon.jobs("queued"), "it is queued", say=daemon.log)
        time.sleep(1.0)
        assert twin.setpoint() == pytest.approx(20.0, abs=0.01)
        assert not daemon.jobs("active")
