"""From a request to an armed run: the authorization, the checks, the open bundle."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from capa.clock import RunClock, utc_now
from capa.config.problems import Problem
from capa.errors import BundleError
from capa.experiment.authorization import Authorization
from capa.experiment.executor import MethodExecutor
from capa.experiment.hold import Hold
from capa.experiment.procedures.available import why_missing
from capa.experiment.procedures.base import Procedure, ProcedureContext, declared_handlers
from capa.experiment.procedures.live import SAFETY_MONITOR, OperatorCommand
from capa.runtime.active import ActiveRun
from capa.runtime.arming import (
    PREFLIGHT_BUDGET_S,
    NoBundleYet,
    blocked,
    is_blocking,
    make_procedure,
    plan_recording,
    procedure_problems,
    rig_problems,
)
from capa.runtime.device_preflight import check_devices, setting_problems
from capa.runtime.gate import Gate
from capa.runtime.inner import InnerRunner
from capa.runtime.lag import LAG_WARN_S
from capa.runtime.overriding import overriding
from capa.runtime.report import RunRequest
from capa.runtime.rig import Rig
from capa.runtime.run_equipment import channel_info
from capa.runtime.run_files import files_of, manifest_of
from capa.runtime.run_log import RunLog
from capa.runtime.safety_book import RuleBook
from capa.runtime.setting_gate import SettingGate
from capa.runtime.status_sink import StatusSink
from capa.runtime.views import adapter_views, data_view, dispatcher_view, issuer_view
from capa.storage.bundle import BundleWriter, new_run_id

__all__ = ["Preparing"]

MOST_ORDERS = 16
"""Operator commands that may wait for a procedure; one that listens has none waiting."""


class Preparing:
    """Begins and arms the runs of one rig.

    Args:
        rig: the rig.
        gate: its gate.
        rules: the safety monitor's, for what steps override of them.
        procedures: the procedures there are, by id.
        runs_root: where bundles go.
        hold: the switch that holds every method.
        threaded: whether the recorder has threads of its own.
        forbidding: says what forbids arming just now, by rule.
        inner_runs: makes what starts runs inside a run.
        on_step: hears when a step begins, ends, or knows more.
        log: a structlog logger.
    """

    def __init__(
        self,
        rig: Rig,
        gate: Gate,
        rules: RuleBook | None,
        *,
        procedures: Mapping[str, type[Procedure]],
        runs_root: Path,
        hold: Hold,
        threaded: bool,
        forbidding: Callable[[], Mapping[str, str]],
        inner_runs: Callable[[ActiveRun], InnerRunner],
        on_step: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._rig = rig
        self._gate = gate
        self._rules = rules
        self._procedures = procedures
        self._runs_root = runs_root
        self._hold = hold
        self._threaded = threaded
        self._forbidding = forbidding
        self._inner_runs = inner_runs
        self._on_step = on_step
        self._log = log
        rig.settings.way = SettingGate(gate)

    def begin(
        self, request: RunRequest, *, outer: ActiveRun | None = None, label: str = ""
    ) -> ActiveRun:
        """Mint the run's authorization, and gather what it consists of."""
        authorization = Authorization.mint(request.operator_id)
        log = RunLog(self._log, source=request.source_name)
        executor = MethodExecutor()
        active = ActiveRun(
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
        executor.on_step = self._on_step
        executor.hold = self._hold
        executor.overriding = partial(overriding, active, self._rules)
        return active

    async def arm(self, active: ActiveRun) -> bool:
        """Check everything, then open the bundle; False when the run is refused."""
        raised = self._forbidding()
        active.problems += rig_problems(self._rig, trip=self._gate.trip, raised=raised)
        procedure = await self.checked(active, budget_s=PREFLIGHT_BUDGET_S)
        await self._check_devices(active)
        if procedure is None or any(map(is_blocking, active.problems)):
            return False
        active.procedure = procedure
        return await self._open_bundle(active, procedure)

    async def _check_devices(self, active: ActiveRun) -> None:
        """Ask the instruments what they are set to; mend it only if nothing else is wrong."""
        active.settings += await check_devices(
            self._rig,
            method=active.request.experiment.method,
            enforce=not any(map(is_blocking, active.problems)),
            include_silent=False,
        )
        active.problems += setting_problems(active.settings)

    async def checked(self, active: ActiveRun, *, budget_s: float) -> Procedure | None:
        """Make the procedure and its context, and collect the problems; None without either."""
        cls, began_s = await self._class_of(active), time.perf_counter()
        procedure = self._make_procedure(active, cls)
        if procedure is None:
            return None
        plan = plan_recording(procedure, self._rig.registry)
        if (took_s := time.perf_counter() - began_s) > LAG_WARN_S:
            where = "from_config or plan_capture"
            active.problems.append(blocked(type(procedure), where, took_s))
        if isinstance(plan, list):
            active.problems += plan
        else:
            active.plan = plan
        ctx = active.ctx = active.executor.ctx = self._context(active)
        active.problems += self._method_problems(active, procedure)
        active.problems += await procedure_problems(self._rig, procedure, ctx, budget_s=budget_s)
        return procedure

    async def _class_of(self, active: ActiveRun) -> type[Procedure] | None:
        """Look the procedure up; in a thread, since the first to ask may have to import it."""
        look_up = partial(self._procedures.get, active.request.experiment.procedure.id)
        if not self._threaded:
            return look_up()
        return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True)

    def _make_procedure(self, active: ActiveRun, cls: type[Procedure] | None) -> Procedure | None:
        wanted = active.request.experiment.procedure
        if cls is None:
            known = ", ".join(sorted(self._procedures))
            message = f"no procedure {wanted.id!r} is installed"
            problem = Problem("procedure.unknown", message, hint=f"there are: {known}")
            if refused := why_missing(self._procedures, wanted.id):
                problem = Problem("procedure.refused", refused)
            active.problems.append(problem)
            return None
        made = make_procedure(cls, wanted.config, wanted.version)
        if isinstance(made, list):
            active.problems += made
            return None
        return made

    def _context(self, active: ActiveRun) -> ProcedureContext:
        active.orders, receive = trio.open_memory_channel[OperatorCommand](MOST_ORDERS)
        if self._hold.is_set():
            active.orders.send_nowait(OperatorCommand("pause", SAFETY_MONITOR))
        metadata = {"_operator_attached": False}  # until somebody sits there to answer prompts
        return ProcedureContext(
            clock=active.clock,
            config=active.request.experiment,
            bundle_writer=NoBundleYet(),
            databus=data_view(self._rig.bus),
            logger=active.log,
            external_stop=active.stop,
            instruments=self._rig.registry,
            adapters=adapter_views(self._rig),
            authorization=issuer_view(active.authorization),
            dispatcher=dispatcher_view(self._gate),
            method_executor=active.executor,
            metadata=metadata,
            ui_sink=StatusSink(metadata),
            operator_commands=receive,
            runs=None if active.outer is not None else self._inner_runs(active),
        )

    def _method_problems(self, active: ActiveRun, procedure: Procedure) -> list[Problem]:
        method = active.request.experiment.method
        if method is None:
            return []
        # Here, and not above: arming pays for it, starting the daemon does not.
        from capa.config.check import check_method

        return check_method(
            method,
            self._rig.profile,
            handlers=declared_handlers(type(procedure)),
            file=_method_file(active.request),
            text=active.request.method_text,
        )

    async def _open_bundle(self, active: ActiveRun, procedure: Procedure) -> bool:
        create = partial(
            BundleWriter.create,
            self._runs_root,
            new_run_id(active.clock.anchor_utc),
            active.clock,
            files=files_of(active.request, self._rig),
            manifest=manifest_of(active, procedure, self._rig),
            channels={n: self._rig.registry.resolve(n).spec.unit for n in self._rig.registry.names},
            channel_info=channel_info(self._rig),
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


def _method_file(request: RunRequest) -> str:
    """Name the file whose lines are the method's; an experiment's method is one in the bundle."""
    name = request.source_name
    return name if name.endswith(".method.toml") else "method.toml"
