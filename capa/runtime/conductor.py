"""One run from arming to the sealed bundle, inside a rig that outlives it.

However the procedure ends (returns, raises, ignores a stop, is cancelled from above), the same
follows, in bounded shields: the gate is closed to the run, the safe state is driven and its
verdicts recorded as values, the recorder is drained, the bundle is sealed by a child process.

The run's authorization ends *before* the safe state is driven, not after it: nothing that a
procedure left behind in a link's queue may follow the safe value.
"""

import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from capa.channels.sample import Sample
from capa.clock import RunClock, utc_now
from capa.config.problems import Problem
from capa.errors import BundleError
from capa.experiment.authorization import Authorization
from capa.experiment.executor import MethodExecutor
from capa.experiment.hold import Hold
from capa.experiment.method import AlarmOverride
from capa.experiment.procedures.base import (
    AdapterView,
    Procedure,
    ProcedureContext,
    ProcedureError,
    ResolvedRecordingPlan,
    declared_handlers,
)
from capa.experiment.procedures.live import OperatorCommand
from capa.runtime.arming import (
    PREFLIGHT_BUDGET_S,
    NoBundleYet,
    is_blocking,
    make_procedure,
    plan_recording,
    procedure_problems,
    rig_problems,
)
from capa.runtime.databus import Tap
from capa.runtime.gate import Gate
from capa.runtime.inner import InnerRunner
from capa.runtime.lag import watch_lag
from capa.runtime.progress import RunProgress, progress_of
from capa.runtime.report import Outcome, RunReport, RunRequest
from capa.runtime.rig import Rig
from capa.runtime.run_log import RunLog
from capa.runtime.safe_state import ChannelVerdict, Verdict, drive_safe_state
from capa.runtime.safety_book import RuleBook
from capa.runtime.stop import StopSignal
from capa.storage.bundle import BundleWriter, new_run_id
from capa.storage.finalize import finalize_in_child

__all__ = ["Conductor", "RunReport", "RunRequest"]

CLOSE_BUDGET_S = 15.0
FINALIZE_BUDGET_S = 120.0
MOST_ORDERS = 16
"""Operator commands that may wait for a procedure; one that listens has none waiting."""
RECORDER_PATIENCE_S = 10.0
"""How long the recorder may fail before the run is given up: data would be lost unseen."""

Severity = Literal["info", "warning", "error"]
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


Finalize = Callable[[Path], Awaitable[Finalized]]


@dataclass(slots=True)
class _Active:
    """The run in progress, and the facts from which its outcome follows."""

    request: RunRequest
    clock: RunClock
    authorization: Authorization
    executor: MethodExecutor
    log: RunLog
    started_utc: datetime
    outer: "_Active | None" = None
    label: str = ""
    plan: ResolvedRecordingPlan = field(default_factory=ResolvedRecordingPlan)
    report: RunReport | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    second_stop: StopSignal = field(default_factory=StopSignal)
    problems: list[Problem] = field(default_factory=list)
    procedure: Procedure | None = None
    ctx: ProcedureContext | None = None
    bundle: BundleWriter | None = None
    returned: bool = False
    failure: str = ""
    verdicts: dict[str, ChannelVerdict] = field(default_factory=dict)
    orders: trio.MemorySendChannel[OperatorCommand] | None = None
    safety: str = ""
    raised: list[str] = field(default_factory=list)

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
    def outermost(self) -> "_Active":
        """The run that the daemon knows of."""
        return self if self.outer is None else self.outer.outermost

    def ask_to_stop(self, reason: str) -> None:
        """Set the stop, or the second one; on record."""
        first = not self.stop.is_set()
        self.event(
            "run.stop_requested" if first else "run.cooldown_ended",
            reason,
            severity="warning",
            metadata={"reason": reason},
        )
        (self.stop if first else self.second_stop).set(reason)

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
        self._procedures = procedures
        self._runs_root = runs_root
        self._grace_s = grace_s
        self._safing_budget_s = safing_budget_s
        self._log = log
        self._on_progress = on_progress
        self.gate = Gate(rig, log=log) if gate is None else gate
        self.rules = rules
        self._hold = Hold()
        self.on_verdicts: Callable[[Mapping[str, ChannelVerdict]], None] | None = None
        """Hears how each run's safe state ended; the safety monitor's."""
        self.forbidding: Callable[[], Mapping[str, str]] | None = None
        """Says what forbids arming just now, by rule; the safety monitor's."""
        self._finalize = finalize
        self._threaded = threaded
        self._active: _Active | None = None
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
        )

    @property
    def metadata(self) -> dict[str, Any] | None:
        """Return the run's scratch pad, on which a prompt is confirmed; None between runs."""
        return self._active.ctx.metadata if self._active and self._active.ctx else None

    @property
    def bundle(self) -> BundleWriter | None:
        """The bundle being recorded, for its health; None between runs."""
        return self._active.bundle if self._active else None

    def stop(self, reason: str) -> None:
        """Ask the run to stop; asked again, end the cool-down dwell of what follows the stop.

        A run inside the run is stopped with it.
        """
        active = self._active
        if active is not None and not active.stop.is_set():
            self.gate.recall("the run was asked to stop")
        while active is not None:
            active.ask_to_stop(reason)
            active = active.outer

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
        active = found = self._active
        while active is not None:
            if not (active.safety or active.returned or active.failure):
                active.safety = f"{active.stop.reason}; {reason}".removeprefix("; ")
            if not active.stop.is_set():
                active.ask_to_stop(reason)
            if at_once:
                active.second_stop.set(reason)
            active = active.outer
        return found is not None

    def safety_event(
        self, kind: str, message: str, *, severity: Severity, metadata: Mapping[str, Any]
    ) -> None:
        """Put an event of the safety monitor into the bundles of the run and those around it."""
        active = self._active
        while active is not None:
            if kind == "safety.raised":
                active.raised.append(message)
            active.event(kind, message, severity=severity, metadata=metadata, source="safety")
            active = active.outer

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

    @contextmanager
    def _overriding(
        self, active: _Active, overrides: Sequence[AlarmOverride], step: str
    ) -> Iterator[None]:
        """Put a step's overrides in force, on record; restored however the step ends."""
        rules = self.rules
        if rules is None:
            yield
            return
        ids = sorted({override.alarm_id for override in overrides})
        try:
            with rules.overridden(overrides):
                self._tell_override(active, rules, "applied", ids, step)
                yield
        finally:
            self._tell_override(active, rules, "restored", ids, step)

    def _tell_override(
        self, active: _Active, rules: RuleBook, what: str, ids: Sequence[str], step: str
    ) -> None:
        settings = {alarm_id: rules.in_force(alarm_id) for alarm_id in ids}
        said = ", ".join(f"alarm {alarm_id} {setting}" for alarm_id, setting in settings.items())
        active.log.warning("safety.override", message=f"{step}: {what}: {said}")
        active.event(
            f"safety.override.{what}",
            f"{step}: {said}",
            severity="warning",
            metadata={"step": step, "alarms": settings},
            source="safety",
        )

    async def run(self, request: RunRequest) -> RunReport:
        """Conduct one run; its end, good or bad, is the report, not an exception."""
        if self._active is not None:
            raise RuntimeError("a run is in progress; one rig conducts one run at a time")
        self.last_report = None
        active = self._active = self._begin(request)
        try:
            return await self._conducted(active)
        finally:
            self._active = None

    async def _conducted(self, active: _Active) -> RunReport:
        if not await self._arm(active):
            return self._refused(active)
        await self._conduct(active)
        if active.report is None:
            raise RuntimeError("the run ended without a report")
        return active.report

    # --- runs inside a run ----------------------------------------------------------------------

    async def _run_inner(self, outer: _Active, request: RunRequest, label: str) -> RunReport:
        """Conduct a run inside another, whose authorization is out of force meanwhile.

        It comes into force again only when the inner run's safe state has been driven.
        """
        if self._active is not outer or outer.bundle is None:
            raise ProcedureError(f"{label}: inner runs are started by run(), one at a time")
        suspended = self.gate.suspend()
        inner = self._active = self._begin(request, outer=outer, label=label)
        try:
            if outer.stop.is_set():
                message = f"a stop was asked for before {label} began ({outer.stop.reason})"
                inner.problems.append(Problem(code="run.stopped", message=message))
                return self._refused(inner)
            return await self._conducted(inner)
        finally:
            self._active = outer
            self.gate.resume(suspended)

    async def _check_inner(self, outer: _Active, request: RunRequest) -> list[Problem]:
        """Check a run that is to come; half of preflight's time, as this happens within it."""
        inner = self._begin(request, outer=outer)
        try:
            await self._checked(inner, budget_s=PREFLIGHT_BUDGET_S / 2)
        finally:
            inner.authorization.disarm()
        return inner.problems

    # --- arming ---------------------------------------------------------------------------------

    def _begin(
        self, request: RunRequest, *, outer: _Active | None = None, label: str = ""
    ) -> _Active:
        authorization = Authorization.mint(request.operator_id)
        log = RunLog(self._log, source=request.source_name)
        executor = MethodExecutor()
        active = _Active(
            request,
            RunClock.start(),
            authorization,
            executor,
            log,
            started_utc=utc_now(),
            outer=outer,
            label=label,
        )
        executor.cooldown_stop = active.second_stop
        executor.on_step = self._stepped
        executor.hold = self._hold
        executor.overriding = partial(self._overriding, active)
        return active

    async def _arm(self, active: _Active) -> bool:
        """Check everything, then open the bundle; False when the run is refused."""
        forbidding = {} if self.forbidding is None else self.forbidding()
        active.problems += rig_problems(self._rig, trip=self.gate.trip, raised=forbidding)
        procedure = await self._checked(active, budget_s=PREFLIGHT_BUDGET_S)
        if procedure is None or any(map(is_blocking, active.problems)):
            return False
        active.procedure = procedure
        return await self._open_bundle(active, procedure)

    async def _checked(self, active: _Active, *, budget_s: float) -> Procedure | None:
        """Make the procedure and its context, and collect the problems; None without either."""
        procedure = self._make_procedure(active)
        if procedure is None:
            return None
        plan = plan_recording(procedure, self._rig.registry)
        if isinstance(plan, list):
            active.problems += plan
        else:
            active.plan = plan
        ctx = active.ctx = active.executor.ctx = self._context(active)
        active.problems += self._method_problems(active, procedure)
        active.problems += await procedure_problems(self._rig, procedure, ctx, budget_s=budget_s)
        return procedure

    def _make_procedure(self, active: _Active) -> Procedure | None:
        wanted = active.request.experiment.procedure
        cls = self._procedures.get(wanted.id)
        if cls is None:
            known = ", ".join(sorted(self._procedures))
            message = f"no procedure {wanted.id!r} is installed"
            active.problems.append(
                Problem(code="procedure.unknown", message=message, hint=f"there are: {known}")
            )
            return None
        made = make_procedure(cls, wanted.config, wanted.version)
        if isinstance(made, list):
            active.problems += made
            return None
        return made

    def _context(self, active: _Active) -> ProcedureContext:
        active.orders, receive = trio.open_memory_channel[OperatorCommand](MOST_ORDERS)
        return ProcedureContext(
            clock=active.clock,
            config=active.request.experiment,
            bundle_writer=NoBundleYet(),
            databus=self._rig.bus,
            logger=active.log,
            external_stop=active.stop,
            instruments=self._rig.registry,
            adapters=_views(self._rig),
            authorization=active.authorization,
            dispatcher=self.gate,
            method_executor=active.executor,
            operator_commands=receive,
            runs=None if active.outer is not None else self._inner_runs(active),
        )

    def _inner_runs(self, active: _Active) -> InnerRunner:
        return InnerRunner(
            outer=active.request,
            checker=partial(self._check_inner, active),
            conduct=partial(self._run_inner, active),
        )

    def _method_problems(self, active: _Active, procedure: Procedure) -> list[Problem]:
        method = active.request.experiment.method
        if method is None:
            return []
        # Here, and not above: arming pays for it, starting the daemon does not.
        from capa.config.check import check_method

        return check_method(
            method,
            self._rig.profile,
            handlers=declared_handlers(type(procedure)),
            file=active.request.source_name,
            text=active.request.method_text,
        )

    async def _open_bundle(self, active: _Active, procedure: Procedure) -> bool:
        create = partial(
            BundleWriter.create,
            self._runs_root,
            new_run_id(active.clock.anchor_utc),
            active.clock,
            files=_files(active.request),
            manifest=_manifest(active, procedure, self._rig),
            channels={n: self._rig.registry.resolve(n).spec.unit for n in self._rig.registry.names},
            threaded=self._threaded,
        )
        try:
            active.bundle = await trio.to_thread.run_sync(create) if self._threaded else create()
        except BundleError as error:
            active.problems.append(
                Problem(code="bundle.open_failed", message=str(error), hint="free the disk")
            )
            return False
        return True

    def _refused(self, active: _Active) -> RunReport:
        active.authorization.disarm()
        blocking = [str(problem) for problem in active.problems if problem.blocking]
        report = RunReport(
            run_id=None,
            run_status="refused",
            bundle_status="none",
            exit_reason="; ".join(blocking),
            started_utc=active.started_utc,
            ended_utc=utc_now(),
            problems=tuple(active.problems),
        )
        self._keep(active, report)
        return report

    def _keep(self, active: _Active, report: RunReport) -> None:
        active.report = report
        if active.outer is None:
            self.last_report = report

    # --- the run ---------------------------------------------------------------------------------

    async def _conduct(self, active: _Active) -> None:
        """Walk, then wind up; no checkpoint lies between the open bundle and the ``try``."""
        bundle, ctx, procedure = active.bundle, active.ctx, active.procedure
        if bundle is None or ctx is None or procedure is None:
            raise RuntimeError("a run is conducted only once it is armed")
        recording = trio.CancelScope(shield=True)
        budget_s = self._safing_budget_s + CLOSE_BUDGET_S + FINALIZE_BUDGET_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_record, bundle, recording, active)
            tap = _tap(bundle, active.plan)
            try:
                self._start(active, bundle, ctx, procedure, tap)
                await self._walk(active, procedure, ctx)
            finally:
                with trio.move_on_after(budget_s, shield=True):
                    await self._make_safe(active)
                    self._rig.bus.remove_tap(tap)
                    await self._wind_up(active, bundle, ctx)
                recording.cancel()

    def _start(
        self,
        active: _Active,
        bundle: BundleWriter,
        ctx: ProcedureContext,
        procedure: Procedure,
        tap: Tap,
    ) -> None:
        ctx.bundle_writer = bundle
        active.log.write = bundle.log
        self.gate.begin_run(active.authorization, bundle, active.clock)
        self._rig.start_run()
        self._rig.bus.add_tap(tap)
        active.event(
            "run.armed",
            f"{active.request.source_name}: {procedure.id} in the name of "
            f"{active.authorization.issued_by}",
            metadata={"authorization_id": active.authorization.id, "procedure": procedure.id},
        )
        for problem in active.problems:
            active.event("run.problem", str(problem), severity="warning", metadata=asdict(problem))

    async def _walk(self, active: _Active, procedure: Procedure, ctx: ProcedureContext) -> None:
        """Run the procedure in a scope of its own; its end is recorded, never raised.

        Cancellation from above, and ``KeyboardInterrupt``, pass through.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._enforce_grace, active, nursery.cancel_scope)
            nursery.start_soon(_watch_recorder, active, nursery.cancel_scope)
            nursery.start_soon(watch_lag, partial(self._lagged, active, procedure))
            try:
                await procedure.run(ctx)
                active.returned = True
            except Exception as error:  # noqa: BLE001 - a crashed procedure must not end the daemon
                _crashed(active, error)
            nursery.cancel_scope.cancel()

    def _lagged(self, active: _Active, procedure: Procedure, lag_s: float) -> None:
        """Put it on record that the loop was blocked, and name who was at work."""
        if self._active is not active:
            return  # the run inside this one says so
        message = (
            f"the loop was blocked for {lag_s:.1f} s while {procedure.id} ran: ramps were late and "
            "a stop went unheard; have it sleep with anyio.sleep and compute in "
            "anyio.to_thread.run_sync"
        )
        active.log.warning("run.loop_blocked", message=message, lag_s=lag_s)
        active.event(
            "run.loop_blocked",
            message,
            severity="warning",
            metadata={"procedure": procedure.id, "lag_s": lag_s},
        )

    async def _enforce_grace(self, active: _Active, scope: trio.CancelScope) -> None:
        """Cancel a procedure that has not returned ``grace_s`` after the stop.

        While the executor cools the rig down by a ``safe_shutdown``, or a run inside this one is
        wound up, the grace has not begun.
        """
        await active.stop.wait()
        deadline_s = trio.current_time() + self._grace_s
        while (now_s := trio.current_time()) < deadline_s:
            if self._active is not active:
                deadline_s = now_s + self._grace_s
            until_s = active.executor.cooldown_until_s
            if until_s is not None and not active.second_stop.is_set():
                deadline_s = max(deadline_s, until_s + self._grace_s)
            await trio.sleep(min(deadline_s - now_s, self._grace_s / 4))
        active.failure = (
            f"the procedure had not returned {self._grace_s:g} s after the stop "
            f"({active.stop.reason}), and was cancelled"
        )
        scope.cancel()

    # --- afterwards ------------------------------------------------------------------------------

    async def _make_safe(self, active: _Active) -> None:
        self.gate.end_run()
        active.event("authorization.disarmed", f"authorization {active.authorization.id} ended")
        active.verdicts = await drive_safe_state(
            self._rig, budget_s=self._safing_budget_s, on_write=self.gate.note
        )
        for verdict in active.verdicts.values():
            active.event(
                "safe_state.verdict",
                f"{verdict.channel} = {verdict.value:g}: {verdict.verdict}, {verdict.detail}",
                severity=_SEVERITY[verdict.verdict],
                metadata=_plain(verdict),
            )
        if self.on_verdicts is not None:
            self.on_verdicts(active.verdicts)

    async def _wind_up(self, active: _Active, bundle: BundleWriter, ctx: ProcedureContext) -> None:
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
        self._keep(active, self._report(active, status, reason, "finalizing"))
        sealed = await self._seal(bundle.path)
        self._keep(active, self._report(active, status, reason, sealed))

    async def _seal(self, path: Path) -> str:
        """Seal the bundle; a finalizer that fails leaves it to be finalized again later."""
        with trio.move_on_after(FINALIZE_BUDGET_S):
            try:
                return (await self._finalize(path)).bundle_status
            except (OSError, BundleError) as error:
                self._log.warning("bundle.not_sealed", bundle=str(path), message=str(error))
        return "finalizing"

    def _report(self, active: _Active, status: Outcome, reason: str, sealed: str) -> RunReport:
        bundle = active.bundle
        return RunReport(
            run_id=None if bundle is None else bundle.run_id,
            run_status=status,
            bundle_status=sealed,
            exit_reason=reason,
            started_utc=active.started_utc,
            ended_utc=utc_now(),
            verdicts=active.verdicts,
            bundle=None if bundle is None else bundle.path,
            problems=tuple(active.problems),
            steps=tuple(active.executor.records),
            raised=tuple(active.raised),
            trip=self.gate.trip,
        )

    def _stepped(self) -> None:
        if self._on_progress is not None and (progress := self.progress) is not None:
            self._on_progress(progress)


async def _record(bundle: BundleWriter, recording: trio.CancelScope, active: _Active) -> None:
    """Keep the recorder going until the run is wound up, whatever is cancelled above."""
    with recording:
        try:
            await bundle.run()
        except BundleError as error:
            active.failure = active.failure or f"the recorder failed: {error}"


async def _watch_recorder(active: _Active, scope: trio.CancelScope) -> None:
    """Give the run up when the recorder has failed for too long to be trusted again."""
    if active.bundle is None:
        return
    while True:
        await active.bundle.wait_failed()
        await trio.sleep(RECORDER_PATIENCE_S)
        if (failed := active.bundle.health.failed) is not None:
            active.failure = f"nothing could be recorded for {RECORDER_PATIENCE_S:g} s: {failed}"
            scope.cancel()


def _crashed(active: _Active, error: Exception) -> None:
    active.failure = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    active.log.error("run.crashed", message=active.failure, traceback=trace)
    active.event(
        "run.crashed",
        active.failure,
        severity="error",
        metadata={"error_type": type(error).__name__, "error": str(error)},
    )


def _tap(bundle: BundleWriter, plan: ResolvedRecordingPlan) -> Tap:
    """Return what hands samples to the recorder: all of them, or those the procedure planned."""
    if plan.channel_mode == "all":
        return bundle.write_samples
    wanted = frozenset(plan.recorded_channels)

    def only_planned(samples: Sequence[Sample]) -> None:
        bundle.write_samples([sample for sample in samples if sample.channel in wanted])

    return only_planned


def _views(rig: Rig) -> dict[str, AdapterView]:
    return {
        name: AdapterView(
            device.name, device.family, device.resource_id, device.capabilities, device.fields
        )
        for name, device in rig.devices.items()
    }


def _files(request: RunRequest) -> dict[str, str]:
    files = {"config.toml": request.config_text, "hardware.toml": request.hardware_text}
    if request.method_text is not None:
        files["method.toml"] = request.method_text
    return files


def _manifest(active: _Active, procedure: Procedure, rig: Rig) -> dict[str, Any]:
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
        "custom": experiment.custom,
        "source": active.request.source_name,
    }


def _plain(verdict: ChannelVerdict) -> dict[str, Any]:
    return {**asdict(verdict), "verdict": str(verdict.verdict)}


def _recorded(status: Outcome) -> Literal["completed", "aborted", "crashed"]:
    """A refused run has no bundle, so its outcome never gets here."""
    return "crashed" if status == "refused" else status
