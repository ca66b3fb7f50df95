"""The campaigns: each hurts the rig in one way, at an instant drawn anew every time.

A round begins a run, strikes, waits until all is calm again, and returns the blow: the instant
from which the outputs' time counts. What follows is read from the wire.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from tests.drill.bench import RUN, STATE, Bench
from tests.drill.blocker import MARK, blocking_experiment
from tests.support.polling import eventually

__all__ = ["CAMPAIGNS", "Blow", "Campaign"]

WATCHDOG_S = 3.0

METHOD = """
name = "drill"
[[steps]]
kind = "setpoint"
value = 200.0
target = { name = "purge.flow" }
[[steps]]
kind = "setpoint"
value = 40.0
target = { name = "vent.opening" }
[[steps]]
kind = "ramp"
start_value = 20.0
end_value = 300.0
duration_s = 1.2
target = { name = "heater.setpoint" }
[[steps]]
kind = "hold"
value = 300.0
duration_s = 0.6
target = { name = "heater.setpoint" }
"""
RUN_S = 2.6
"""From the claim to past the end: arming 0.2, the method 1.9, the safe state and the sealing."""
LONG_METHOD = METHOD.replace("duration_s = 0.6", "duration_s = 600.0")


@dataclass(frozen=True, slots=True)
class Blow:
    """When it was struck, on CLOCK_MONOTONIC; a fault's end counts where it is on an output's way.

    ``must_prove`` says that whoever acts has to drive and prove, also what stood safe already.
    """

    at_ns: int
    later: dict[str, int] = field(default_factory=dict)
    must_prove: bool = False


@dataclass(frozen=True, slots=True)
class Campaign:
    """One way to hurt the rig.

    ``goal_s`` is for the 99th percentile of ``of``; ``limit_s`` makes a round a failure.
    """

    name: str
    what: str
    n: int
    strike: Callable[[Bench, Random], Blow]
    goal_s: float
    of: Literal["safe", "proven"]
    limit_s: float


# --- the process ---------------------------------------------------------------------------------


def _kill_9(bench: Bench, rng: Random) -> Blow:
    bench.begin_run(METHOD)
    time.sleep(rng.uniform(0, RUN_S))
    return _killed(bench)


def _killed(bench: Bench) -> Blow:
    pid = bench.daemon_pid()
    blow = Blow(bench.strike(signal.SIGKILL, pid), must_prove=True)
    bench.hold()
    bench.wait_active(other_than=pid)
    return blow


def _hang(bench: Bench, rng: Random) -> Blow:
    bench.begin_run(METHOD)
    time.sleep(rng.uniform(0, RUN_S))
    pid = bench.daemon_pid()
    blow = Blow(bench.strike(signal.SIGSTOP, pid), must_prove=True)
    bench.hold()
    bench.wait_active(other_than=pid)
    return blow


def _kill_in_start(bench: Bench, rng: Random) -> Blow:
    """The outputs are away from safe when it starts: somebody was at the instruments' panels."""
    bench.stop()
    bench.turn_knobs()
    bench.systemd.systemctl("start", "--no-block", "capad.service")
    pid = eventually(bench.daemon_pid, "a daemon", every_s=0.001, say=bench.trouble)
    time.sleep(rng.uniform(0, 1.2))
    blow = Blow(bench.strike(signal.SIGKILL, pid), must_prove=True)
    bench.wait_active(other_than=pid)
    return blow


def _kill_in_guard(bench: Bench, rng: Random) -> Blow:
    bench.begin_run(LONG_METHOD)
    bench.wait_unsafe()
    pid = bench.daemon_pid()
    blow = Blow(bench.strike(signal.SIGKILL, pid), must_prove=True)
    bench.hold()
    guard = eventually(lambda: bench.pids("-I"), "a guardian", every_s=0, say=bench.trouble)
    time.sleep(rng.uniform(0, 0.04))
    with suppress(ProcessLookupError):  # it was through already
        os.kill(guard[0], signal.SIGKILL)
    bench.wait_active(other_than=pid)
    return blow


def _no_plan(bench: Bench, rng: Random) -> Blow:
    bench.begin_run(METHOD)
    time.sleep(rng.uniform(0, RUN_S))
    bench.path(f"{RUN}/safe_plan.json").unlink()
    return _killed(bench)


# --- signals -------------------------------------------------------------------------------------


def _sigint(bench: Bench, rng: Random) -> Blow:
    bench.begin_run(METHOD)
    time.sleep(rng.uniform(0, RUN_S))
    return _interrupted(bench)


def _interrupted(bench: Bench) -> Blow:
    blow = Blow(bench.strike(signal.SIGINT))
    bench.wait_idle()
    return blow


def _sigterm(bench: Bench, rng: Random) -> Blow:
    bench.begin_run(METHOD)
    time.sleep(rng.uniform(0, RUN_S))
    pid = bench.daemon_pid()
    assert pid is not None
    blow = Blow(bench.strike(signal.SIGTERM, pid))
    bench.hold()
    bench.wait_gone(pid)
    time.sleep(0.2)  # the guardian follows a clean end, too
    return blow


# --- what runs inside ----------------------------------------------------------------------------


def _blocked(bench: Bench, rng: Random) -> Blow:
    mark = bench.path(MARK)
    mark.unlink(missing_ok=True)
    text = blocking_experiment(after_s=rng.uniform(0, 1.0), computes=rng.random() < 0.5)
    bench.begin_run(text, name="blocker.experiment.toml")
    pid = bench.daemon_pid()
    at_ns = int(eventually(lambda: _text(mark), "it blocks", within_s=20, say=bench.trouble))
    bench.hold()
    bench.wait_active(other_than=pid)
    return Blow(at_ns, must_prove=True)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# --- the lines -----------------------------------------------------------------------------------


def _port_gone(bench: Bench, rng: Random) -> Blow:
    """The furnace's port vanishes during the abort and is back ten seconds later."""
    bench.begin_run(LONG_METHOD)
    bench.wait_unsafe()
    time.sleep(rng.uniform(0, 1.5))
    if rng.random() < 0.5:
        bench.fault("port_gone", link="furnace_bus")
        at_ns = bench.strike(signal.SIGINT)
    else:
        at_ns = bench.strike(signal.SIGINT)
        bench.fault("port_gone", link="furnace_bus")
    time.sleep(bench.away_s)
    return _back(bench, at_ns, "port_gone", link="furnace_bus")


def _mute(bench: Bench, rng: Random) -> Blow:
    """The furnace falls silent, then the run is aborted or the daemon killed; it speaks again."""
    kind = rng.choice(["silence", "mute"])
    bench.begin_run(LONG_METHOD)
    bench.wait_unsafe()
    time.sleep(rng.uniform(0, 1.5))
    bench.fault(kind, device="furnace")
    pid = bench.daemon_pid()
    killed = rng.random() < 0.5
    at_ns = bench.strike(signal.SIGKILL if killed else signal.SIGINT, pid)
    bench.hold()
    time.sleep(rng.uniform(0.4, 0.9) * bench.away_s)
    return _back(bench, at_ns, kind, device="furnace")


def _back(bench: Bench, at_ns: int, kind: str, **where: str) -> Blow:
    """End the fault, from which the heater's time counts."""
    end_ns = bench.fault(kind, active=False, **where)
    bench.wait_active()
    bench.wait_idle()
    bench.wait_safe()
    time.sleep(0.5)
    bench.clear_trips()
    return Blow(at_ns, later={"heater.setpoint": end_ns})


def _garbage(bench: Bench, rng: Random) -> Blow:
    """Stray bytes in both directions of both serial lines; aborted or killed in the midst of it."""
    bench.begin_run(LONG_METHOD)
    bench.wait_unsafe()
    time.sleep(rng.uniform(0, 1.0))
    kind = rng.choice(["noise", "noise", "crc", "truncate"])
    for link in ("furnace_bus", "gas_bus"):
        bench.fault(kind, link=link, value=20.0 if kind == "noise" else None)
    pid = bench.daemon_pid()
    killed = rng.random() < 0.5
    bench.babble(rng, for_s=rng.uniform(0, 0.3))
    at_ns = bench.strike(signal.SIGKILL if killed else signal.SIGINT, pid)
    bench.hold()
    bench.babble(rng, for_s=1.0)
    for link in ("furnace_bus", "gas_bus"):
        bench.fault(kind, active=False, link=link)
    if killed:
        bench.wait_active(other_than=pid)
    bench.wait_idle()
    bench.wait_safe()
    bench.clear_trips()
    return Blow(at_ns)


# --- the disk ------------------------------------------------------------------------------------


def _disk_full(bench: Bench, rng: Random) -> Blow:
    """The disk of spool and bundles fills up; a run in progress can't be recorded any more."""
    bench.begin_run(LONG_METHOD)
    bench.wait_unsafe()
    time.sleep(rng.uniform(0, 1.5))
    ballast = bench.path(STATE) / "ballast"
    at_ns = time.monotonic_ns()
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    bench.wait_safe()
    ballast.unlink()
    bench.wait_idle()
    bench.clear_trips()
    return Blow(at_ns)


CAMPAIGNS = (
    Campaign("kill-9", "SIGKILL at random instants of a run", 300, _kill_9, 1.0, "proven", 10),
    Campaign(
        "hang", "SIGSTOP at random instants of a run", 30, _hang, WATCHDOG_S + 1.5, "proven", 12
    ),
    Campaign("sigint", "SIGINT at random instants of a run", 100, _sigint, 0.2, "proven", 5),
    Campaign("sigterm", "SIGTERM at random instants of a run", 40, _sigterm, 0.2, "safe", 5),
    Campaign(
        "loop-blocked",
        "a plug-in sleeps or computes in the event loop for ever",
        20,
        _blocked,
        WATCHDOG_S + 1.5,
        "proven",
        12,
    ),
    Campaign(
        "port-gone",
        "the furnace's port gone in the abort, back 10 s later; from its return",
        10,
        _port_gone,
        6.0,
        "proven",
        12,
    ),
    Campaign(
        "mute",
        "the furnace silent while aborted or killed; from its first words",
        10,
        _mute,
        6.0,
        "proven",
        12,
    ),
    Campaign(
        "garbage",
        "noise, bad check sums, cut frames; aborted or killed",
        30,
        _garbage,
        2.0,
        "safe",
        8,
    ),
    Campaign(
        "disk-full", "the disk of spool and bundles fills up", 10, _disk_full, 8.0, "safe", 30
    ),
    Campaign(
        "no-plan", "SIGKILL, and the guardian's plan is missing", 20, _no_plan, 5.0, "proven", 12
    ),
    Campaign(
        "kill-in-start",
        "SIGKILL while it starts, outputs unsafe",
        40,
        _kill_in_start,
        1.0,
        "proven",
        10,
    ),
    Campaign(
        "kill-in-guard",
        "SIGKILL, then SIGKILL of the guardian at work",
        30,
        _kill_in_guard,
        2.0,
        "proven",
        12,
    ),
)
