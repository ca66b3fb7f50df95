"""The promise of safety, for the heat-flux tune: stopped at any instant."""

import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from capa.experiment.procedures.builtin.heat_flux_tune import HeatFluxTune, keeper
from capa.runtime.report import RunReport
from capa.runtime.safe_state import all_proven
from tests.support.cone import artifact, cone_rig
from tests.support.engine import conductor, request, virtual

CONFIG = {
    "targets_kw_m2": [20.0, 35.0],
    "t_set_max_c": 900.0,
    "window_s": 10.0,
    "min_settle_s": 5.0,
    "ramp_c_per_min": 3000.0,
}


async def stopped_run(runs: Path, stop_at_s: float) -> tuple[RunReport, float]:
    async with cone_rig() as (rig, twins), trio.open_nursery() as nursery:
        one = conductor(rig, runs, procedures={HeatFluxTune.id: HeatFluxTune}, grace_s=600.0)

        async def stop() -> None:
            await trio.sleep(stop_at_s)
            one.stop("SIGINT")

        nursery.start_soon(stop)
        report = await one.run(request(None, procedure=HeatFluxTune.id, config=dict(CONFIG)))
        nursery.cancel_scope.cancel()
        return report, twins.outputs()["cone.setpoint"]


@settings(max_examples=20, deadline=None)
@given(stop_at_s=st.floats(0.0, 120.0))
def test_whenever_a_tune_is_stopped_the_heater_ends_safe_and_its_file_is_whole(
    stop_at_s: float,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            keeper, "SAVE_BUDGET_S", float("inf")
        )  # virtual seconds pass as a disk writes
        runs = Path(folder) / "runs"
        report, setpoint_c = virtual(lambda: stopped_run(runs, stop_at_s))
        assert setpoint_c == pytest.approx(20.0, abs=0.1)
        assert all_proven(report.verdicts)
        if report.run_id is None:  # stopped before it was armed: there is nothing to keep
            return
        found = artifact(runs)
        assert found["status"] == report.run_status
        for target in found["targets"]:
            if target["status"] == "converged":
                assert target["flux_kw_m2"] == pytest.approx(target["target_kw_m2"], abs=0.5)
