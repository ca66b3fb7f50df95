"""The run in progress: what is known of it while it lasts, and what its end is called."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import trio

from capa.clock import RunClock
from capa.config.problems import Problem
from capa.devices.preflight import SettingReport
from capa.experiment.authorization import Authorization
from capa.experiment.executor import MethodExecutor, StepRecord
from capa.experiment.procedures.base import Procedure, ProcedureContext, ResolvedRecordingPlan
from capa.experiment.procedures.live import OperatorCommand
from capa.runtime.ladder import Rung, in_order
from capa.runtime.report import Outcome, RunReport, RunRequest
from capa.runtime.run_log import RunLog
from capa.runtime.safe_state import ChannelVerdict
from capa.runtime.stop import StopSignal
from capa.storage.bundle import BundleWriter

__all__ = ["ActiveRun", "Severity"]

Severity = Literal["info", "warning", "error"]


@dataclass(slots=True)
class ActiveRun:
    """The run in progress, and the facts from which its outcome follows."""

    request: RunRequest
    clock: RunClock
    authorization: Authorization
    executor: MethodExecutor
    log: RunLog
    started_utc: datetime
    outer: "ActiveRun | None" = None
    label: str = ""
    plan: ResolvedRecordingPlan = field(default_factory=ResolvedRecordingPlan)
    report: RunReport | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    second_stop: StopSignal = field(default_factory=StopSignal)
    problems: list[Problem] = field(default_factory=list)
    given_up: trio.Event = field(default_factory=trio.Event)
    """Set once nobody waits for the procedure any more: it was cancelled, or it is over."""
    settings: list[SettingReport] = field(default_factory=list)
    procedure: Procedure | None = None
    ctx: ProcedureContext | None = None
    bundle: BundleWriter | None = None
    walking: bool = False
    returned: bool = False
    failure: str = ""
    ending: str = ""
    """What is done now that the procedure is over, in a word for the status line."""
    verdicts: dict[str, ChannelVerdict] = field(default_factory=dict)
    orders: trio.MemorySendChannel[OperatorCommand] | None = None
    safety: str = ""
    raised: list[str] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)

    def outcome(self) -> tuple[Outcome, str]:
        """Say how the run ended, and why.

        What the safety monitor ended was aborted, whatever the procedure made of it.
        """
        if self.safety:
            return "aborted", "; ".join(part for part in (self.safety, self.failure) if part)
        if self.failure:
            return "crashed", self.failure
        if self.stop.is_set():
            note = "" if self.ctx is None else self.ctx.metadata.get("exit_note", "")
            return "aborted", f"{self.stop.reason}; {note}" if note else self.stop.reason
        if self.returned:
            return "completed", "the procedure ran to its end"
        return "aborted", "the run was cancelled from above"

    @property
    def outermost(self) -> "ActiveRun":
        """The run that the daemon knows of."""
        return self if self.outer is None else self.outer.outermost

    def outward(self) -> "Iterator[ActiveRun]":
        """Yield this run, and those that it is inside of."""
        active: ActiveRun | None = self
        while active is not None:
            yield active
            active = active.outer

    def ask_to_stop(self, reason: str, *, by: str) -> None:
        """Set the stop, or the second one; on record."""
        first = not self.stop.is_set()
        self.event(
            "run.stop_requested" if first else "run.cooldown_ended",
            reason,
            severity="warning",
            metadata={"reason": reason, "source": by},
        )
        self.rung(
            f"stop asked for by {by}: {reason}"
            if first
            else f"stop asked for again by {by}: a cooldown dwell ends ({reason})"
        )
        (self.stop if first else self.second_stop).set(reason)

    def rung(self, words: str, *, at_s: float | None = None) -> None:
        """Note a rung of the ladder, now or at an instant of trio's clock."""
        now_s = trio.current_time() if at_s is None else at_s
        self.rungs.append(Rung(self.clock.utc_at(self.clock.ns_at(now_s)), words))

    def ladder(self) -> tuple[Rung, ...]:
        """Return all rungs in the order of time, with the steps that were left for a stop."""
        left = (
            Rung(
                self.clock.utc_at(step.left_ns),
                f"step {step.index + 1} ({step.kind}) was left"
                + ("" if step.outcome == "stopped" else ", unfinished"),
            )
            for step in self.executor.records
            if step.left_ns is not None and self._left_for_stop(step)
        )
        # At one and the same instant a step is left after the stop and before what follows it.
        return in_order([*self.rungs[:1], *left, *self.rungs[1:]])

    def _left_for_stop(self, step: StepRecord) -> bool:
        """Whether a step was left because of the stop, and not before it."""
        stopped_s = self.stop.set_at_s
        if stopped_s is None or step.left_ns is None or step.outcome == "exited":
            return False
        return step.left_ns >= self.clock.ns_at(stopped_s)

    def event(
        self,
        kind: str,
        message: str,
        *,
        severity: Severity = "info",
        metadata: Mapping[str, Any] | None = None,
        source: str = "conductor",
    ) -> None:
        """Write an event of the conductor's own, or of what speaks through it."""
        if self.bundle is None:
            return
        t_mono_ns = self.clock.t_mono_ns()
        self.bundle.write_event(
            kind=kind,
            message=message,
            severity=severity,
            source=source,
            t_mono_ns=t_mono_ns,
            t_utc=self.clock.utc_at(t_mono_ns),
            metadata=metadata,
        )
