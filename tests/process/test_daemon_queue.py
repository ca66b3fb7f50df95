"""The queue of the real daemon: priorities, times to wait for, content seen before, two daemons."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.daemon_process import REPOSITORY, Twin, method_toml, running_daemon
from tests.support.polling import eventually


def experiment(hold_s: float, extra: str) -> str:
    method = method_toml(hold_s=hold_s).replace("[[steps]]", "[[method.steps]]")
    return f"{extra}\n[method]\n{method}"


def test_jobs_run_by_priority_and_not_before_their_time_and_name_their_twins(
    twin: Twin, tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "hold").write_text("filling the queue")
    at = (datetime.now(UTC) + timedelta(seconds=10)).replace(microsecond=0)
    files = {
        "a-later.experiment.toml": experiment(0.1, f"priority = 9\nnot_before = {at.isoformat()}"),
        "b-low.experiment.toml": experiment(0.1, ""),
        "c-high.experiment.toml": experiment(0.1, "priority = 1"),
        "d-low.experiment.toml": experiment(0.1, ""),
    }
    with running_daemon(tmp_path, twin.profile) as daemon:
        for name, text in files.items():
            (daemon.spool / "incoming" / name).write_text(text)
        eventually(lambda: len(daemon.jobs("queued")) == 4, "four are queued", say=daemon.log)
        daemon.wait_status("a-later.experiment.toml waits until")
        daemon.release()
        daemon.wait_job("done", 4, within_s=40)
        jobs = [json.loads((job / "job.json").read_text()) for job in daemon.jobs("done")]
    started = {job["file"][0]: job["history"][1]["at_utc"] for job in jobs}
    assert datetime.fromisoformat(started["a"]) >= at
    others = sorted(started.keys() - {"a"}, key=lambda name: started[name])
    assert others == ["c", "b", "d"]
    seen = {job["file"][0]: job["seen_before"] for job in jobs}
    (b_job,) = (job["id"] for job in jobs if job["file"].startswith("b"))
    assert seen["d"]["job"] == b_job
    assert (seen["a"], seen["b"], seen["c"]) == (None, None, None)
    (d_report,) = (tmp_path / "spool" / "done").glob("*d_low/report.txt")
    assert f"The same content was dropped before: job {b_job}" in d_report.read_text()


def test_a_second_daemon_on_the_spool_or_on_the_runs_is_refused_by_pid(
    twin: Twin, tmp_path: Path
) -> None:
    with running_daemon(tmp_path, twin.profile) as daemon:
        for spool, runs in ((daemon.spool, tmp_path / "r2"), (tmp_path / "s2", daemon.runs)):
            second = subprocess.run(
                [
                    *(sys.executable, "-m", "capad.main", "--hardware", str(twin.profile)),
                    *("--spool", str(spool), "--runs", str(runs)),
                    *("--runtime-dir", str(tmp_path / "run2")),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd=REPOSITORY,
                timeout=60,
                check=False,
            )
            assert second.returncode == 78
            assert f"pid {daemon.process.pid}" in second.stderr
