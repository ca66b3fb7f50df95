"""What a run's bundle begins with, and what is recorded into it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from capa.channels.sample import Sample
from capa.experiment.procedures.base import Procedure, ResolvedRecordingPlan
from capa.runtime.active import ActiveRun
from capa.runtime.databus import Tap
from capa.runtime.report import RunRequest
from capa.runtime.rig import Rig
from capa.runtime.run_equipment import equipment_text
from capa.storage.bundle import BundleWriter

__all__ = ["files_of", "manifest_of", "tap_of"]


def tap_of(bundle: BundleWriter, plan: ResolvedRecordingPlan) -> Tap:
    """Return what hands samples to the recorder: all of them, or those the procedure planned."""
    if plan.channel_mode == "all":
        return bundle.write_samples
    wanted = frozenset(plan.recorded_channels)

    def only_planned(samples: Sequence[Sample]) -> None:
        bundle.write_samples([sample for sample in samples if sample.channel in wanted])

    return only_planned


def files_of(request: RunRequest, rig: Rig) -> dict[str, str]:
    """Return the texts that are kept in the bundle as they are, by file name."""
    files = {
        "config.toml": request.config_text,
        "hardware.toml": request.hardware_text,
        "equipment.toml": equipment_text(rig),
    }
    if request.method_text is not None:
        files["method.toml"] = request.method_text
    return files


def manifest_of(active: ActiveRun, procedure: Procedure, rig: Rig) -> dict[str, Any]:
    """Return what the manifest says of a run before it begins."""
    experiment = active.request.experiment
    return {
        "operator": {**experiment.operator.model_dump(), "id": active.request.operator_id},
        "sample": experiment.sample,
        "tags": experiment.tags,
        "procedure": {
            "id": procedure.id,
            "version": procedure.version,
            "config": experiment.procedure.config,
        },
        "method": None if experiment.method is None else experiment.method.name,
        "profile": rig.profile.name,
        "authorization_id": active.authorization.id,
        "problems": [asdict(problem) for problem in active.problems],
        "settings": [asdict(report) for report in active.settings],
        "custom": experiment.custom,
        "source": active.request.source_name,
        "job": active.request.job_id,
    }
