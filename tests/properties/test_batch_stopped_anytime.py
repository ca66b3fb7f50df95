"""Stopped or cancelled at any instant, between runs too, a batch leaves the rig safe."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from capa.config.experiment import ExperimentConfig, ProcedureRef
from capa.experiment.procedures.builtin.batch import Batch
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.runtime.report import RunReport, RunRequest
from tests.support.engine import bench_rig, conductor, method, virtual

SHORT = method(
    {"kind": "ramp", "target": {"name": "heater.setpoint"}, "end_value": 90.0, "duration_s": 3.0}
)
LASTS_S = 17.0
BATCH = RunRequest(
    experiment=ExperimentConfig(
        method=SHORT,
        procedure=ProcedureRef(
            id=Batch.id, config={"replicates": 3, "cooldown_s": 4.0, "fail_fast": False}
        ),
    ),
    source_name="series",
    method_text=None,
    hardware_text="",
    config_text="",
    operator_id="maria",
)
Ended = tuple[dict[str, float], RunReport | None, list[dict[str, Any]]]


def batch_ended(how: str, at_s: float) -> Ended:
    """Run three replicates, end them at an instant; return outputs, report and manifests."""

    async def scenario() -> Ended:
        with tempfile.TemporaryDirectory() as folder:
            runs = Path(folder)
            async with bench_rig() as (rig, twins):
                procedures = {one.id: one for one in (Batch, RecipeRunner)}
                one = conductor(rig, runs, procedures=procedures)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.run, BATCH)
                    await trio.sleep(at_s)
                    if how == "cancel":
                        nursery.cancel_scope.cancel()
                    else:
                        one.stop("the operator's Ctrl-C")
                assert one.bundle is None
                return twins.outputs(), one.last_report, _manifests(runs)

    return virtual(scenario)


def _manifests(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(runs.glob("*/manifest.json"))]


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_whenever_a_batch_ends_every_run_of_it_has_ended_and_the_rig_is_safe(how: str) -> None:
    @settings(max_examples=30, deadline=None)
    @given(at_s=st.one_of(st.floats(0, LASTS_S), st.floats(3.0, 3.4), st.floats(7.0, 7.6)))
    def ends_safe(at_s: float) -> None:
        outputs, report, manifests = batch_ended(how, at_s)
        if manifests:
            assert outputs["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)
            assert report is not None
        for manifest in manifests:
            assert manifest["run_status"] in ("completed", "aborted")
            assert {one["verdict"] for one in manifest["verdicts"].values()} == {"proven"}
        if how == "stop":
            assert report is not None
            assert report.run_status in ("completed", "aborted")

    ends_safe()
