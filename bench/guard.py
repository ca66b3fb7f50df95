"""From exec to the guardian's first byte on the wire, beside a bare interpreter's start."""

import py_compile
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.harness import Twin
from bench.table import Table
from capa.config.load import load_profile
from capa.devices.registry import load_families
from capa.runtime.safe_plan import compile_safe_plan

ROUNDS = 40
HERE = Path(__file__).parents[1]
BARE = [sys.executable, "-S", "-c", "pass"]


def measure(table: Table, twin: Twin, directory: Path) -> None:
    """Alternate both, so that a noisy minute touches both; the guardian as `make install` lays it.

    The first byte is timed where the twin reads it, on the link that heard it first.
    """
    directory.mkdir(parents=True)
    guard = _installed(directory)
    profile = load_profile(twin.profile)
    families = load_families({device.adapter for device in profile.devices})
    began = time.monotonic()
    plan = compile_safe_plan(profile, families, written_utc=datetime.now(UTC))
    plan.write(directory)
    table.add(
        "compiling the safe plan, written and fsynced", (time.monotonic() - began) * 1e3, "ms"
    )
    bare_ms, first_ms, proven_ms, look_ms = [], [], [], []
    for _ in range(ROUNDS):
        began = time.monotonic()
        subprocess.run(BARE, check=True)
        bare_ms.append((time.monotonic() - began) * 1e3)
        began_ns = time.monotonic_ns()
        run = [sys.executable, "-I", "-S", str(guard), "--runtime-dir", str(directory)]
        subprocess.run(run, check=True, stderr=subprocess.DEVNULL)
        proven_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        first_ms.append((_first_byte_ns(twin, began_ns) - began_ns) / 1e6)
        began = time.monotonic()
        subprocess.run([*run, "--unfinished"], check=True)
        look_ms.append((time.monotonic() - began) * 1e3)
    bare, first = statistics.median(bare_ms), statistics.median(first_ms)
    table.add(f"python3 -S -c pass (n={ROUNDS})", bare, "ms")
    table.spread("capad-guard, exec to its first byte at the device", first_ms, "ms")
    table.add("  as a ratio of the medians", first / bare, "x", 3.0)
    table.spread("capad-guard, exec to its end with all proven", proven_ms, "ms")
    table.spread("capad-guard --unfinished, nothing to do: a start's delay", look_ms, "ms")


def _installed(directory: Path) -> Path:
    """Lay the guardian out as `make install` does, with byte code."""
    module = directory / "capad_guard.py"
    shutil.copy(HERE / "capad" / "guard.py", module)
    py_compile.compile(str(module), doraise=True)
    shutil.copy(HERE / "deploy" / "capad-guard", directory / "capad-guard")
    return directory / "capad-guard"


def _first_byte_ns(twin: Twin, since_ns: int) -> int:
    return min(
        int(record["t_ns"])
        for record in twin.wire()
        if record["event"] == "rx" and record["t_ns"] >= since_ns
    )
