"""Runs inside a run, as a procedure asks for them: a batch of replicates."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from capa.config.problems import Problem
from capa.config.write import experiment_text, method_text
from capa.experiment.procedures.base import InnerOutcome, InnerRun
from capa.runtime.report import RunReport, RunRequest
from capa.runtime.safe_state import Verdict

__all__ = ["InnerRunner"]


@dataclass(frozen=True, slots=True)
class InnerRunner:
    """Makes the request of an inner run out of the outer one's, and its report an outcome.

    Args:
        outer: the request of the run that they are inside of.
        checker: finds what would refuse a request.
        conduct: conducts a request, by its label, to the report.
    """

    outer: RunRequest
    checker: Callable[[RunRequest], Awaitable[list[Problem]]]
    conduct: Callable[[RunRequest, str], Awaitable[RunReport]]

    async def check(self, run: InnerRun) -> list[Problem]:
        """Return what would refuse this run for its own sake, without touching the rig."""
        request = self._request(run)
        same = run.experiment.method == self.outer.experiment.method
        text = self.outer.method_text if same else None
        source = self.outer.source_name  # a problem is of the file, not of one replicate
        return await self.checker(replace(request, source_name=source, method_text=text))

    async def run(self, run: InnerRun) -> InnerOutcome:
        """Conduct a run to its end, however it ends."""
        report = await self.conduct(self._request(run), run.label)
        unreachable = (
            name
            for name, verdict in report.verdicts.items()
            if verdict.verdict is Verdict.UNREACHABLE
        )
        return InnerOutcome(
            run_id=report.run_id,
            run_status=report.run_status,
            bundle_status=report.bundle_status,
            exit_reason=report.exit_reason,
            unreachable=tuple(unreachable),
        )

    def _request(self, run: InnerRun) -> RunRequest:
        method = run.experiment.method
        text = None if method is None else self.outer.method_text
        if method is not None and (text is None or method != self.outer.experiment.method):
            text = method_text(method)
        return RunRequest(
            experiment=run.experiment,
            source_name=f"{self.outer.source_name} ({run.label})",
            method_text=text,
            hardware_text=self.outer.hardware_text,
            config_text=experiment_text(run.experiment),
            operator_id=self.outer.operator_id,
        )
