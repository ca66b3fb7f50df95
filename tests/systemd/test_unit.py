"""The unit as it ships, under a real systemd of its own: status, abort, watchdog, stop."""

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon_process import method_toml, wire_outputs
from tests.support.polling import eventually
from tests.support.private_systemd import PrivateSystemd, private_systemd, why_not

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "deploy" / "systemd" / "capad.service"
SPOOL, RUNS, TWIN = "/var/lib/capad/spool", "/var/lib/capad/runs", "/run/capad/twin"
LONG = method_toml(hold_s=600)

# What differs from a box: no other units to order by, simulated instruments, an interpreter that
# is not installed system-wide, and a log that a test can read, as there is no journal.
DROP_IN = """
[Unit]
DefaultDependencies=no
After=
[Service]
ExecStart=
ExecStart=/opt/capad/bin/capad --config /etc/capad/capad.toml --twin
Environment=PYTHONPATH=/opt/capad/src LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1
StandardOutput=append:/run/capad.log
StandardError=append:/run/capad.log
"""

REASON = why_not()
if REASON is not None:
    warnings.warn(f"THE UNIT IS NOT TESTED: {REASON}", UserWarning, stacklevel=1)

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(REASON is not None, reason=f"no private systemd: {REASON}"),
]


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSystemd]:
    with private_systemd(tmp_path_factory.mktemp("systemd")) as manager:
        manager.path("/etc/capad/capad.toml").write_text(
            '[rig]\nprofile = "/opt/capad/src/configs/hardware/demo.toml"\n'
        )
        manager.install(UNIT, {"test": DROP_IN})
        yield manager


@pytest.fixture
def running(systemd: PrivateSystemd) -> Iterator[PrivateSystemd]:
    """The service, started by ``systemctl start`` (which returns at READY=1)."""
    systemd.systemctl("reset-failed", "capad.service")
    systemd.systemctl("start", "capad.service")
    assert systemd.show("capad.service", "ActiveState") == "active", trouble(systemd)
    yield systemd
    systemd.systemctl("stop", "capad.service")
    systemd.run("rm", "-f", f"{SPOOL}/hold")


def trouble(systemd: PrivateSystemd) -> str:
    log = systemd.path("/run/capad.log")
    return systemd.systemctl("status", "capad.service") + (
        log.read_text()[-6000:] if log.exists() else systemd.log.read_text()[-3000:]
    )


def drop(systemd: PrivateSystemd, name: str, text: str) -> None:
    """Drop a file as the operator alice does, who is in the group capad and nobody special."""
    script = f'cat > "$0/.{name}" && mv "$0/.{name}" "$0/{name}"'
    done = systemd.run("sh", "-c", script, f"{SPOOL}/incoming", user="alice", text=text)
    assert done.returncode == 0, done.stderr


def wait_status(systemd: PrivateSystemd, part: str) -> str:
    """Wait until the ``Status:`` line of ``systemctl status`` says it."""

    def look() -> str | None:
        lines = systemd.systemctl("status", "capad.service").splitlines()
        found = [line for line in lines if line.strip().startswith("Status:") and part in line]
        return found[0] if found else None

    return eventually(
        look, f"the status says {part!r}", within_s=20, every_s=0.1, say=lambda: trouble(systemd)
    )


def wait_job(systemd: PrivateSystemd, state: str, stem: str) -> Path:
    folder = systemd.path(f"{SPOOL}/{state}")

    def look() -> Path | None:
        found = [path for path in folder.glob(f"*-{stem}") if (path / "report.json").exists()]
        return found[-1] if found else None

    return eventually(look, f"{stem} in {state}/", within_s=30, say=lambda: trouble(systemd))


def heater(systemd: PrivateSystemd) -> float:
    outputs = wire_outputs(systemd.path(TWIN))
    return float([o["value"] for o in outputs if o["device"] == "furnace"][-1])


def wait_heating(systemd: PrivateSystemd) -> None:
    eventually(lambda: heater(systemd) > 99, "it heats", say=lambda: trouble(systemd))


def test_an_operators_method_runs_and_is_reported_where_she_can_read_it(
    running: PrivateSystemd,
) -> None:
    assert "last safe: proven" in wait_status(running, "IDLE")
    drop(running, "small.method.toml", method_toml())
    job = wait_job(running, "done", "small")
    run = json.loads((job / "report.json").read_text())["run"]
    assert run["bundle_status"] == "sealed"
    said = running.run("cat", f"{SPOOL}/done/{job.name}/report.txt", user="alice")
    assert "dropped by alice" in said.stdout
    bundle = f"{RUNS}/{run['run_id']}"
    check = running.run("sh", "-c", f"cd {bundle} && sha256sum -c manifest.sha256", user="alice")
    assert check.returncode == 0, check.stdout + check.stderr
    assert running.run("touch", f"{bundle}/scalars.parquet", user="alice").returncode != 0


def test_systemctl_kill_int_aborts_the_run_and_leaves_the_service_running(
    running: PrivateSystemd,
) -> None:
    drop(running, "long.method.toml", LONG)
    wait_heating(running)
    assert "hold heater.setpoint" in wait_status(running, "step 2/2")
    running.systemctl("kill", "-s", "INT", "capad.service")
    job = wait_job(running, "failed", "long")
    run = json.loads((job / "report.json").read_text())["run"]
    assert (run["run_status"], run["bundle_status"]) == ("aborted", "sealed")
    assert heater(running) == 20.0
    assert "to release: rm" in wait_status(running, "HELD")
    assert running.show("capad.service", "ActiveState") == "active"
    assert running.run("rm", f"{SPOOL}/hold", user="alice").returncode == 0
    wait_status(running, "IDLE")


def test_systemctl_stop_in_a_run_makes_the_rig_safe_and_ends_clean(
    running: PrivateSystemd,
) -> None:
    drop(running, "stopped.method.toml", LONG)
    wait_heating(running)
    running.systemctl("stop", "capad.service")
    assert running.show("capad.service", "Result") == "success"
    assert running.show("capad.service", "ExecMainStatus") == "0"
    run = json.loads((wait_job(running, "failed", "stopped") / "report.json").read_text())["run"]
    assert (run["run_status"], run["bundle_status"]) == ("aborted", "sealed")
    assert all(v["verdict"] == "proven" for v in run["verdicts"].values())


def test_systemctl_reload_reads_the_profile_again(running: PrivateSystemd) -> None:
    running.systemctl("reload", "capad.service")
    log = running.path("/run/capad.log")
    eventually(
        lambda: (
            log.read_text().rstrip().endswith("demo.toml") or "profile.reload" in log.read_text()
        ),
        "the reload",
        say=lambda: trouble(running),
    )
    wait_status(running, "IDLE")


def test_a_daemon_that_hangs_is_ended_by_the_watchdog_and_started_again(
    running: PrivateSystemd,
) -> None:
    pid = running.show("capad.service", "MainPID")
    running.run("kill", "-STOP", pid)
    began_s = time.monotonic()
    eventually(
        lambda: running.show("capad.service", "MainPID") not in (pid, "0"),
        "another process is started",
        within_s=15,
        every_s=0.1,
        say=lambda: trouble(running),
    )
    assert time.monotonic() - began_s < 3.0 + 0.5 + 1.0 + 2.0  # watchdog, abort, restart, slack
    assert int(running.show("capad.service", "NRestarts")) >= 1
    wait_status(running, "IDLE")


def test_a_wrong_configuration_is_not_tried_again_and_again(systemd: PrivateSystemd) -> None:
    config = systemd.path("/etc/capad/capad.toml")
    before = config.read_text()
    config.write_text("[rigg]\n")
    try:
        systemd.systemctl("start", "capad.service")
        assert systemd.show("capad.service", "ActiveState") == "failed"
        assert systemd.show("capad.service", "ExecMainStatus") == "78"
        assert "`rig`" in systemd.path("/run/capad.log").read_text()
    finally:
        config.write_text(before)
