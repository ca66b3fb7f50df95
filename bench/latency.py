"""Rename into the spool to first setpoint, and SIGINT to safe write, both on the wire."""

import random
import signal
import time
from functools import partial
from pathlib import Path

from bench.harness import Daemon, Twin, running_daemon, wait_for
from bench.table import Table

FIRST = """name = "first"
[[steps]]
kind = "setpoint"
value = {value}
target = {{ name = "heater.setpoint" }}
"""
HOLD = """name = "hold"
[[steps]]
kind = "hold"
value = 300.0
duration_s = 600.0
target = { name = "heater.setpoint" }
"""
RAMP = """name = "ramp"
[[steps]]
kind = "ramp"
start_value = 100.0
end_value = 400.0
duration_s = 600.0
target = { name = "heater.setpoint" }
"""
DEVICE = "heater_a"


def first_setpoint(table: Table, twin: Twin, directory: Path, rounds: int = 15) -> None:
    """Drop methods one after another, each when the last one's report is there."""
    took_s: list[float] = []
    with running_daemon(twin.profile, directory) as daemon:
        for index in range(rounds):
            value = 100.0 + index
            time.sleep(random.uniform(0.0, 0.3))  # noqa: S311 - spreads the phase, no secret
            dropped_ns = daemon.drop(f"{index:03}.method.toml", FIRST.format(value=value))
            written_ns = wait_for(partial(_first, twin, dropped_ns, value), "the first setpoint")
            took_s.append((written_ns - dropped_ns) / 1e9)
            _wait_finished(daemon, index + 1)
    table.spread("rename into the spool to first setpoint on the wire", took_s, "s", 0.5)


def stop(table: Table, twin: Twin, directory: Path, rounds: int = 30) -> None:
    """SIGINT at random instants; the twin's log tells when the safe write arrived."""
    for name, method in (("hold", HOLD), ("ramp", RAMP)):
        took_ms: list[float] = []
        own_ms: list[float] = []
        with running_daemon(twin.profile, directory / name) as daemon:
            for index in range(rounds):
                began_ns = daemon.drop(f"{index:03}.method.toml", method)
                wait_for(partial(_changes, twin, began_ns), "the method's setpoint")
                time.sleep(random.uniform(0.3, 0.6))  # noqa: S311 - spreads the phase, no secret
                sent_ns = daemon.send(signal.SIGINT)
                wait_for(partial(_first, twin, sent_ns, 20.0), "the safe write")
                safe_ns = _safe_frame_ns(twin, sent_ns)
                took_ms.append((safe_ns - sent_ns) / 1e6)
                own_ms.append((safe_ns - _line_free_ns(twin, sent_ns, safe_ns)) / 1e6)
                _wait_finished(daemon, index + 1)
                daemon.release()
        table.spread(f"SIGINT to the safe write on the wire, in a {name}", took_ms, "ms")
        table.spread("  without the exchange then in progress", own_ms, "ms", 10.0)


def _changes(twin: Twin, since_ns: int) -> list[tuple[int, float]]:
    return [(t_ns, value) for t_ns, value in twin.outputs(DEVICE, since_ns) if value > 50]


def _first(twin: Twin, since_ns: int, value: float) -> int:
    """When the heater's setpoint became ``value``; 0 while it has not."""
    hits = [t for t, seen in twin.outputs(DEVICE, since_ns) if abs(seen - value) < 0.01]
    return hits[0] if hits else 0


def _safe_frame_ns(twin: Twin, since_ns: int) -> int:
    """When the first byte of the safe write was at the device: the request before the change."""
    changed_ns = _first(twin, since_ns, 20.0)
    return max(
        int(record["t_ns"])
        for record in twin.wire()
        if record["event"] == "rx"
        and record["link"] == "furnace_a"
        and record["t_ns"] <= changed_ns
    )


def _line_free_ns(twin: Twin, sent_ns: int, safe_ns: int) -> int:
    """When the exchange in progress at the signal had its reply; the signal itself if none was."""
    frames = [
        record
        for record in twin.wire()
        if record["event"] in ("rx", "tx")
        and record["link"] == "furnace_a"
        and record["t_ns"] < safe_ns
    ]
    before = [record for record in frames if record["t_ns"] <= sent_ns]
    if not before or before[-1]["event"] == "tx":
        return sent_ns
    replies = [
        int(record["t_ns"])
        for record in frames
        if record["event"] == "tx" and record["t_ns"] > sent_ns
    ]
    return replies[0] if replies else sent_ns


def _wait_finished(daemon: Daemon, count: int) -> None:
    wait_for(lambda: daemon.finished() >= count, "the job's end")
