"""What each signal does to the real process, judged by the wire where safety is claimed."""

import json
import re
import signal
from pathlib import Path

from tests.support.daemon_process import Daemon, Twin, method_toml, running_daemon
from tests.support.polling import eventually

LONG = method_toml(hold_s=600)
COOLING = method_toml(
    hold_s=0.2,
    extra="""
[[steps]]
kind = "safe_shutdown"
duration_s = 600
cool_target = { "heater.setpoint" = 30.0 }
""",
)


def report(job: Path) -> dict[str, object]:
    run = json.loads((job / "report.json").read_text())["run"]
    assert isinstance(run, dict)
    return run


def test_sigint_aborts_the_run_makes_the_rig_safe_and_holds_the_queue(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        start(daemon, twin, LONG)
        daemon.drop("next.method.toml", method_toml(hold_s=0.1))
        daemon.wait_status("queue 1")
        daemon.send(signal.SIGINT)
        job = daemon.wait_job("failed")
        run = report(job)
        assert (run["run_status"], run["bundle_status"]) == ("aborted", "sealed")
        assert "SIGINT" in str(run["exit_reason"])
        assert twin.setpoint() == 20.0
        assert (daemon.spool / "hold").exists()
        status = daemon.wait_status("HELD")
        assert "rm '" in status
        assert daemon.process.poll() is None
        daemon.release()
        daemon.wait_job("done")


def test_a_second_sigint_ends_the_cooldown_dwell(twin: Twin, tmp_path: Path) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.drop("cooling.method.toml", COOLING)
        daemon.wait_status("safe_shutdown")
        daemon.send(signal.SIGINT)
        daemon.wait_status("stopping")
        assert daemon.jobs("failed") == []
        daemon.send(signal.SIGINT)
        job = daemon.wait_job("failed")
        assert report(job)["run_status"] == "aborted"
        assert twin.setpoint() == 20.0


def test_sigint_with_nothing_running_does_not_end_a_service(twin: Twin, tmp_path: Path) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.drop("small.method.toml", method_toml(hold_s=0.1))
        daemon.wait_job("done")
        daemon.wait_status("IDLE")
        daemon.send(signal.SIGINT)
        eventually(lambda: "signal.sigint" in daemon.log(), "it was heard", say=daemon.log)
        daemon.drop("second.method.toml", method_toml(hold_s=0.1))
        daemon.wait_job("done", 2)


def test_sigterm_stops_the_run_seals_and_exits_clean(twin: Twin, tmp_path: Path) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        start(daemon, twin, LONG)
        daemon.send(signal.SIGTERM)
        assert daemon.wait_end() == 0
        run = report(daemon.wait_job("failed"))
        assert (run["run_status"], run["bundle_status"]) == ("aborted", "sealed")
        assert twin.setpoint() == 20.0
        told = daemon.listen()
        assert "STOPPING=1" in told
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in told)


def test_sigterm_does_not_wait_for_a_cooldown_dwell(twin: Twin, tmp_path: Path) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.drop("cooling.method.toml", COOLING)
        daemon.wait_status("safe_shutdown")
        daemon.send(signal.SIGTERM)
        assert daemon.wait_end() == 0
        assert twin.setpoint() == 20.0


def test_sigterm_with_nothing_running_exits_clean(twin: Twin, tmp_path: Path) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        daemon.send(signal.SIGTERM)
        assert daemon.wait_end() == 0


def test_sighup_reads_the_profile_again_once_nothing_runs(twin: Twin, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    text = twin.profile.read_text()
    profile.write_text(text)
    with running_daemon(tmp_path, profile) as daemon:
        start(daemon, twin, method_toml(hold_s=1.5))
        profile.write_text(text.replace('name = "demo"', 'name = "renamed"', 1))
        daemon.send(signal.SIGHUP)
        run = report(daemon.wait_job("done"))
        assert run["run_status"] == "completed"
        eventually(
            lambda: daemon.listen().count("READY=1") == 2, "ready a second time", say=daemon.log
        )
        daemon.drop(
            "other.experiment.toml",
            'hardware = "renamed"\n'
            + "[method]\n"
            + method_toml(hold_s=0.1).replace("[[steps]]", "[[method.steps]]"),
        )
        daemon.wait_job("done", 2)


def test_sighup_with_a_broken_profile_keeps_the_old_one(twin: Twin, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(twin.profile.read_text())
    with running_daemon(tmp_path, profile) as daemon:
        profile.write_text("this is not a profile")
        daemon.send(signal.SIGHUP)
        eventually(
            lambda: "the old one stays in force" in daemon.log(), "the refusal", say=daemon.log
        )
        daemon.drop("small.method.toml", method_toml(hold_s=0.1))
        daemon.wait_job("done")


def holds_sigint_back(daemon: Daemon) -> bool:
    """Whether a SIGINT is held back already."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    masks = dict(re.findall(r"^Sig(\w+):\s*(\w+)$", status, re.MULTILINE))
    return all(int(masks[name], 16) & 1 << signal.SIGINT - 1 for name in ("Blk", "Cgt"))


def test_a_sigint_that_comes_while_it_starts_holds_what_waits(twin: Twin, tmp_path: Path) -> None:
    def early(daemon: Daemon) -> None:
        eventually(lambda: holds_sigint_back(daemon), "the start has begun", say=daemon.log)
        daemon.send(signal.SIGINT)

    incoming = tmp_path / "spool" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "waits.method.toml").write_text(method_toml(hold_s=600))
    with running_daemon(tmp_path, twin.profile, early=early) as daemon:
        daemon.wait_status("HELD")  # what is still settling in incoming/ waits, too
        eventually(lambda: len(daemon.jobs("queued")) == 1, "it is queued", say=daemon.log)
        assert not list(daemon.runs.glob("2*"))
        daemon.release()
        daemon.wait_setpoint(twin, above=99)


def test_after_kill_9_the_job_is_failed_its_bundle_sealed_as_crashed_and_the_rig_safe(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        start(daemon, twin, LONG)
        daemon.drop("next.method.toml", method_toml(hold_s=0.1))
        daemon.wait_status("queue 1")
        daemon.process.kill()
        daemon.wait_end()
    assert twin.setpoint() > 20.0
    with running_daemon(tmp_path, twin.profile) as daemon:
        assert twin.setpoint() == 20.0, "safe before READY=1"
        job = daemon.wait_job("failed")
        assert "interrupted" in (job / "report.txt").read_text()
        (bundle,) = daemon.runs.glob("2*")
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert (manifest["run_status"], manifest["bundle_status"]) == ("crashed", "sealed")
        daemon.wait_status("HELD")
        assert len(daemon.jobs("queued")) == 1
        daemon.release()
        daemon.wait_job("done")


def start(daemon: Daemon, twin: Twin, method: str) -> None:
    """Drop a method and wait until it heats."""
    daemon.drop("long.method.toml", method)
    daemon.wait_setpoint(twin, 99.0)
    daemon.wait_status("RUN 2")


def test_a_sigint_that_comes_while_a_bundle_is_sealed_holds_what_waits(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        start(daemon, twin, method_toml(hold_s=2.0))
        daemon.drop("next.method.toml", method_toml(hold_s=0.1))
        daemon.wait_status("queue 1")
        eventually(lambda: sealing(daemon), "a bundle is being sealed", say=daemon.log)
        daemon.send(signal.SIGINT)
        assert report(daemon.wait_job("done"))["run_status"] == "completed"
        daemon.wait_status("HELD")
        assert [job.name[:6] for job in daemon.jobs("queued")] == ["000002"]
        assert twin.setpoint() == 20.0
        daemon.release()
        daemon.wait_job("done", 2)


def sealing(daemon: Daemon) -> bool:
    manifests = daemon.runs.glob("*/manifest.json")
    return any('"finalizing"' in manifest.read_text() for manifest in manifests)
