"""The later stages of the safe state: what is driven once the rig has cooled, or waited enough.

A task of the rig, not of a run: it goes on while the queue is held or the next run waits, and
another process goes on with it after a restart. The stages are taken in the profile's order, and
each one's wait begins when the one before it was reached; nothing later is driven while an output
of an earlier one is not. A reading that is no value, or an old one, never satisfies a condition:
then the time-out decides, and where there is none, nothing does.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio
from structlog.typing import FilteringBoundLogger

from capa.channels.registry import ChannelRegistry
from capa.config.hardware import Condition, SafeStage
from capa.experiment.method import EndCondition
from capa.experiment.waiting import satisfied_by
from capa.runtime.databus import DataBus
from capa.runtime.moments import Moment, moment_now
from capa.runtime.progress import spoken_s
from capa.runtime.safe_state import ChannelVerdict, Verdict, newest
from capa.runtime.stage_store import Pending, StageStore

__all__ = ["LaterStages", "later_words"]

RETRY_S = 2.0
FRESH_S = 5.0
"""A value older than this satisfies nothing, where the profile states no ``stale_after_s``."""

Drive = Callable[[Pending], Awaitable[Mapping[str, ChannelVerdict]]]
"""Drives a stage, judges and reports the verdicts; never raises."""
Save = Callable[[Callable[[], None]], Awaitable[None]]
"""Does what blocks: in a thread, or at once in virtual time."""


def later_words(stages: Sequence[SafeStage], registry: ChannelRegistry) -> tuple[str, ...]:
    """Return one line for each stage that comes later: what is set, when, and when at the latest.

    E.g. ``purge.flow to 0 when heater.pv < 200 degC, after 2 h 0 min at the latest``.
    """
    lines = []
    for stage in stages[1:]:
        line = _what(stage, registry)
        if stage.timeout_s is not None:
            soonest = "" if stage.when is None else " at the latest"
            line += f", after {spoken_s(stage.timeout_s)}{soonest}"
        lines.append(line)
    return tuple(lines)


class LaterStages:
    """Waits for the later stages of one open rig, and drives them. For the loop's own thread.

    ``heard`` and ``go_on`` begin a wait, ``pause`` and ``call_off`` end it for the sake of a run.

    Args:
        stages: the profile's, the first one included.
        registry: its channels.
        bus: where their values come by.
        drive: drives one stage.
        store: where a restart finds what was due; None where nothing outlives the process.
        pending: what the store had.
        log: a structlog logger.
        on_change: hears when the words of ``waiting`` are others.
        now: tells the time in a way that outlives the process.
        save: does what blocks.
    """

    def __init__(
        self,
        stages: Sequence[SafeStage],
        registry: ChannelRegistry,
        bus: DataBus,
        *,
        drive: Drive,
        store: StageStore | None = None,
        pending: Pending | None = None,
        log: FilteringBoundLogger,
        on_change: Callable[[], None] | None = None,
        now: Callable[[], Moment] = moment_now,
        save: Save = trio.to_thread.run_sync,
    ) -> None:
        self._stages = stages
        self._registry = registry
        self._bus = bus
        self._drive = drive
        self._store = store
        self._pending = pending
        self._log = log
        self._on_change = on_change
        self._now = now
        self._save = save
        self._started = False
        self._paused = False
        self._unreached = False
        self._pressing = False
        self._driving = False
        self._due_at_s = math.inf
        self._meanwhile: dict[str, ChannelVerdict] = {}
        self._files = trio.Lock()
        self._dirty = trio.Event()
        self._poke = trio.Event()
        self._rested = trio.Event()
        self._waiting = trio.CancelScope()
        self.verdicts: dict[str, ChannelVerdict] = {}
        """How the later stages ended that were driven since stage one was."""

    @property
    def due(self) -> str:
        """What is due next, in words; empty when all is through."""
        pending = self._pending
        return "" if pending is None else _what(self._stages[pending.stage], self._registry)

    @property
    def waiting(self) -> str:
        """What is waited for, in words for the status line; empty when all is through."""
        pending = self._pending
        if pending is None or not self._started:
            return ""
        what = _what(self._stages[pending.stage], self._registry)
        if self._unreached:
            return f"{what}; first the outputs before it have to be reached"
        if self._driving or self._pressing:
            return f"{what}: being driven"
        left_s = self._due_at_s - trio.current_time()
        return what if math.isinf(left_s) else f"{what}, {spoken_s(max(0.0, left_s))} left"

    # --- what others tell: no waiting here ------------------------------------------------------

    def heard(self, verdicts: Mapping[str, ChannelVerdict]) -> None:
        """Hear how driving stage one ended: with nothing running, what comes later is now due.

        What was waited for already goes on being waited for. But while an output of stage one is
        not reached, no time counts: the heater may have been heating all along.
        """
        if self._paused:  # a run ends with a safe state of its own; what is newer, it can't know
            self._meanwhile.update(verdicts)
            return
        was, self._unreached = self._unreached, _unreached(verdicts)
        pending = self._pending
        if pending is None:
            self._begin("")
        elif was or self._unreached or self._undone_before(pending.stage):
            again = self._undone_before(pending.stage) or pending.stage
            self._begin(pending.after, stage=again)
        self._started = True
        self._changed()

    def go_on(self, after: str | None, verdicts: Mapping[str, ChannelVerdict]) -> None:
        """Begin anew after a run; or, where none came to be (None), wait on as before.

        A run of which nobody knows how it left the outputs has left them unreached.
        """
        self._paused = False
        meanwhile, self._meanwhile = self._meanwhile, {}
        if after is not None:
            latest = newest(verdicts, meanwhile)
            self._unreached, self._started = _unreached(latest) or not latest, True
            self._begin(after)
        elif meanwhile:
            self.heard(meanwhile)
        self._dirty.set()
        self._changed()

    def call_off(self) -> tuple[str, ...]:
        """Give up what was due, since a run begins; returns it in words. Only while paused."""
        pending, self._pending = self._pending, None
        self.verdicts.clear()
        if pending is None:
            return ()
        after = f" (due after run {pending.after})" if pending.after else ""
        lines = later_words(self._stages, self._registry)[pending.stage - 1 :]
        said = tuple(f"called off, since a run begins: {line}{after}" for line in lines)
        for line in said:
            self._log.warning("safe_state.called_off", message=line)
        return said

    async def pause(self) -> str:
        """Wait for nothing any more, and let a stage that is being driven come to its end.

        Returns why that can't be made to last, in words; a run must then not begin.
        """
        self._paused = True
        self._meanwhile.clear()
        self._waiting.cancel()
        while self._driving:
            await self._rested.wait()
        return await self._sync()

    async def leave(self) -> str:
        """Put on disk what is still due, for the next start, and return it in words."""
        if trouble := await self._sync():
            self._log.error("safe_state.not_kept", message=trouble)
        return self.waiting

    # --- the task -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Wait and drive until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            while True:
                pending = self._pending
                if pending is None or self._resting:
                    await self._poke.wait()
                    self._poke = trio.Event()
                    continue
                with trio.CancelScope() as self._waiting:
                    await self._until_due(pending)
                disturbed = self._waiting.cancelled_caught or pending is not self._pending
                if not (disturbed or self._resting):
                    await self._driven(pending)

    @property
    def _resting(self) -> bool:
        return self._paused or self._unreached or not self._started

    async def _until_due(self, pending: Pending) -> None:
        """Return when the stage's condition holds, or its time is over."""
        if self._pressing:  # begun, and not reached: there is no way back from half a stage
            await trio.sleep(RETRY_S)
            return
        stage = self._stages[pending.stage]
        with trio.move_on_at(self._due_at_s):
            if stage.when is not None:
                await self._until_true(stage.when)
            else:
                await trio.sleep(math.inf if stage.timeout_s is not None else 0)

    async def _until_true(self, when: Condition) -> None:
        """Return at the first fresh value that satisfies."""
        condition = EndCondition(channel=when.channel, op=when.op, value=when.value)
        fresh_s = self._registry.resolve(when.channel).spec.stale_after_s or FRESH_S
        with self._bus.subscribe(when.channel) as feed:
            while True:
                for sample in await feed.get():
                    fresh = trio.current_time() - sample.at_s <= fresh_s
                    if fresh and satisfied_by(condition, sample):
                        return

    async def _driven(self, pending: Pending) -> None:
        """Drive the stage; go on to the next once all of its outputs are reached."""
        self._driving = True
        try:
            verdicts = await self._drive(pending)
        finally:
            self._driving = False
            self._rested.set()
            self._rested = trio.Event()
        self.verdicts.update(verdicts)
        self._pressing = _unreached(verdicts)
        if not self._pressing and pending is self._pending:
            following = pending.stage + 1
            if following < len(self._stages):
                self._begin(pending.after, stage=following)
            else:
                self._pending = None
                self._dirty.set()
                self._log.info("safe_state.complete", message="every stage has been driven")
        self._changed()

    def _begin(self, after: str, *, stage: int = 1) -> None:
        """Have the wait for a stage begin now."""
        self._pressing = False
        if stage == 1:
            self.verdicts.clear()
        self._pending = Pending(stage, self._now(), after) if stage < len(self._stages) else None
        self._dirty.set()

    def _undone_before(self, stage: int) -> int:
        """Return the first later stage before this one that stage one takes back; 0 if none."""
        first = self._stages[0].set.keys()
        return next((k for k in range(1, stage) if self._stages[k].set.keys() & first), 0)

    def _changed(self) -> None:
        """Wake the task, reckon anew until when it waits, and have it said."""
        pending = self._pending
        if pending is not None:
            timeout_s = self._stages[pending.stage].timeout_s
            left_s = math.inf if timeout_s is None else timeout_s - self._waited_s(pending)
            self._due_at_s = trio.current_time() + left_s
        self._waiting.cancel()
        self._poke.set()
        if self._on_change is not None:
            self._on_change()

    def _waited_s(self, pending: Pending) -> float:
        return pending.since.until_s(self._now())

    # --- what outlives the process --------------------------------------------------------------

    async def _keep(self) -> None:
        """Have the file follow; a disk in trouble is tried again."""
        while True:
            await self._dirty.wait()
            if trouble := await self._sync():
                self._log.error("safe_state.not_kept", message=f"{trouble}; tried again")
                await trio.sleep(RETRY_S)
                self._dirty.set()

    async def _sync(self) -> str:
        """Have the file say what is so; returns why it can't, in words.

        What is not counted on is not in it: a run that begins, an output that is not reached.
        """
        if self._dirty.is_set():
            self._dirty = trio.Event()
        store = self._store
        if store is None:
            return ""
        async with self._files:
            kept = None if self._paused or self._unreached else self._pending
            try:
                await self._save(lambda: store.save(kept, self._stages))
            except OSError as error:
                return f"{store.file} can't be changed: {error.strerror or error}"
        return ""


def _what(stage: SafeStage, registry: ChannelRegistry) -> str:
    outputs = ", ".join(f"{channel} to {value:g}" for channel, value in stage.set.items())
    if stage.when is None:
        return outputs
    unit = registry.resolve(stage.when.channel).spec.unit
    return f"{outputs} when {stage.when.channel} {stage.when.op} {stage.when.value:g} {unit}"


def _unreached(verdicts: Mapping[str, ChannelVerdict]) -> bool:
    return any(verdict.verdict is Verdict.UNREACHABLE for verdict in verdicts.values())
