"""The later stages of the safe state on the real daemon: over a kill, a mute device, an end."""

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from tests.support.daemon_process import (
    REPOSITORY,
    Daemon,
    Twin,
    method_toml,
    running_daemon,
)
from tests.support.polling import eventually

WAIT_S = 5.0
PURGE = """
[[steps]]
kind = "setpoint"
value = 60.0
target = { name = "purge.flow" }
"""


def slow_to_cool(twin: Twin, tmp_path: Path, wait_s: float = WAIT_S) -> Path:
    """A profile whose purge stays until the time-out, since no furnace gets that cold."""
    data = tomllib.loads(twin.profile.read_text())
    data["safe_state"][1]["when"]["value"] = -90.0
    data["safe_state"][1]["timeout_s"] = wait_s
    profile = tmp_path / "profile.toml"
    profile.write_text(tomli_w.dumps(data))
    return profile


def purge_off(twin: Twin, after_ns: int = 0) -> list[dict[str, Any]]:
    changes = (one for one in twin.outputs() if one["device"] == "purge")
    return [one for one in changes if one["value"] == 0 and one["t_ns"] > after_ns]


def heat_off_ns(twin: Twin) -> int:
    return max(
        int(o["t_ns"]) for o in twin.outputs() if o["device"] == "furnace" and o["value"] < 21
    )


def end_of_run(daemon: Daemon, twin: Twin) -> Path:
    """Run a method that leaves the purge on; return the job once its wait has begun."""
    daemon.drop("first.method.toml", method_toml(hold_s=0.1, extra=PURGE))
    job = daemon.wait_job("done")
    daemon.wait_status("cooling: purge.flow to 0 when heater.pv < -90 degC")
    assert twin.setpoint("purge") == 60.0
    return job


def test_a_kill_while_the_rig_cools_costs_neither_the_stage_nor_the_time_it_has_waited(
    twin: Twin, tmp_path: Path
) -> None:
    profile = slow_to_cool(twin, tmp_path)
    with running_daemon(tmp_path, profile) as daemon:
        job = end_of_run(daemon, twin)
        text = (job / "report.txt").read_text()
        assert "Still to come" in text
        assert "purge.flow to 0 when heater.pv < -90 degC, after 5 s at the latest" in text
        safe_ns = heat_off_ns(twin)
        daemon.drop("second.method.toml", method_toml(hold_s=0.1))
        eventually(lambda: daemon.jobs("queued"), "the second is queued", say=daemon.log)
        daemon.send(signal.SIGKILL)
        daemon.wait_end()
    assert not purge_off(twin, safe_ns)
    kept = json.loads((tmp_path / "safe_stages.json").read_text())
    assert kept["after"] == json.loads((job / "report.json").read_text())["run"]["run_id"]
    with running_daemon(tmp_path, profile) as daemon:
        daemon.wait_job("done", 2)  # which waited for the last stage of the first
        off = purge_off(twin, safe_ns)[0]
        assert off["t_ns"] - safe_ns >= (WAIT_S - 0.2) * 1e9
        second = [o for o in twin.outputs() if o["device"] == "furnace" and o["value"] > 99][-1]
        assert second["t_ns"] > off["t_ns"]
        daemon.send(signal.SIGTERM)
        assert daemon.wait_end() == 0
    log = (tmp_path / "capad.log").read_text(errors="replace")
    assert "the next start goes on with it, capad-guard does not" in log


def test_a_later_stage_that_can_not_be_reached_trips_and_is_driven_until_it_is(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, slow_to_cool(twin, tmp_path, 3.0)) as daemon:
        daemon.drop("first.method.toml", method_toml(hold_s=0.1, extra=PURGE))
        daemon.wait_job("done")
        silence(twin)
        daemon.wait_status("TRIPPED purge.flow could not be brought to 0", within_s=30)
        silence(twin, "--off")
        eventually(lambda: twin.setpoint("purge") == 0.0, "the purge is off", say=daemon.log)
        eventually(lambda: "cooling" not in daemon.status, "all is through", say=daemon.log)
        assert "TRIPPED" in daemon.status  # until somebody with a name has looked


def silence(twin: Twin, *flags: str) -> None:
    command = ("twin-fault", str(twin.folder), "silence", "--device", "purge", *flags)
    told = subprocess.run(
        [sys.executable, "-m", "capa.cli.main", *command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=30,
        check=False,
    )
    assert told.returncode == 0, told.stderr
