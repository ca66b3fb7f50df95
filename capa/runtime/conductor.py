"""One run from arming to the sealed bundle, inside a rig that outlives it.

However the procedure ends (returns, raises, ignores a stop, is cancelled from above), the same
follows, in bounded shields: the gate is closed to the run, the safe state is driven and its
verdicts recorded as values, the recorder is drained, the bundle is sealed by a child process.

The run's authorization ends *before* the safe state is driven, not after it: nothing that a
procedure left behind in a link's queue may follow the safe value.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from capa.config.problems import Problem
from capa.experiment.hold import Hold
from capa.experiment.procedures.base import Procedure, ProcedureContext, ProcedureError
from capa.experiment.procedures.live import SAFETY_MONITOR, OperatorCommand
from capa.runtime.active import ActiveRun, Severity
from capa.runtime.arming import PREFLIGHT_BUDGET_S
from capa.runtime.databus import Tap
from capa.runtime.ending import FINALIZE_BUDGET_S, Ending, Finalize
from capa.runtime.gate import Gate
from capa.runtime.inner import InnerRunner
from capa.runtime.preparing import Preparing
from capa.runtime.progress import RunProgress, progress_of
from capa.runtime.report import RunReport, RunRequest
from capa.runtime.rig import Rig
from capa.runtime.run_files import tap_of
from capa.runtime.run_status import keep_status
from capa.runtime.safe_state import ChannelVerdict
from capa.runtime.safety_book import RuleBook
from capa.runtime.views import event_view
from capa.runtime.walking import Walk, record
from capa.storage.bundle import BundleWriter
from capa.storage.finalize import finalize_in_child

__all__ = ["Conductor", "RunReport", "RunRequest"]

CLOSE_BUDGET_S = 15.0
DEAF_S = 1.0
"""How long a cancelled procedure may take to let go before the rig is made safe beside it."""


class Later(Protocol):
    """What drives the later stages of the safe state; see ``capa.runtime.stages``."""

    async def pause(self) -> str:
        """Wait for nothing any more; returns why a run must not begin, in words."""
        ...

    def call_off(self) -> Sequence[str]:
        """Give up what was due, since a run begins; returns it in words."""
        ...

    def go_on(self, after: str | None, verdicts: Mapping[str, ChannelVerdict]) -> None:
        """Begin anew after a run; or, where none came to be (None), wait on as before."""
        ...


class Conductor:
    """Runs one request at a time. ``last_report`` survives even a cancelled ``run``.

    Args:
        rig: the open rig.
        procedures: the procedures there are, by id.
        runs_root: where bundles go.
        grace_s: how long a procedure may take to return after a stop before it is cancelled.
        safing_budget_s: how long driving the safe state may take.
        log: a structlog logger.
        on_progress: called when a step begins, ends, or knows more.
        gate: the rig's gate; one is made when there is none.
        rules: the safety monitor's, for what steps override of them.
        finalize: seals a closed bundle; a child process by default.
        threaded: whether the recorder has threads of its own; not in virtual time.
    """

    def __init__(
        self,
        rig: Rig,
        *,
        procedures: Mapping[str, type[Procedure]],
        runs_root: Path,
        grace_s: float,
        safing_budget_s: float,
        log: FilteringBoundLogger,
        on_progress: Callable[[RunProgress], None] | None = None,
        gate: Gate | None = None,
        rules: RuleBook | None = None,
        finalize: Finalize = finalize_in_child,
        threaded: bool = True,
    ) -> None:
        self._rig = rig
        self._grace_s = grace_s
        self._safing_budget_s = safing_budget_s
        self._on_progress = on_progress
        self.gate = Gate(rig, log=log) if gate is None else gate
        self.rules = rules
        self._hold = Hold()
        self.on_verdicts: Callable[[Mapping[str, ChannelVerdict]], None] | None = None
        """Hears how each run's safe state ended; the safety monitor's."""
        self.forbidding: Callable[[], Mapping[str, str]] | None = None
        """Says what forbids arming just now, by rule; the safety monitor's."""
        self.later: Later | None = None
        """Drives the later stages of the safe state between runs."""
        self._preparing = Preparing(
            rig,
            self.gate,
            rules,
            procedures=procedures,
            runs_root=runs_root,
            hold=self._hold,
            threaded=threaded,
            forbidding=lambda: {} if self.forbidding is None else self.forbidding(),
            inner_runs=self._inner_runs,
            on_step=self._stepped,
            log=log,
        )
        self._ending = Ending(
            rig,
            self.gate,
            safing_budget_s=safing_budget_s,
            finalize=finalize,
            hear=self._heard,
            keep=self._keep,
            log=log,
        )
        self._active: ActiveRun | None = None
        self.last_report: RunReport | None = None

    @property
    def progress(self) -> RunProgress | None:
        """Where the run in progress is; None between runs."""
        active = self._active
        bundle = None if active is None else active.outermost.bundle
        if active is None or bundle is None:
            return None
        status = "" if active.ctx is None else str(active.ctx.metadata.get("status", ""))
        return progress_of(
            bundle.run_id,
            active.executor,
            self._rig.bus,
            self._rig.registry,
            within=active.label,
            status=status,
            ending=active.ending,
        )

    @property
    def metadata(self) -> dict[str, Any] | None:
        """Return the run's scratch pad, on which a prompt is confirmed; None between runs."""
        return self._active.ctx.metadata if self._active and self._active.ctx else None

    @property
    def bundle(self) -> BundleWriter | None:
        """The bundle being recorded, for its health; None between runs."""
        return self._active.bundle if self._active else None

    @property
    def recorder_beat_at_s(self) -> float | None:
        """When the recorder last showed life; None where nobody has to wait for it.

        What follows a run that was given up for its recorder must not be killed for it.
        """
        active = self._active
        if active is None or active.bundle is None or not active.walking:
            return None
        return active.bundle.health.heartbeat_at_s

    def stop(self, reason: str, *, by: str = "an operator") -> None:
        """Ask the run to stop; asked again, end the cool-down dwell of what follows the stop.

        A run inside the run is stopped with it. ``by`` is who or what asks, for the record.
        """
        active = self._active
        if active is not None and not active.stop.is_set():
            self.gate.recall("the run was asked to stop")
        for one in self._all():
            one.ask_to_stop(reason, by=by)

    def tell(self, command: OperatorCommand) -> bool:
        """Hand an operator's command to the procedure that runs, the inner one if there is one.

        Returns False when nothing runs, or when it does not listen to what it was told before.
        """
        orders = None if self._active is None else self._active.orders
        if orders is None:
            return False
        try:
            orders.send_nowait(command)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True

    def _all(self) -> Iterator[ActiveRun]:
        """Yield the run in progress, and those that it is inside of; none between runs."""
        if self._active is not None:
            yield from self._active.outward()

    # --- for the safety monitor -----------------------------------------------------------------

    @property
    def run_id(self) -> str | None:
        """The id of the run in progress, the inner one if there is one; None between runs."""
        return None if self.bundle is None else self.bundle.run_id

    @property
    def recorder_lag_s(self) -> float | None:
        """How far the recorder is behind the run; None between runs."""
        return None if self.bundle is None else self.bundle.health.lag_s

    def safety_stop(self, reason: str, *, at_once: bool) -> bool:
        """Stop the run for safety's sake; ``at_once`` forgoes a cooldown dwell.

        Returns False when nothing runs. A stop that is under way is not hurried by another.
        """
        for active in self._all():
            if not (active.safety or active.returned or active.failure):
                active.safety = f"{active.stop.reason}; {reason}".removeprefix("; ")
            if not active.stop.is_set():
                active.ask_to_stop(reason, by="the safety monitor")
            if at_once and not active.second_stop.is_set():
                active.rung("a cooldown dwell is forgone: the safe state is driven at once")
                active.second_stop.set(reason)
        return self._active is not None

    def safety_event(
        self, kind: str, message: str, *, severity: Severity, metadata: Mapping[str, Any]
    ) -> None:
        """Put an event of the safety monitor into the bundles of the run and those around it."""
        for active in self._all():
            if kind == "safety.raised":
                active.raised.append(message)
            active.event(kind, message, severity=severity, metadata=metadata, source="safety")

    def hold_method(self, reason: str) -> None:
        """Hold the method that runs, and those to come; an empty reason lets them go on."""
        was = self._hold.is_set()
        if reason:
            self._hold.set(reason)
        else:
            self._hold.release()
        if was != bool(reason) and self._active is not None:
            kind = "method.held" if reason else "method.released"
            self._active.event(kind, reason or "the method goes on", severity="warning")
            self.tell(OperatorCommand("pause" if reason else "resume", SAFETY_MONITOR))

    async def run(self, request: RunRequest) -> RunReport:
        """Conduct one run; its end, good or bad, is the report, not an exception."""
        if self._active is not None:
            raise RuntimeError("a run is in progress; one rig conducts one run at a time")
        self.last_report = None
        active = self._active = self._preparing.begin(request)
        try:
            if self.later is not None and (why := await self.later.pause()):
                active.problems.append(Problem(code="rig.safe_state_kept", message=why))
            return await self._conducted(active)
        finally:
            self._active = None
            if self.later is not None:
                self.later.go_on(self._ran(active), active.verdicts)

    @staticmethod
    def _ran(active: ActiveRun) -> str | None:
        """Return the id of a run that came to be; None of one that was refused."""
        return None if active.bundle is None else active.bundle.run_id

    async def _conducted(self, active: ActiveRun) -> RunReport:
        if not await self._preparing.arm(active):
            return self._refused(active)
        await self._conduct(active)
        if active.report is None:
            raise RuntimeError("the run ended without a report")
        return active.report

    # --- runs inside a run ----------------------------------------------------------------------

    async def _run_inner(self, outer: ActiveRun, request: RunRequest, label: str) -> RunReport:
        """Conduct a run inside another, whose authorization is out of force meanwhile.

        It comes into force again only when the inner run's safe state has been driven.
        """
        if self._active is not outer or outer.bundle is None:
            raise ProcedureError(f"{label}: inner runs are started by run(), one at a time")
        suspended = self.gate.suspend()
        inner = self._active = self._preparing.begin(request, outer=outer, label=label)
        try:
            if outer.stop.is_set():
                message = f"a stop was asked for before {label} began ({outer.stop.reason})"
                inner.problems.append(Problem(code="run.stopped", message=message))
                return self._refused(inner)
            return await self._conducted(inner)
        finally:
            self._active = outer
            self.gate.resume(suspended)

    async def _check_inner(self, outer: ActiveRun, request: RunRequest) -> list[Problem]:
        """Check a run that is to come; half of preflight's time, as this happens within it."""
        inner = self._preparing.begin(request, outer=outer)
        try:
            await self._preparing.checked(inner, budget_s=PREFLIGHT_BUDGET_S / 2)
        finally:
            inner.authorization.disarm()
        return inner.problems

    def _inner_runs(self, active: ActiveRun) -> InnerRunner:
        return InnerRunner(
            outer=active.request,
            checker=partial(self._check_inner, active),
            conduct=partial(self._run_inner, active),
        )

    # --- the run ---------------------------------------------------------------------------------

    async def _conduct(self, active: ActiveRun) -> None:
        """Walk, then wind up; no checkpoint lies between the open bundle and the ``try``."""
        bundle, ctx, procedure = active.bundle, active.ctx, active.procedure
        if bundle is None or ctx is None or procedure is None:
            raise RuntimeError("a run is conducted only once it is armed")
        recording, status = trio.CancelScope(shield=True), trio.CancelScope(shield=True)
        budget_s = self._safing_budget_s + CLOSE_BUDGET_S + FINALIZE_BUDGET_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(record, bundle, recording, active)
            nursery.start_soon(keep_status, self._rig, bundle, status, active)
            tap = tap_of(bundle, active.plan)
            over = trio.Event()
            nursery.start_soon(self._safe_beside, active, over)
            try:
                self._start(active, bundle, ctx, procedure, tap)
                await self._walk_of(active).run(procedure, ctx)
            finally:
                over.set()
                active.given_up.set()
                with trio.move_on_after(budget_s, shield=True):
                    await self._ending.make_safe(active)
                    self._rig.bus.remove_tap(tap)
                    self._rig.remove_readings_tap(bundle.write_records)
                    status.cancel()
                    await self._ending.wind_up(active, bundle, ctx)
                status.cancel()
                recording.cancel()

    async def _safe_beside(self, active: ActiveRun, over: trio.Event) -> None:
        """Make the rig safe beside a procedure that was cancelled and does not let go.

        One that shields itself can't be ended; what it commands is refused from here on.
        """
        try:
            await active.given_up.wait()
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(DEAF_S):
                    await over.wait()
                if not over.is_set():
                    active.rung("the procedure shields itself: the rig is made safe beside it")
                    await self._ending.make_safe(active)

    def _start(
        self,
        active: ActiveRun,
        bundle: BundleWriter,
        ctx: ProcedureContext,
        procedure: Procedure,
        tap: Tap,
    ) -> None:
        ctx.bundle_writer = event_view(bundle)
        active.log.write = bundle.log
        self.gate.begin_run(active.authorization, bundle, active.clock)
        self._rig.start_run()
        self._rig.bus.add_tap(tap)
        self._rig.add_readings_tap(bundle.write_records)
        active.event(
            "run.armed",
            f"{active.request.source_name}: {procedure.id} in the name of "
            f"{active.authorization.issued_by}",
            metadata={"authorization_id": active.authorization.id, "procedure": procedure.id},
        )
        for problem in active.problems:
            active.event("run.problem", str(problem), severity="warning", metadata=asdict(problem))
        for report in active.settings:
            if report.written:
                active.event("setting.enforced", str(report), metadata=asdict(report))
        if self.later is not None and active.outer is None:
            for words in self.later.call_off():
                active.event("safe_state.called_off", words, severity="warning")

    def _refused(self, active: ActiveRun) -> RunReport:
        active.authorization.disarm()
        blocking = [str(problem) for problem in active.problems if problem.blocking]
        report = RunReport(
            run_id=None,
            run_status="refused",
            bundle_status="none",
            exit_reason="; ".join(blocking),
            started_utc=active.started_utc,
            ended_utc=active.clock.t_utc(),
            problems=tuple(active.problems),
        )
        self._keep(active, report)
        return report

    def _keep(self, active: ActiveRun, report: RunReport) -> None:
        active.report = report
        if active.outer is None:
            self.last_report = report

    def _stepped(self) -> None:
        if self._on_progress is not None and (progress := self.progress) is not None:
            self._on_progress(progress)

    def _walk_of(self, active: ActiveRun) -> Walk:
        return Walk(active, self._grace_s, in_charge=lambda: self._active is active)

    def _heard(self, verdicts: Mapping[str, ChannelVerdict]) -> None:
        if self.on_verdicts is not None:
            self.on_verdicts(verdicts)
