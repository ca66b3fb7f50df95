"""What recording and finalizing cost, each beside the least that SQLite or pyarrow can do."""

import os
import shutil
import sys
from pathlib import Path

from bench import finalizing, recording
from bench.harness import Twin
from bench.table import Table

__all__ = ["measure"]

NEEDED_BYTES = 5 * 10**9


def measure(table: Table, twin: Twin, directory: Path) -> None:
    """Recording first, then finalizing: three minutes on an idle machine, 3 GB for a while."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < NEEDED_BYTES:
        sys.exit(f"{directory}: needs {NEEDED_BYTES / 1e9:g} GB, has {free / 1e9:.1f}; set TMPDIR")
    print(f"  (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)", flush=True)
    recording.rate(table, directory)
    recording.cpu(table, directory)
    recording.latency(table, directory)
    finalizing.measure(table, directory)
    print(f"  (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)", flush=True)
