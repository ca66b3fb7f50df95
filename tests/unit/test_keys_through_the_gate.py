"""A method that tares and selects a gas: through the gate, on record, and seen in the channels."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from trio.testing import MockClock

from capa.channels.registry import ChannelRegistry
from capa.channels.sample import Sample
from capa.config.hardware import HardwareProfile
from capa.runtime.safety_book import RuleBook
from capa.runtime.safety_rules import OutputRule
from tests.support.engine import FAMILIES, bench_rig, conductor, method, profile, request


def action(name: str, device: str, field: str, command: str, most: float) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "other",
        "unit": "1",
        "device": device,
        "field": field,
        "command": command,
        "limits": {"min": 0.0, "max": most},
        "safe": "leave",
    }


def bench() -> HardwareProfile:
    plain = profile().model_dump(exclude_unset=True)
    for device in plain["devices"]:
        if device["name"] == "mfc":
            device["options"] = {"gas_command": "G"}
    plain["channels"] = [
        *plain["channels"],
        action("balance.tare", "balance", "tare", "tare", 1.0),
        action("purge.gas", "mfc", "gas", "set_gas", 255.0),
    ]
    return HardwareProfile.model_validate(plain)


async def test_a_method_tares_and_selects_a_gas_and_every_command_is_on_record(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    steps = [
        {"kind": "setpoint", "target": {"name": "balance.tare"}, "value": 1.0},
        {"kind": "setpoint", "target": {"name": "purge.gas"}, "value": 1.0},
        {"kind": "acquire", "duration_s": 8.0},
    ]
    async with bench_rig(bench()) as (rig, _):
        report = await conductor(rig, tmp_path).run(request(method(*steps)))
        seen = {
            name: rig.bus.latest(name) for name in ("balance.tare", "purge.gas", "balance.mass")
        }
    assert report.run_status == "completed"
    assert all(isinstance(sample, Sample) and sample.usable for sample in seen.values())
    values = {name: sample.value for name, sample in seen.items() if sample is not None}
    assert values == {"balance.tare": 1.0, "purge.gas": 1.0, "balance.mass": 0.0}
    assert report.bundle is not None
    db = sqlite3.connect(report.bundle / "events.sqlite")
    rows = db.execute("select metadata_json from events where kind = 'command.result'")
    results = [json.loads(text) for (text,) in rows]
    db.close()
    done = {one["channel"]: one for one in results if one["command"] in {"tare", "set_gas"}}
    assert {name: one["accepted"] for name, one in done.items()} == {
        "balance.tare": True,
        "purge.gas": True,
    }
    assert done["purge.gas"]["readback"] == 1.0
    assert all(one["authorization_id"] for one in done.values())


async def test_a_key_pressed_otherwise_than_with_one_fails_the_step(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with bench_rig(bench()) as (rig, _):
        steps = [{"kind": "setpoint", "target": {"name": "balance.tare"}, "value": 0.5}]
        report = await conductor(rig, tmp_path).run(request(method(*steps)))
        masses = rig.bus.latest("balance.mass")
    assert report.run_status != "completed"
    assert masses is not None
    assert masses.value > 0.1


def test_a_key_is_not_watched_as_an_output_that_must_read_what_was_commanded() -> None:
    registry = ChannelRegistry.from_profile(bench(), FAMILIES)
    book = RuleBook.of(bench(), registry, commanded=lambda _: [], now_s=0.0)
    watched = {
        tracker.rule.channels[0]
        for tracker in book._trackers
        if isinstance(tracker.rule, OutputRule)
    }
    assert "balance.tare" not in watched
    assert {"heater.setpoint", "purge.gas"} <= watched
