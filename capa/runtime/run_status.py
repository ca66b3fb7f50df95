"""Once a second, while a run goes on: how its devices are doing, into the bundle.

What changes meanwhile and must not go unseen is an event: a device that answers as another than
before, a wall clock that was set.
"""

import time

import trio

from capa.devices.adapter import Identity
from capa.runtime.active import ActiveRun, Severity
from capa.runtime.rig import Rig
from capa.runtime.run_equipment import identity_facts
from capa.storage.bundle import BundleWriter
from capa.storage.health import device_health_row

__all__ = ["keep_status"]

PERIOD_S = 1.0
CLOCK_STEP_S = 2.0
"""A wall clock that is off by more than this since the last look was set; an NTP client that
slews it takes minutes for as much."""


async def keep_status(
    rig: Rig, bundle: BundleWriter, recording: trio.CancelScope, active: ActiveRun
) -> None:
    """Record the health of every device once a second, until the run is wound up."""
    known = dict(rig.identities)
    ahead_s = _wall_ahead_s()
    with recording:
        while True:
            _note_health(rig, bundle, active)
            known = _note_identities(rig, active, known)
            ahead_s = _note_clock(active, ahead_s)
            await trio.sleep(PERIOD_S)


def _note_health(rig: Rig, bundle: BundleWriter, active: ActiveRun) -> None:
    now_s, now_ns = trio.current_time(), active.clock.t_mono_ns()
    now_utc = active.clock.utc_at(now_ns)
    bundle.write_health(
        [
            device_health_row(name, rig.health(name), t_mono_ns=now_ns, t_utc=now_utc, now_s=now_s)
            for name in rig.devices
        ]
    )


def _note_identities(
    rig: Rig, active: ActiveRun, known: dict[str, Identity]
) -> dict[str, Identity]:
    now = dict(rig.identities)
    for name, identity in now.items():
        before = known.get(name)
        if before == identity:
            continue
        words = f"{name} answers for the first time"
        if before is not None:
            words = f"{name} answers as another than before: was it exchanged?"
        facts = {"device": name, **identity_facts(identity)}
        severity: Severity = "info" if before is None else "warning"
        active.event("device.identified", words, severity=severity, metadata=facts)
    return now


def _wall_ahead_s() -> float:
    """Return the wall clock's distance to the clock that nothing sets; both are the box's own."""
    return time.time() - time.monotonic()


def _note_clock(active: ActiveRun, before_s: float) -> float:
    ahead_s = _wall_ahead_s()
    moved_s = ahead_s - before_s
    if abs(moved_s) < CLOCK_STEP_S:
        return ahead_s
    active.event(
        "clock.stepped",
        f"the wall clock was set by {moved_s:+.1f} s (or the box slept); "
        "the times of this run go on as they were",
        severity="warning",
        metadata={"moved_s": round(moved_s, 3)},
    )
    return ahead_s
