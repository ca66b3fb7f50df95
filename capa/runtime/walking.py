"""What goes on while a procedure runs: who lets it run, and who ends it.

Beside it run the enforcer of the grace after a stop, the watch over the recorder, and the watch
over the loop. The end of a procedure, whatever it is, is recorded as a fact of the run.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from capa.errors import BundleError, kind_of, said_by
from capa.experiment.procedures.base import Procedure, ProcedureContext
from capa.runtime.active import ActiveRun
from capa.runtime.lag import watch_lag
from capa.storage.bundle import BundleWriter

__all__ = ["Walk", "record"]

RECORDER_PATIENCE_S = 10.0
"""How long the recorder may fail, or be stuck, before the run is given up: data would be lost
unseen."""
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Walk:
    """One procedure's run.

    Args:
        active: the run.
        grace_s: how long it may take to return after a stop before it is cancelled.
        in_charge: whether this run is the innermost just now.
    """

    active: ActiveRun
    grace_s: float
    in_charge: Callable[[], bool]

    async def run(self, procedure: Procedure, ctx: ProcedureContext) -> None:
        """Run the procedure in a scope of its own; its end is recorded, never raised.

        Cancellation from above, and ``KeyboardInterrupt``, pass through.
        """
        active = self.active
        active.walking = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._enforce_grace, nursery.cancel_scope)
            nursery.start_soon(_watch_failures, active, nursery.cancel_scope)
            nursery.start_soon(_watch_progress, active, nursery.cancel_scope)
            nursery.start_soon(watch_lag, partial(self._lagged, procedure), time.perf_counter())
            try:
                await procedure.run(ctx)
                active.returned = True
                if active.stop.is_set():
                    active.rung("the procedure returned")
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it must not end the daemon
                _crashed(active, error)
            except BaseExceptionGroup as error:  # a task group's, with a SystemExit in it
                if error.split((Exception, SystemExit))[1] is not None:
                    raise
                _crashed(active, error)
            nursery.cancel_scope.cancel()

    async def _enforce_grace(self, scope: trio.CancelScope) -> None:
        """Cancel a procedure that has not returned ``grace_s`` after the stop.

        While the executor cools the rig down by a ``safe_shutdown``, or a run inside this one is
        wound up, the grace has not begun.
        """
        active = self.active
        await active.stop.wait()
        deadline_s = trio.current_time() + self.grace_s
        while (now_s := trio.current_time()) < deadline_s:
            if not self.in_charge():
                deadline_s = now_s + self.grace_s
            until_s = active.executor.cooldown_until_s
            if until_s is not None and not active.second_stop.is_set():
                deadline_s = max(deadline_s, until_s + self.grace_s)
            await trio.sleep(min(deadline_s - now_s, self.grace_s / 4))
        active.failure = (
            f"the procedure had not returned {self.grace_s:g} s after the stop "
            f"({active.stop.reason}), and was cancelled"
        )
        active.event(
            "run.grace_ended",
            active.failure,
            severity="error",
            metadata={"grace_s": self.grace_s, "stop": active.stop.reason},
        )
        active.rung(f"{self.grace_s:g} s of grace were over: the procedure was cancelled")
        active.given_up.set()
        scope.cancel()

    def _lagged(self, procedure: Procedure, lag_s: float) -> None:
        """Put it on record that the loop was blocked, and name who was at work."""
        active = self.active
        if not self.in_charge():
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
        active.rung(f"the loop was blocked for {lag_s:.1f} s: a stop went unheard meanwhile")


async def record(bundle: BundleWriter, recording: trio.CancelScope, active: ActiveRun) -> None:
    """Keep the recorder going until the run is wound up, whatever is cancelled above."""
    with recording:
        try:
            await bundle.run()
        except BundleError as error:
            active.failure = active.failure or f"the recorder failed: {error}"


async def _watch_failures(active: ActiveRun, scope: trio.CancelScope) -> None:
    """Give the run up when the recorder has failed for too long to be trusted again."""
    if active.bundle is None:
        return
    while True:
        await active.bundle.wait_failed()
        await trio.sleep(RECORDER_PATIENCE_S)
        if (failed := active.bundle.health.failed) is not None:
            words = f"nothing could be recorded for {RECORDER_PATIENCE_S:g} s: {failed}"
            _give_up_recording(active, scope, words)


async def _watch_progress(active: ActiveRun, scope: trio.CancelScope) -> None:
    """Give the run up when work is queued and none of it gets done: the disk is stuck.

    A write that never returns is no failure that anybody tells of.
    """
    bundle = active.bundle
    if bundle is None:
        return
    seen: object = None
    since_s = trio.current_time()
    while True:
        now_s, health = trio.current_time(), bundle.health
        mark = (health.written, health.heartbeat_at_s)
        idle = not (health.queue_depth or health.pending_samples)
        if mark != seen or idle or health.failed is not None:
            seen, since_s = mark, now_s
        elif now_s - since_s >= RECORDER_PATIENCE_S:
            words = (
                f"the recorder has made no progress for {RECORDER_PATIENCE_S:g} s with "
                f"{health.queue_depth} events and {health.pending_samples} samples waiting; "
                f"check the disk under {bundle.path}"
            )
            _give_up_recording(active, scope, words)
            return
        await trio.sleep(_LOOK_S)


def _give_up_recording(active: ActiveRun, scope: trio.CancelScope, words: str) -> None:
    active.failure = active.failure or words
    active.log.error("run.recorder_lost", message=words)
    active.event("run.recorder_lost", words, severity="error")
    active.rung(f"the run was given up: {words}")
    active.given_up.set()
    scope.cancel()


def _crashed(active: ActiveRun, error: BaseException) -> None:
    active.failure = said_by(error)
    trace = "".join(traceback.format_exception(error))
    active.log.error("run.crashed", message=active.failure, traceback=trace)
    active.rung(f"the procedure failed: {active.failure}")
    active.event(
        "run.crashed",
        active.failure,
        severity="error",
        metadata={"error_type": kind_of(error), "error": str(error)},
    )
