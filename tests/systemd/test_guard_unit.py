"""The daemon killed under the real unit: the guardian makes the rig safe, the next start says so.

The twin is a unit of its own, as the instruments are: it outlives the daemon, and its wire log is
the only witness.
"""

import fcntl
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.twin.control import ask
from tests.support.daemon_process import method_toml, wire_outputs
from tests.support.polling import eventually
from tests.support.private_systemd import PrivateSystemd, private_systemd, why_not

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "capad.service"
SPOOL, RUNS, TWIN, RUN = "/var/lib/capad/spool", "/var/lib/capad/runs", "/run/twin", "/run/capad"
BOUND_S = 1.0
"""From kill -9 to the safe value at the instrument."""

DROP_IN = """
[Unit]
DefaultDependencies=no
After=
[Service]
ExecStart=
ExecStart=/opt/capad/bin/capad --config /etc/capad/capad.toml
Environment=PYTHONPATH=/opt/capad/src LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1
StandardOutput=append:/run/capad.log
StandardError=append:/run/capad.log
"""
TWIN_UNIT = f"""
[Unit]
DefaultDependencies=no
[Service]
User=capad
Environment=PYTHONPATH=/opt/capad/src LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1
ExecStart=/opt/capad/bin/python -m capa.cli.main twin \
    /opt/capad/src/configs/hardware/demo.toml --dir {TWIN}
"""

NO_DAEMON = """
[Service]
ExecStart=
ExecStart=/bin/sleep 600
"""
"""What is started in the daemon's place, and touches nothing."""

REASON = why_not()
if REASON is not None:
    warnings.warn(f"THE GUARDIAN IS NOT TESTED IN THE UNIT: {REASON}", UserWarning, stacklevel=1)

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(REASON is not None, reason=f"no private systemd: {REASON}"),
]


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSystemd]:
    with private_systemd(tmp_path_factory.mktemp("systemd")) as manager:
        manager.path("/etc/capad/capad.toml").write_text(
            f'[rig]\nprofile = "{TWIN}/profile.toml"\n'
        )
        manager.path("/run/units/twin.service").write_text(TWIN_UNIT)
        manager.run("install", "-d", "-o", "capad", "-g", "capad", TWIN)
        manager.install(UNIT, {"test": DROP_IN})
        manager.systemctl("start", "twin.service")
        eventually(manager.path(f"{TWIN}/profile.toml").exists, "the twin serves", within_s=30)
        yield manager


@pytest.fixture
def heating(systemd: PrivateSystemd) -> Iterator[PrivateSystemd]:
    """The service in the middle of a method that heats."""
    systemd.systemctl("reset-failed", "capad.service")
    systemd.systemctl("start", "capad.service")
    assert systemd.show("capad.service", "ActiveState") == "active", trouble(systemd)
    script = f"cat > {SPOOL}/incoming/.a && mv {SPOOL}/incoming/.a {SPOOL}/incoming/a.method.toml"
    systemd.run("sh", "-c", script, user="alice", text=method_toml(hold_s=600))
    began_ns = time.monotonic_ns()

    def heats() -> bool:
        systemd.path(f"{SPOOL}/hold").unlink(missing_ok=True)  # of the test before
        last = heater(systemd)[-1]
        return bool(last["value"] > 99 and last["t_ns"] > began_ns)

    eventually(heats, "it heats", within_s=20, say=lambda: trouble(systemd))
    yield systemd
    systemd.systemctl("stop", "capad.service")


def trouble(systemd: PrivateSystemd) -> str:
    log = systemd.path("/run/capad.log")
    said = log.read_text()[-6000:] if log.exists() else ""
    return systemd.systemctl("status", "capad.service", "twin.service") + said


def heater(systemd: PrivateSystemd) -> list[dict[str, Any]]:
    return [o for o in wire_outputs(systemd.path(TWIN)) if o["device"] == "furnace"]


def kill(systemd: PrivateSystemd) -> int:
    """Kill the daemon as the kernel would; return the instant."""
    pid = systemd.show("capad.service", "MainPID")
    now_ns = time.monotonic_ns()
    systemd.run("kill", "-9", pid)
    return now_ns


def wait_safe(systemd: PrivateSystemd, killed_ns: int) -> float:
    """Return how long after the kill the heater was told to be at 20 degC, in s."""

    def look() -> float | None:
        after = [o for o in heater(systemd) if o["t_ns"] >= killed_ns and o["value"] == 20.0]
        return (after[0]["t_ns"] - killed_ns) / 1e9 if after else None

    return eventually(look, "the safe write", within_s=10, say=lambda: trouble(systemd))


def verdicts(systemd: PrivateSystemd) -> dict[str, Any]:
    """What the guardian wrote down last, if it ever ran."""
    try:
        text = systemd.path(f"{RUN}/guard_verdicts.json").read_text()
    except FileNotFoundError:
        return {"service": {}}
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_killed_daemon_leaves_a_safe_rig_before_anything_is_started_again(
    heating: PrivateSystemd,
) -> None:
    killed_ns = kill(heating)
    assert wait_safe(heating, killed_ns) < BOUND_S  # RestartSec=1s: it was the guardian
    guard = eventually(
        lambda: [v for v in [verdicts(heating)] if v["service"].get("service_result") == "signal"],
        "the guardian's verdicts",
        say=lambda: trouble(heating),
    )[0]
    proof = guard["verdicts"]["heater.setpoint"]
    assert (proof["verdict"], guard["exit_code"]) == ("proven", 0)
    assert proof["at_s"] - killed_ns / 1e9 < BOUND_S


def test_the_next_start_reads_the_guardians_verdicts_into_the_interrupted_run(
    heating: PrivateSystemd,
) -> None:
    before = set(heating.path(f"{SPOOL}/failed").glob("*"))
    kill(heating)

    def look() -> Path | None:
        jobs = set(heating.path(f"{SPOOL}/failed").glob("*")) - before
        return next((job for job in jobs if (job / "report.txt").exists()), None)

    job = eventually(look, "the interrupted job", within_s=30, say=lambda: trouble(heating))
    assert "heater.setpoint = 20 proven" in (job / "report.txt").read_text()
    bundle = max(heating.path(RUNS).iterdir())
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["run_status"], manifest["bundle_status"]) == ("crashed", "sealed")
    assert manifest["guard"]["verdicts"]["heater.setpoint"]["verdict"] == "proven"
    assert "guard_verdicts.json" in manifest["files"]
    assert "guard.verdicts" in heating.path("/run/capad.log").read_text()


def test_a_clean_stop_is_followed_by_the_guardian_too(heating: PrivateSystemd) -> None:
    heating.systemctl("stop", "capad.service")
    assert verdicts(heating)["service"]["service_result"] == "success"
    assert verdicts(heating)["exit_code"] == 0
    assert heating.show("capad.service", "Result") == "success", trouble(heating)


@pytest.fixture
def driven(systemd: PrivateSystemd) -> Iterator[PrivateSystemd]:
    """Another program has the rig, as ``capa run`` has it."""
    systemd.systemctl("reset-failed", "capad.service")
    systemd.systemctl("start", "capad.service")  # makes the folder
    systemd.systemctl("stop", "capad.service")
    with systemd.path(f"{RUN}/capad.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        systemd.systemctl("start", "--no-block", "capad.service")

        def waits() -> bool:
            return "waiting for the rig" in systemd.show("capad.service", "StatusText")

        eventually(waits, "it waits for the rig", say=lambda: trouble(systemd))
        yield systemd
        systemd.systemctl("stop", "capad.service")


def test_a_daemon_that_is_stopped_while_it_waits_for_the_rig_has_not_failed(
    driven: PrivateSystemd,
) -> None:
    driven.systemctl("stop", "capad.service")
    assert driven.show("capad.service", "Result") == "success", trouble(driven)
    assert driven.show("capad.service", "ActiveState") == "inactive"


def test_one_that_is_killed_while_it_waits_has_failed_and_is_started_again(
    driven: PrivateSystemd,
) -> None:
    restarts = driven.show("capad.service", "NRestarts")
    kill(driven)
    eventually(
        lambda: driven.show("capad.service", "NRestarts") != restarts,
        "it is started again",
        say=lambda: trouble(driven),
    )


def test_a_missing_plan_is_said_and_the_service_marked_as_failed(heating: PrivateSystemd) -> None:
    heating.path(f"{RUN}/safe_plan.json").unlink()
    heating.systemctl("stop", "capad.service")
    assert "NOTHING WAS MADE SAFE" in heating.path("/run/capad.log").read_text()
    assert verdicts(heating)["exit_code"] == 4
    assert heating.show("capad.service", "Result") == "exit-code"


def history(systemd: PrivateSystemd) -> list[dict[str, Any]]:
    """Every end that a guardian came to."""
    return [
        json.loads(line) for line in systemd.path(f"{RUN}/guard.jsonl").read_text().splitlines()
    ]


@contextmanager
def without_a_daemon(systemd: PrivateSystemd) -> Iterator[None]:
    """From the next start on nobody but the guardian can be the one who makes the rig safe."""
    systemd.install(UNIT, {"test": DROP_IN, "without": NO_DAEMON})
    try:
        yield
    finally:
        systemd.path("/run/units/capad.service.d/without.conf").unlink()
        systemd.systemctl("daemon-reload")


def kill_the_guardian_at_work(systemd: PrivateSystemd) -> None:
    """Kill it while it tries to reach a furnace that hears nothing."""

    def trying() -> str | None:
        pid = systemd.show("capad.service", "ControlPID")
        return pid if pid != "0" else None

    pid = eventually(trying, "a guardian", every_s=0.01, say=lambda: trouble(systemd))
    time.sleep(0.5)
    systemd.run("kill", "-9", pid)


def test_a_guardian_that_is_killed_is_made_up_for_before_the_daemon_starts_again(
    heating: PrivateSystemd,
) -> None:
    ends = len(history(heating))
    ask(heating.path(TWIN), {"fault": "silence", "device": "furnace"})
    with without_a_daemon(heating):
        kill(heating)
        kill_the_guardian_at_work(heating)
        assert heater(heating)[-1]["value"] > 99
        ask(heating.path(TWIN), {"fault": "silence", "device": "furnace", "active": False})
        killed_ns = time.monotonic_ns()
        assert wait_safe(heating, killed_ns) < 1.0 + BOUND_S  # RestartSec=1s
        eventually(lambda: len(history(heating)) > ends, "its verdicts")
        heating.systemctl("stop", "capad.service")
    guard = history(heating)[ends]
    assert guard["resumed"]
    assert guard["verdicts"]["heater.setpoint"]["verdict"] == "proven"


def test_what_it_makes_up_for_is_in_the_bundle_of_the_interrupted_run(
    heating: PrivateSystemd,
) -> None:
    bundle = max(heating.path(RUNS).iterdir())
    ask(heating.path(TWIN), {"fault": "silence", "device": "furnace"})
    kill(heating)
    kill_the_guardian_at_work(heating)
    ask(heating.path(TWIN), {"fault": "silence", "device": "furnace", "active": False})
    manifest = sealed(heating, bundle)
    assert manifest["guard"]["resumed"]
    assert manifest["guard"]["verdicts"]["heater.setpoint"]["verdict"] == "proven"


def test_a_start_after_a_guardian_that_came_to_its_end_sends_nothing_and_keeps_its_verdicts(
    heating: PrivateSystemd,
) -> None:
    ends, bundle = len(history(heating)), max(heating.path(RUNS).iterdir())
    kill(heating)
    manifest = sealed(heating, bundle)
    assert manifest["guard"]["service"]["service_result"] == "signal"
    assert not manifest["guard"]["resumed"]
    assert len(history(heating)) == ends + 1


def sealed(systemd: PrivateSystemd, bundle: Path) -> dict[str, Any]:
    """What a run's manifest says once a start has sealed it."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
        return found if found["bundle_status"] == "sealed" else None

    return eventually(look, "it is sealed", within_s=30, say=lambda: trouble(systemd))
