"""How far ramp setpoints leave from their instants, beside a bare trio loop under the same load."""

import sqlite3
import subprocess
import sys
from pathlib import Path

from bench.harness import Twin, busy_core, running_daemon, wait_for
from bench.table import Table, percentile

SECONDS = 60
RAMP = f"""name = "ticks"
[[steps]]
kind = "ramp"
start_value = 100.0
end_value = 160.0
duration_s = {SECONDS}.0
target = {{ name = "heater.setpoint" }}
"""
BARE = f"""
import trio
async def main():
    start = trio.current_time()
    for k in range({SECONDS * 10}):
        await trio.sleep_until(start + k / 10)
        print(trio.current_time() - start - k / 10)
trio.run(main)
"""


def measure(table: Table, twin: Twin, directory: Path) -> None:
    """Both run at the same time, with the other core busy."""
    with running_daemon(twin.profile, directory) as daemon, busy_core():
        bare = subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, text=True)
        daemon.drop("ticks.method.toml", RAMP)
        printed, _ = bare.communicate(timeout=SECONDS + 30)
        wait_for(lambda: daemon.finished() == 1, "the ramp's end", SECONDS + 30)
    bare_ms = [float(line) * 1e3 for line in printed.splitlines()]
    at_s = _tick_times_s(next((directory / "runs").glob("*/events.sqlite")))
    errors_ms, period_s = _errors(at_s)
    table.spread("bare trio.sleep_until loop, tick error", bare_ms, "ms")
    table.spread("ramp, tick error at the gate", errors_ms, "ms", 1.5 * percentile(bare_ms, 0.99))
    table.add("ramp, mean period off 0.1 s", abs(period_s / 0.1 - 1) * 100, "%", 0.1)


def _tick_times_s(events: Path) -> list[float]:
    """When each tick's command reached the gate: the intent is written there and then."""
    with sqlite3.connect(f"file:{events}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT t_mono_ns FROM events WHERE kind = 'command.intent' "
            "AND message LIKE '%heater.setpoint%' ORDER BY id"
        ).fetchall()
    return [row[0] / 1e9 for row in rows]


def _errors(at_s: list[float]) -> tuple[list[float], float]:
    """Distance of each tick from its instant (ms), and the mean period (s)."""
    start_s = at_s[0]
    errors_ms = [(t - start_s - round((t - start_s) * 10) / 10) * 1e3 for t in at_s[1:]]
    span = round((at_s[-1] - start_s) * 10)
    return errors_ms, (at_s[-1] - start_s) / span
