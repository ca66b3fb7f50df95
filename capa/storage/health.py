"""Rows of ``status.sqlite``: once a second, how each device is doing, and the recorder itself."""

import json
from datetime import datetime
from typing import NamedTuple

from capa.devices.adapter import DeviceHealth

__all__ = ["DeviceHealthRow", "RecorderHealthRow", "device_health_row"]


class DeviceHealthRow(NamedTuple):
    """How one device is doing; ``last_ok_age_s`` is None before its first answer."""

    t_mono_ns: int
    t_utc: str
    device: str
    state: str
    detail: str
    polls: int
    failures: int
    consecutive_failures: int
    last_ok_age_s: float | None
    counters_json: str


class RecorderHealthRow(NamedTuple):
    """How far the recorder is behind the run."""

    t_mono_ns: int
    t_utc: str
    queue_depth: int
    lag_s: float
    pending_samples: int
    dropped_samples: int
    failures: int


def device_health_row(
    device: str, health: DeviceHealth, *, t_mono_ns: int, t_utc: datetime, now_s: float
) -> DeviceHealthRow:
    """Make a row of what the rig knows of a device; ``now_s`` is trio's clock."""
    ok_at_s = health.last_ok_at_s
    return DeviceHealthRow(
        t_mono_ns,
        t_utc.isoformat(),
        device,
        str(health.state),
        health.detail,
        health.polls,
        health.failures,
        health.consecutive_failures,
        None if ok_at_s is None else round(now_s - ok_at_s, 3),
        json.dumps(health.counters),
    )
