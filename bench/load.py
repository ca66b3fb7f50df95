"""CPU and memory of the daemon, idle and in a run, beside a bare loop of the same exchanges."""

import subprocess
import sys
import time
from pathlib import Path

from bench.harness import Twin, fine_cpu_s, resident_mb, running_daemon, wait_for
from bench.table import Table

WINDOW_S = 20.0
WAIT = """name = "wait"
[[steps]]
kind = "wait"
duration_s = 60.0
"""


def measure(table: Table, twin: Twin, directory: Path) -> None:
    """Idle, then in a run, then the bare loop on the same twins."""
    with running_daemon(twin.profile, directory) as daemon:
        time.sleep(2)
        idle = _share(daemon.process.pid)
        idle_mb = resident_mb(daemon.process.pid)
        began = daemon.drop("wait.method.toml", WAIT)
        wait_for(lambda: _running(daemon.directory, began), "the run's start")
        time.sleep(2)
        busy = _share(daemon.process.pid)
        busy_mb = resident_mb(daemon.process.pid)
    bare = subprocess.Popen([sys.executable, "-m", "bench.bare_loop", str(twin.profile)])
    try:
        time.sleep(3)
        bare_share = _share(bare.pid)
    finally:
        bare.terminate()
        bare.wait()
    table.add("bare trio loop, same exchanges, same codec, CPU", bare_share * 100, "%")
    table.add("daemon idle, 5 devices x 10 Hz, CPU", idle * 100, "%")
    table.add("daemon in a run, 5 devices x 10 Hz, recording, CPU", busy * 100, "%", 3.0)
    table.add("  against the bare loop", busy / bare_share, "x", 2.0)
    table.add("daemon idle, resident", idle_mb, "MB")
    table.add("daemon in a run, resident", busy_mb, "MB", 60.0)


def _share(pid: int) -> float:
    """CPU time over wall time, in a window."""
    before_s, began = fine_cpu_s(pid), time.monotonic()
    time.sleep(WINDOW_S)
    return (fine_cpu_s(pid) - before_s) / (time.monotonic() - began)


def _running(directory: Path, _: int) -> bool:
    return any((directory / "spool" / "active").glob("*"))
