"""One tune under way: setpoint, wait until steady, measure, accept or step; target by target."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import trio

from capa.channels.sample import Sample
from capa.errors import CapaError
from capa.experiment.procedures.base import ProcedureContext, ProcedureError
from capa.experiment.procedures.builtin.heat_flux_tune import words
from capa.experiment.procedures.builtin.heat_flux_tune.artifact import Artifact, TargetResult
from capa.experiment.procedures.builtin.heat_flux_tune.commands import listen
from capa.experiment.procedures.builtin.heat_flux_tune.config import HeatFluxTuneConfig
from capa.experiment.procedures.builtin.heat_flux_tune.guard import Guard
from capa.experiment.procedures.builtin.heat_flux_tune.keeper import Keeper
from capa.experiment.procedures.builtin.heat_flux_tune.secant import (
    Point,
    StepRules,
    deaf,
    first_setpoint,
    next_setpoint,
)
from capa.experiment.procedures.builtin.heat_flux_tune.steady import (
    SteadyRules,
    Window,
    WindowStats,
    why_unsteady,
)
from capa.experiment.procedures.builtin.heat_flux_tune.stopwatch import Stopwatch
from capa.experiment.procedures.live import SAFETY_MONITOR, ProcedureTick

__all__ = ["Session"]

DISPATCH_BUDGET_S = 5.0
"""A command under way is seen through, so that it is on record with its answer; no longer."""
LOOK_EVERY_S = 1.0
RAMP_EVERY_S = 1.0

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class _Settled:
    """How the wait for a steady flux ended: ``steady``, ``accepted``, ``settle``, ``session``."""

    end: Literal["steady", "accepted", "settle", "session"]
    stats: WindowStats | None
    why: str = ""
    """What stood against it to the last; who accepted."""


class Session:
    """Walks the targets while four tasks watch: samples and guard, operator, stop.

    Whatever ends it early is kept as a value (``trouble``), since an exception among cancelled
    tasks gets lost or wrapped.
    """

    def __init__(
        self,
        config: HeatFluxTuneConfig,
        ctx: ProcedureContext,
        artifact: Artifact,
        keeper: Keeper,
    ) -> None:
        self._config = config
        self._ctx = ctx
        self._artifact = artifact
        self._keeper = keeper
        self._guard = Guard(config, trio.current_time())
        self._window = Window(config.window_s)
        self._counts_from_s = math.inf
        self._watch_time = Stopwatch(trio.current_time())
        self._paused_by: set[str] = set()
        self._points: list[Point] = []
        self._setpoint_c: float | None = None
        self._accepted: _Settled | None = None
        self._operator_spoke = trio.Event()
        self._resumed = trio.Event()
        self._seen_all = trio.Event()
        self._current: TargetResult | None = None
        self._steady_rules = SteadyRules(
            config.window_s,
            config.min_samples,
            config.max_noise_kw_m2,
            config.max_slope_kw_m2_per_min / 60,
        )
        self._step_rules = StepRules(
            config.t_set_min_c,
            config.t_set_max_c,
            config.max_step_c,
            config.damping,
            config.ambient_c,
            config.radiative_factor,
        )
        self.trouble = ""

    async def run(self) -> None:
        """Walk all targets, or until a stop or ``trouble``; raises neither."""
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(self._watch, scope)
            nursery.start_soon(self._until_stopped, scope)
            nursery.start_soon(listen, self._ctx.operator_commands, self, self._ignored)
            try:
                await self._walk()
            except CapaError as error:
                self.trouble = self.trouble or str(error)
            scope.cancel()
        self._close_current()

    # --- the tasks beside the walk ----------------------------------------------------------------

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Feed guard and window with every sample; end the tune when the guard says so."""
        config, guard = self._config, self._guard
        with self._ctx.databus.subscribe(config.flux_channel, config.heater_pv_channel) as feed:
            while not self.trouble:
                with trio.move_on_at(guard.silent_at_s()):
                    for sample in await feed.get():
                        self._take(sample)
                self.trouble = self.trouble or guard.trouble(trio.current_time())
        scope.cancel()

    def _take(self, sample: Sample) -> None:
        self._guard.see(sample)
        if sample.channel == self._config.flux_channel and sample.usable:
            self._window.add(sample.at_s, sample.value)
        if self._guard.seen_all:
            self._seen_all.set()

    async def _until_stopped(self, scope: trio.CancelScope) -> None:
        await self._ctx.external_stop.wait()
        scope.cancel()

    # --- what the operator says -------------------------------------------------------------------

    def pause(self, issued_by: str) -> None:
        """Hold the setpoint; no budget runs and nothing is judged."""
        self._paused_by.add(issued_by)
        if self._watch_time.pause(trio.current_time()):
            self._resumed = trio.Event()
            self._said("paused", f"paused by {issued_by}", issued_by)

    def resume(self, issued_by: str) -> None:
        """Go on, with a fresh window: what was done meanwhile may have moved the flux.

        An operator resumes what operators paused, and the safety monitor what it did: neither
        speaks for the other.
        """
        own = (
            {SAFETY_MONITOR} if issued_by == SAFETY_MONITOR else self._paused_by - {SAFETY_MONITOR}
        )
        self._paused_by -= own
        if self._paused_by:
            self._ignored("resume", issued_by, f"paused by {', '.join(sorted(self._paused_by))}")
        elif self._watch_time.resume(trio.current_time()):
            self._window.begin(max(trio.current_time(), self._counts_from_s))
            self._resumed.set()
            self._said("resumed", f"resumed by {issued_by}", issued_by)

    def accept(self, issued_by: str) -> None:
        """Take what the window shows for the target in hand; without one there is nothing to."""
        stats = self._window.stats()
        if self._current is None or stats is None:
            self._ignored("accept", issued_by, "nothing is measured yet")
            return
        self._accepted = _Settled("accepted", stats, issued_by)
        self._operator_spoke.set()

    def _said(self, kind: str, message: str, issued_by: str) -> None:
        self._event(kind, message, metadata={"issued_by": issued_by})
        self._tick(kind)
        self._operator_spoke.set()

    def _ignored(
        self, kind: str, issued_by: str, why: str = "a tune knows no such command"
    ) -> None:
        message = f"{kind!r} of {issued_by} is ignored: {why}"
        facts = {"command": kind, "issued_by": issued_by}
        self._event("command.ignored", message, severity="warning", metadata=facts)

    # --- the walk ---------------------------------------------------------------------------------

    async def _walk(self) -> None:
        await self._seen_all.wait()  # or the guard ends it, when one of the two stays silent
        for result in self._artifact.results:
            if self._session_over():
                result.reason = "session"
                continue
            await self._reach(result)
            await self._keeper.keep(self._artifact)
        if self._config.end_setpoint_c is not None:
            await self._move_to(self._config.end_setpoint_c)

    async def _reach(self, result: TargetResult) -> None:
        """Bring one target to its end, good or bad."""
        self._current, result.status = result, "running"
        target = result.target_kw_m2
        setpoint_c = self._first(target)
        self._event(
            "target.started",
            f"{target:g} kW/m^2: begins at {setpoint_c:.1f} degC",
            metadata={"target_kw_m2": target, "setpoint_c": setpoint_c},
        )
        while result.iterations < self._config.max_iterations:
            result.iterations += 1
            await self._move_to(setpoint_c)
            settled = await self._settle()
            self._measure(result, setpoint_c, settled.stats)
            if settled.end != "steady":
                return self._end_unsteady(result, settled)
            if self._is_good(result):
                return self._end(result, "converged", detail="within tolerance")
            step_c = self._next(result)
            if step_c == setpoint_c:
                return self._end(result, "not_converged", "bound", words.at_bound(result))
            setpoint_c = step_c
        detail = words.out_of_iterations(result, self._config)
        return self._end(result, "not_converged", "iterations", detail)

    def _first(self, target_kw_m2: float) -> float:
        start = self._config.initial_setpoint_c
        if start is not None and not self._points:
            return start
        return first_setpoint(self._points, target_kw_m2, self._step_rules)

    def _next(self, result: TargetResult) -> float:
        if deaf(self._points, self._step_rules):
            raise ProcedureError(words.deaf_gauge(self._points, self._config))
        return next_setpoint(self._points, result.target_kw_m2, self._step_rules)

    def _measure(self, result: TargetResult, setpoint_c: float, stats: WindowStats | None) -> None:
        """Take down what the window showed; that may be nothing when a budget ran out."""
        result.setpoint_c = setpoint_c
        result.heater_pv_c = self._guard.pv_c
        if stats is None:
            result.flux_kw_m2 = result.noise_kw_m2 = result.slope_kw_m2_per_min = None
            return
        result.flux_kw_m2 = stats.mean
        result.noise_kw_m2 = stats.noise
        result.slope_kw_m2_per_min = 60 * stats.slope_per_s
        self._event(
            "iteration",
            f"{result.target_kw_m2:g} kW/m^2, iteration {result.iterations}: {setpoint_c:.1f} degC "
            f"gives {stats.mean:.2f} kW/m^2",
            metadata=words.facts(result),
        )
        self._tick("measured", stats)

    def _is_good(self, result: TargetResult) -> bool:
        if result.setpoint_c is None or result.flux_kw_m2 is None:
            raise ProcedureError("a steady window holds no samples")
        self._points.append(Point(result.setpoint_c, result.flux_kw_m2))
        target = result.target_kw_m2
        return abs(result.flux_kw_m2 - target) <= self._config.tolerance(target)

    # --- how a target ends ------------------------------------------------------------------------

    def _end_unsteady(self, result: TargetResult, settled: _Settled) -> None:
        match settled.end:
            case "accepted":
                facts = {"issued_by": settled.why}
                self._event("accepted", f"accepted by {settled.why}", metadata=facts)
                self._end(result, "accepted", detail=f"by {settled.why}")
            case "session":
                detail = words.out_of_session(result, self._config)
                self._end(result, "not_converged", "session", detail)
            case _:
                detail = words.unsettled(result, self._config, settled.why)
                self._end(result, "not_converged", "settle", detail)

    def _end(
        self,
        result: TargetResult,
        status: Literal["converged", "accepted", "not_converged"],
        reason: str = "",
        detail: str = "",
    ) -> None:
        result.status, result.reason, result.detail = status, reason, detail
        result.ended_utc = self._ctx.clock.t_utc()
        self._current = None
        good = status != "not_converged"
        self._event(
            f"target.{'converged' if good else status}",
            f"{result.target_kw_m2:g} kW/m^2: {status}, {detail}",
            severity="info" if good else "warning",
            metadata=words.facts(result),
        )
        self._tick(status, message=detail)

    def _close_current(self) -> None:
        """Say of a target in hand that the run ended under it."""
        if self._current is not None:
            why = self.trouble or f"stopped: {getattr(self._ctx.external_stop, 'reason', '')}"
            self._end(self._current, "not_converged", "ended", why)

    # --- one setpoint -----------------------------------------------------------------------------

    async def _move_to(self, setpoint_c: float) -> None:
        """Command a setpoint, at once or as a ramp from where the heater is; not while paused."""
        self._counts_from_s = math.inf
        self._window.begin(math.inf)  # what was measured before is no measurement of this setpoint
        self._tick("moving")
        if self._watch_time.paused:
            await self._resumed.wait()
        per_s = (self._config.ramp_c_per_min or math.inf) / 60
        at_c = self._guard.pv_c if self._setpoint_c is None else self._setpoint_c
        begun_s = self._watch_time.active_s(trio.current_time())
        while not self._session_over():
            spent_s = self._watch_time.active_s(trio.current_time()) - begun_s + RAMP_EVERY_S
            reach_c = per_s * spent_s
            if abs(setpoint_c - at_c) <= reach_c:
                break
            if not self._watch_time.paused:
                await self._command(at_c + math.copysign(reach_c, setpoint_c - at_c))
            await trio.sleep(RAMP_EVERY_S)
        else:
            return
        await self._command(setpoint_c)

    async def _settle(self) -> _Settled:
        """Wait until the flux is steady, the operator accepts, or a budget is used up."""
        now_s = trio.current_time()
        self._counts_from_s = now_s + self._config.min_settle_s
        self._window.begin(self._counts_from_s)
        self._accepted = None
        begun_s = self._watch_time.active_s(now_s)
        while True:
            await self._look()
            if (accepted := self._answer()) is not None:
                return accepted
            if self._watch_time.paused:
                continue
            why = self._why_unsteady()
            stats = self._window.stats()
            self._tick("settling" if why else "steady", stats, message=why)
            if not why:
                return _Settled("steady", stats)
            if self._session_over():
                return _Settled("session", stats, why)
            spent_s = self._watch_time.active_s(trio.current_time()) - begun_s
            if spent_s >= self._config.settle_budget_s:
                return _Settled("settle", stats, why)

    def _answer(self) -> _Settled | None:
        """Return what the operator accepted meanwhile."""
        return self._accepted

    async def _look(self) -> None:
        """Sleep until the next look at the window, or until the operator says something."""
        with trio.move_on_after(LOOK_EVERY_S):
            await self._operator_spoke.wait()
        self._operator_spoke = trio.Event()

    def _why_unsteady(self) -> str:
        band_c, setpoint_c = self._config.pv_band_c, self._setpoint_c
        if band_c is not None and setpoint_c is not None:
            off_c = self._guard.pv_c - setpoint_c
            if not abs(off_c) <= band_c:
                return f"the heater is {off_c:+.1f} degC from its setpoint of {setpoint_c:.1f}"
        return why_unsteady(self._window.stats(), self._steady_rules)

    def _session_over(self) -> bool:
        spent_s = self._watch_time.active_s(trio.current_time())
        return spent_s >= self._config.session_budget_s

    async def _command(self, setpoint_c: float) -> None:
        """Write the heater's setpoint.

        Raises:
            ProcedureError: it was refused, or there was no answer.
        """
        channel, ctx = self._config.heater_channel, self._ctx
        binding = ctx.instruments.resolve(channel).binding
        if binding is None or binding.command is None:
            raise ProcedureError(f"{channel} can't be commanded")
        command = ctx.authorization.issue(
            kind=binding.command,
            target=channel,
            payload={"value": setpoint_c, "channel": channel, "device": binding.device},
        )
        detail = f"no answer within {DISPATCH_BUDGET_S:g} s"
        with trio.move_on_after(DISPATCH_BUDGET_S, shield=True):
            result = await ctx.dispatcher.dispatch(binding.device, command)
            overtaken = result.called_back and ctx.external_stop.is_set()
            if result.accepted or overtaken:  # a stop that calls it back is no refusal
                self._setpoint_c = setpoint_c
                self._guard.commanded(setpoint_c, trio.current_time())
                return
            detail = result.detail
        raise ProcedureError(f"setpoint {channel} = {setpoint_c:.1f} degC was refused: {detail}")

    # --- telling ----------------------------------------------------------------------------------

    def _tick(self, state: str, stats: WindowStats | None = None, *, message: str = "") -> None:
        """Show how it stands: in the run's status line, and to whoever watches."""
        self._ctx.metadata["status"] = words.status(self._artifact.results, self._current, state)
        if self._ctx.ui_sink is None:
            return
        current = self._current
        self._ctx.ui_sink.publish(
            ProcedureTick(
                kind="heat_flux_tune",
                state=state,
                elapsed_s=self._ctx.clock.t_mono_s(),
                target=None if current is None else current.target_kw_m2,
                iteration=0 if current is None else current.iterations,
                setpoint=self._setpoint_c,
                mean=None if stats is None else stats.mean,
                noise=None if stats is None else stats.noise,
                slope=None if stats is None else stats.slope_per_s,
                message=message,
            )
        )

    def _event(
        self,
        kind: str,
        message: str,
        *,
        severity: Severity = "info",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._keeper.event(kind, message, severity=severity, metadata=metadata)
