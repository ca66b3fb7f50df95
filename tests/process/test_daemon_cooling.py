"""The later stages of the safe state on the real daemon: over a kill, a mute device, an end."""

import json
import signal
from pathlib import Path
from typing import Any

from adapters.twin.control import ask
from tests.support.daemon_process import (
    Twin,
    method_toml,
    running_daemon,
)
from tests.support.polling import eventually
from tests.support.slow_cooling import PURGE, slow_to_cool

WAIT_S = 5.0


def purge_off(twin: Twin, after_ns: int = 0) -> list[dict[str, Any]]:
    changes = (one for one in twin.outputs() if one["device"] == "purge")
    return [one for one in changes if one["value"] == 0 and one["t_ns"] > after_ns]


def heat_off_ns(twin: Twin) -> int:
    return max(
        int(o["t_ns"]) for o in twin.outputs() if o["device"] == "furnace" and o["value"] < 21
    )


def test_a_kill_while_the_rig_cools_costs_neither_the_stage_nor_the_time_it_has_waited(
    twin: Twin, tmp_path: Path
) -> None:
    profile = slow_to_cool(twin, tmp_path, WAIT_S)
    with running_daemon(tmp_path, profile) as daemon:
        daemon.drop("first.method.toml", method_toml(hold_s=0.1, extra=PURGE))
        job = daemon.wait_job("done")
        daemon.send(signal.SIGKILL)
        daemon.wait_end()
    safe_ns = heat_off_ns(twin)
    assert not purge_off(twin, safe_ns)
    text = (job / "report.txt").read_text()
    assert "Still to come" in text
    assert "purge.flow to 0 when heater.pv < -90 degC, after 5 s at the latest" in text
    kept = json.loads((tmp_path / "safe_stages.json").read_text())
    assert kept["after"] == json.loads((job / "report.json").read_text())["run"]["run_id"]
    incoming = tmp_path / "spool" / "incoming"
    (incoming / "second.method.toml").write_text(method_toml(hold_s=0.1))
    with running_daemon(tmp_path, profile) as daemon:
        daemon.wait_job("done", 2)  # which waited for the last stage of the first
        off = purge_off(twin, safe_ns)[0]
        assert off["t_ns"] - safe_ns >= (WAIT_S - 0.2) * 1e9
        second = [o for o in twin.outputs() if o["device"] == "furnace" and o["value"] > 99][-1]
        assert second["t_ns"] > off["t_ns"]
        daemon.wait_status("cooling: purge.flow to 0 when heater.pv < -90 degC")
        daemon.send(signal.SIGTERM)
        assert daemon.wait_end() == 0
    log = (tmp_path / "capad.log").read_text(errors="replace")
    assert "the next start goes on with it, capad-guard does not" in log


def test_a_later_stage_that_can_not_be_reached_trips_and_is_driven_until_it_is(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, slow_to_cool(twin, tmp_path, 4.0)) as daemon:
        daemon.drop("first.method.toml", method_toml(hold_s=0.1, extra=PURGE))
        daemon.wait_job("done")
        silence(twin)
        daemon.wait_status("TRIPPED purge.flow could not be brought to 0", within_s=30)
        silence(twin, active=False)
        eventually(lambda: twin.setpoint("purge") == 0.0, "the purge is off", say=daemon.log)
        eventually(lambda: "cooling" not in daemon.status, "all is through", say=daemon.log)
        assert "TRIPPED" in daemon.status  # until somebody with a name has looked


def silence(twin: Twin, *, active: bool = True) -> None:
    """Have the purge's controller say nothing more; at once, for its time is short."""
    assert ask(twin.folder, {"fault": "silence", "device": "purge", "active": active})["ok"]
