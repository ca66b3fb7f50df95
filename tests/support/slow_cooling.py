"""A rig whose purge stays on after a run until a time-out."""

import tomllib
from pathlib import Path

import tomli_w

from tests.support.daemon_process import Twin

__all__ = ["PURGE", "slow_to_cool"]

PURGE = """
[[steps]]
kind = "setpoint"
value = 60.0
target = { name = "purge.flow" }
"""
"""Steps that leave the purge on."""


def slow_to_cool(twin: Twin, tmp_path: Path, wait_s: float) -> Path:
    """A profile whose purge stays until the time-out, since no furnace gets that cold."""
    data = tomllib.loads(twin.profile.read_text())
    data["safe_state"][1]["when"]["value"] = -90.0
    data["safe_state"][1]["timeout_s"] = wait_s
    profile = tmp_path / "profile.toml"
    profile.write_text(tomli_w.dumps(data))
    return profile
