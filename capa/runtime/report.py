"""What is asked of the conductor, and what it says when the run is over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from capa.config.experiment import ExperimentConfig
from capa.config.problems import Problem
from capa.experiment.executor import StepRecord
from capa.runtime.ladder import Rung
from capa.runtime.safe_state import ChannelVerdict

__all__ = ["Outcome", "RunReport", "RunRequest"]

Outcome = Literal["completed", "aborted", "crashed", "refused"]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run, as its file wants it; the texts are kept in the bundle as they are."""

    experiment: ExperimentConfig
    source_name: str
    method_text: str | None
    hardware_text: str
    config_text: str
    operator_id: str
    job_id: str | None = None
    """The job of the spool that asks for it."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run ended. A refused one has no id, no bundle, and its problems.

    ``bundle_status`` is ``sealed`` or ``verification_failed`` as the finalizer found it, another
    state of the manifest where it did not get so far, ``none`` without a bundle.
    """

    run_id: str | None
    run_status: Outcome
    bundle_status: str
    exit_reason: str
    started_utc: datetime
    ended_utc: datetime
    verdicts: Mapping[str, ChannelVerdict] = field(default_factory=dict)
    bundle: Path | None = None
    problems: tuple[Problem, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    raised: tuple[str, ...] = ()
    """What the safety monitor raised meanwhile, in its words."""
    ladder: tuple[Rung, ...] = ()
    """How it was brought to its end, from the stop on; in the order of time."""
    later: tuple[str, ...] = ()
    """What of the safe state was still to come when the run was over, and when."""
    trip: str = ""
    """What was latched when the run was over; empty when nothing was."""
