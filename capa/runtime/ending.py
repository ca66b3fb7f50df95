"""What follows the end of every procedure: the safe state proven, the bundle sealed, the report.

Called inside the conductor's shield, which has a deadline.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from capa.config.problems import Problem
from capa.errors import BundleError
from capa.experiment.procedures.base import ProcedureContext
from capa.runtime.active import ActiveRun, Severity
from capa.runtime.gate import Gate
from capa.runtime.report import Outcome, RunReport
from capa.runtime.rig import Rig
from capa.runtime.safe_state import ChannelVerdict, Verdict, drive_safe_state
from capa.runtime.stages import later_words
from capa.storage.bundle import BundleWriter

__all__ = ["FINALIZE_BUDGET_S", "Ending", "Finalize", "Finalized"]

FINALIZE_BUDGET_S = 120.0
_SEVERITY: Mapping[Verdict, Severity] = {
    Verdict.PROVEN: "info",
    Verdict.COMMANDED: "warning",
    Verdict.UNREACHABLE: "error",
}


class Finalized(Protocol):
    """What sealing came to."""

    @property
    def bundle_status(self) -> str:
        """The manifest's ``bundle_status`` afterwards."""
        ...

    @property
    def detail(self) -> str:
        """Why, in words."""
        ...


Finalize = Callable[[Path], Awaitable[Finalized]]


class Ending:
    """How the runs of one rig end.

    Args:
        rig: the rig.
        gate: closed to the run before the safe state is driven.
        safing_budget_s: what driving the safe state may take.
        finalize: seals a closed bundle.
        hear: hears how the safe state ended.
        keep: is given the report, twice: before the bundle is sealed, and after.
        log: a structlog logger.
    """

    def __init__(
        self,
        rig: Rig,
        gate: Gate,
        *,
        safing_budget_s: float,
        finalize: Finalize,
        hear: Callable[[Mapping[str, ChannelVerdict]], None],
        keep: Callable[[ActiveRun, RunReport], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._rig = rig
        self._gate = gate
        self._safing_budget_s = safing_budget_s
        self._finalize = finalize
        self._hear = hear
        self._keep = keep
        self._log = log

    async def make_safe(self, active: ActiveRun) -> None:
        """Close the gate to the run, drive stage one, and keep the verdicts, as values."""
        active.walking, active.ending = False, "driving the safe state"
        self._gate.end_run()
        active.event("authorization.disarmed", f"authorization {active.authorization.id} ended")
        active.rung("the gate was closed to the run; the safe state is driven")
        active.verdicts = await drive_safe_state(
            self._rig, budget_s=self._safing_budget_s, on_write=self._gate.note
        )
        for verdict in active.verdicts.values():
            words = f"{verdict.channel} = {verdict.value:g}: {verdict.verdict}, {verdict.detail}"
            severity = _SEVERITY[verdict.verdict]
            active.event("safe_state.verdict", words, severity=severity, metadata=_plain(verdict))
            active.rung(words, at_s=verdict.at_s)
        self._hear(active.verdicts)

    async def wind_up(self, active: ActiveRun, bundle: BundleWriter, ctx: ProcedureContext) -> None:
        """Record the outcome, close the bundle, have it sealed, and make the report."""
        status, reason = active.outcome()
        active.event(
            "run.ended",
            f"{status}: {reason}",
            severity="info" if status == "completed" else "warning",
            metadata={"run_status": status, "exit_reason": reason},
        )
        active.log.info("run.ended", run_status=status, reason=reason)
        extra = {
            "verdicts": {name: _plain(verdict) for name, verdict in active.verdicts.items()},
            "steps": [asdict(step) for step in active.executor.records],
            "custom": {**active.request.experiment.custom, **ctx.metadata.get("custom", {})},
        }
        active.log.write = None
        await bundle.close(run_status=_recorded(status), exit_reason=reason, extra=extra)
        ended_utc = active.clock.t_utc()  # sealing is no part of the run, however long it takes
        self._keep(active, self._report(active, status, reason, "finalizing", ended_utc))
        active.ending = "sealing the bundle"
        sealed = await self._seal(active, bundle.path)
        self._keep(active, self._report(active, status, reason, sealed, ended_utc))

    async def _seal(self, active: ActiveRun, path: Path) -> str:
        """Seal the bundle; one that is not sealed is left to be finalized again, and says why."""
        why = f"sealing it took more than {FINALIZE_BUDGET_S:g} s"
        status = "finalizing"
        with trio.move_on_after(FINALIZE_BUDGET_S):
            try:
                result = await self._finalize(path)
                status, why = result.bundle_status, result.detail
            except (OSError, BundleError) as error:
                why = str(error)
        if status != "sealed":
            self._log.warning("bundle.not_sealed", bundle=str(path), message=why)
            problem = Problem("bundle.not_sealed", why, blocking=False, where="the bundle")
            active.problems.append(problem)
        return status

    def _report(
        self, active: ActiveRun, status: Outcome, reason: str, sealed: str, ended_utc: datetime
    ) -> RunReport:
        bundle = active.bundle
        return RunReport(
            run_id=None if bundle is None else bundle.run_id,
            run_status=status,
            bundle_status=sealed,
            exit_reason=reason,
            started_utc=active.started_utc,
            ended_utc=ended_utc,
            verdicts=active.verdicts,
            bundle=None if bundle is None else bundle.path,
            problems=tuple(active.problems),
            steps=tuple(active.executor.records),
            raised=tuple(active.raised),
            ladder=active.ladder(),
            later=self._later(active),
            trip=self._gate.trip,
        )

    def _later(self, active: ActiveRun) -> tuple[str, ...]:
        """What follows a run inside a run is the rest of that run."""
        if active.outer is not None:
            return ()
        return later_words(self._rig.profile.safe_state, self._rig.registry)


def _plain(verdict: ChannelVerdict) -> dict[str, Any]:
    return {**asdict(verdict), "verdict": str(verdict.verdict)}


def _recorded(status: Outcome) -> Literal["completed", "aborted", "crashed"]:
    """A refused run has no bundle, so its outcome never gets here."""
    return "crashed" if status == "refused" else status
