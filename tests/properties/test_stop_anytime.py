"""The promise itself: stopped at any instant, every output ends at its safe value.

Asked of the twins, not of the daemon. One example runs in real time, with the recorder's threads
and the finalizing child, and must end in a sealed bundle.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from capa.config.hardware import HardwareProfile
from capa.runtime.conductor import Conductor
from capa.runtime.report import RunReport
from capa.runtime.safe_state import all_proven
from capa.storage.finalize import finalize_in_child
from tests.support.engine import bench_rig, conductor, method, profile, request, virtual

HEATER, PURGE = {"name": "heater.setpoint"}, {"name": "purge.flow"}
TRIAL = method(
    {"kind": "setpoint", "target": PURGE, "value": 150.0},
    {"kind": "ramp", "target": HEATER, "end_value": 300.0, "duration_s": 10.0},
    {"kind": "hold", "target": HEATER, "value": 320.0, "duration_s": 10.0},
    {"kind": "ramp", "target": PURGE, "end_value": 60.0, "rate_per_second": 10.0},
    {"kind": "safe_shutdown", "cool_target": {"heater.setpoint": 40.0}, "duration_s": 5.0},
)
LASTS_S = 37.0
UNTOUCHED_degC = 24.0
anywhere_s = st.one_of(st.floats(0, 0.3), st.floats(10, 10.3), st.floats(0, LASTS_S + 5))
latency_s = st.floats(0.0, 0.3)

Ended = tuple[dict[str, float], RunReport | None, dict[str, Any] | None]


def slow_profile(furnace_s: float, mfc_s: float) -> HardwareProfile:
    """Make the bench with instruments that take their time to answer."""
    table = profile().model_dump()
    table["devices"][0]["twin"] = {"reply_delay_s": furnace_s}
    table["devices"][1]["twin"] = {"reply_delay_s": mfc_s}
    return profile(devices=table["devices"])


def run_and_end(
    how: str, at_s: float, *, furnace_s: float = 0.01, mfc_s: float = 0.001, again_s: float = 0.0
) -> Ended:
    """Run the trial, end it at an instant; return the twins' outputs, the report, the manifest."""

    async def scenario() -> Ended:
        with tempfile.TemporaryDirectory() as runs:
            async with bench_rig(slow_profile(furnace_s, mfc_s)) as (rig, twins):
                one = conductor(rig, Path(runs))
                await _run(one, how, at_s, again_s)
                outputs, report = twins.outputs(), one.last_report
            manifest = None
            if report is not None and report.bundle is not None:
                manifest = json.loads((report.bundle / "manifest.json").read_text())
            return outputs, report, manifest

    return virtual(scenario)


async def _run(one: Conductor, how: str, at_s: float, again_s: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run, request(TRIAL))
        await trio.sleep(at_s)
        if how == "cancel":
            nursery.cancel_scope.cancel()
            return
        one.stop("the operator's Ctrl-C")
        await trio.sleep(again_s)
        one.stop("and again")


def assert_safe_and_closed(
    outputs: dict[str, float], report: RunReport | None, manifest: dict[str, Any] | None
) -> None:
    assert outputs["mfc.setpoint"] == 0.0
    if manifest is None:  # ended before it was armed: nothing was ever written
        assert outputs["furnace.setpoint"] == pytest.approx(UNTOUCHED_degC, abs=0.1)
        return
    assert outputs["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
    assert report is not None
    assert all_proven(report.verdicts)
    assert set(report.verdicts) == {"heater.setpoint", "purge.flow"}
    assert manifest["run_status"] == report.run_status
    assert manifest["verdicts"]["heater.setpoint"]["verdict"] == "proven"
    assert manifest["recorder"]["events_lost"] == 0


@settings(max_examples=60, deadline=None)
@given(at_s=anywhere_s, furnace_s=latency_s, mfc_s=latency_s, again_s=st.floats(0, 12))
def test_whenever_a_run_is_stopped_every_output_ends_safe(
    at_s: float, furnace_s: float, mfc_s: float, again_s: float
) -> None:
    outputs, report, manifest = run_and_end(
        "stop", at_s, furnace_s=furnace_s, mfc_s=mfc_s, again_s=again_s
    )
    assert_safe_and_closed(outputs, report, manifest)
    assert report is not None
    assert report.run_status in ("aborted", "completed")


@settings(max_examples=60, deadline=None)
@given(at_s=anywhere_s, furnace_s=latency_s, mfc_s=latency_s)
def test_whenever_a_run_is_cancelled_from_above_every_output_ends_safe(
    at_s: float, furnace_s: float, mfc_s: float
) -> None:
    assert_safe_and_closed(*run_and_end("cancel", at_s, furnace_s=furnace_s, mfc_s=mfc_s))


async def test_in_real_time_a_stopped_run_ends_safe_and_sealed(tmp_path: Path) -> None:
    async with bench_rig() as (rig, twins):
        one = conductor(rig, tmp_path, threaded=True, finalize=finalize_in_child)
        await _run(one, "stop", 1.5, 0.1)
        outputs, report = twins.outputs(), one.last_report
    assert report is not None
    assert report.bundle is not None
    assert (report.run_status, report.bundle_status) == ("aborted", "sealed")
    assert outputs["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
    for line in (report.bundle / "manifest.sha256").read_text().splitlines():
        digest, name = line.split(maxsplit=1)
        content = (report.bundle / name.lstrip("*")).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
