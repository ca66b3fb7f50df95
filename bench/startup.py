"""From exec to READY=1 with the instruments answering, beside a bare interpreter's imports."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.harness import Twin, running_daemon
from bench.table import Table

ROUNDS = 9
CODE = ("capa", "capad", "adapters")
IMPORTS = "import trio, pydantic, structlog, pymodbus"


def measure(table: Table, twin: Twin, directory: Path) -> None:
    """Alternate both, so that a noisy minute touches both.

    Byte code is there for both: pip compiles what it installs, and a checkout is compiled here.
    """
    subprocess.run([sys.executable, "-m", "compileall", "-q", *CODE], check=True)
    bare_s, ready_s = [], []
    for index in range(ROUNDS):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        bare_s.append(time.monotonic() - began)
        with running_daemon(twin.profile, directory / f"start{index}") as daemon:
            ready_s.append((daemon.ready_ns - daemon.started_ns) / 1e9)
    bare, ready = statistics.median(bare_s), statistics.median(ready_s)
    table.add(f"bare interpreter, {IMPORTS.removeprefix('import ')} (n={ROUNDS})", bare, "s")
    table.add("exec to READY=1, rig open and proven safe", ready, "s", 2 * bare)
    table.add("  as a ratio", ready / bare, "x", 2.0)
