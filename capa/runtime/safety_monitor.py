"""The safety monitor: always on, with or without a run, and no part of what runs.

It feeds the rules with every sample and with time, and acts on what they raise:

- ``warn``: said, and recorded.
- ``pause``: the method is held until the rule clears, as by a programmer's HOLD.
- ``abort``: the run is stopped; with nothing running the safe state is driven once.
- ``safe_shutdown``: the safe state is driven at once, whatever runs, and a trip latches.

While a rule other than a warning is raised, nothing is armed. A trip stays until somebody clears
it. The safe state is driven by a task of its own, so that the watch goes on meanwhile.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import trio
from structlog.typing import FilteringBoundLogger

from capa.channels.sample import Sample
from capa.runtime.gate import Gate
from capa.runtime.rig import Rig
from capa.runtime.safe_state import ChannelVerdict, Verdict, drive_safe_state
from capa.runtime.safety_book import RECORDER_LAG, RuleBook
from capa.runtime.safety_rules import Change
from capa.runtime.trips import Trips, TripStore

__all__ = ["UNREACHABLE", "Measure", "Runs", "SafetyMonitor"]

TICK_S = 0.25
"""How late silence may be noticed, and the monitor's heartbeat."""
MEASURE_S = 5.0
RETRY_S = 2.0
UNREACHABLE = "safe state"
"""The rule under which a safe state that could not be reached is latched."""

Severity = Literal["info", "warning", "error"]
Measure = Callable[[], Awaitable[Mapping[str, float]]]
"""Measures what is not on the bus (free disk space), by the rule book's names."""
OnVerdicts = Callable[[Mapping[str, ChannelVerdict]], None]
Save = Callable[[Callable[[], None]], Awaitable[None]]
"""Does what blocks: in a thread, or at once in virtual time."""


class Runs(Protocol):
    """What the monitor may do to a run; the conductor."""

    @property
    def run_id(self) -> str | None:
        """The run in progress; None between runs."""
        ...

    @property
    def recorder_lag_s(self) -> float | None:
        """How far its recorder is behind; None between runs."""
        ...

    def safety_stop(self, reason: str, *, at_once: bool) -> bool:
        """Stop the run; ``at_once`` forgoes a cooldown. False when nothing runs."""
        ...

    def safety_event(
        self, kind: str, message: str, *, severity: Severity, metadata: Mapping[str, Any]
    ) -> None:
        """Put an event into the run's bundle, if there is one."""
        ...

    def hold_method(self, reason: str) -> None:
        """Hold the method that runs, and those to come; an empty reason lets them go on."""
        ...


class SafetyMonitor:
    """Watches one rig while ``run`` runs. All methods are for the loop's own thread.

    Args:
        rig: the rig.
        book: its rules.
        gate: shut but for safe values while a trip is latched.
        trips: what is latched; outlives the rig.
        store: where trips are kept; None for those that need not outlive the process.
        runs: the conductor.
        safing_budget_s: what driving the safe state may take.
        log: a structlog logger.
        on_change: hears of everything that changes what is blocked or said.
        on_verdicts: hears how driving the safe state ended.
        measure: measures what is not on the bus.
        save: does what blocks; in a thread by default.
    """

    def __init__(
        self,
        rig: Rig,
        book: RuleBook,
        gate: Gate,
        trips: Trips,
        store: TripStore | None,
        runs: Runs,
        *,
        safing_budget_s: float,
        log: FilteringBoundLogger,
        on_change: Callable[[], None] | None = None,
        on_verdicts: OnVerdicts | None = None,
        measure: Measure | None = None,
        save: Save = trio.to_thread.run_sync,
    ) -> None:
        self._rig = rig
        self._book = book
        self._gate = gate
        self._trips = trips
        self._store = store
        self._runs = runs
        self._budget_s = safing_budget_s
        self._log = log
        self._on_change = on_change
        self._on_verdicts = on_verdicts
        self._measure = measure
        self._save = save
        self._urgent = trio.Event()
        self._drive = trio.Event()
        self._dirty = trio.Event()
        self._unreached: dict[str, ChannelVerdict] = {}
        self.beat_at_s = trio.current_time()
        self._latching = False
        self._driving = False
        if trips.latched:
            gate.latch(trips.text)
        if trips.unsaved:
            self._dirty.set()

    # --- what others ask ------------------------------------------------------------------------

    @property
    def raised(self) -> Mapping[str, str]:
        """The words of every rule that is raised, by its name."""
        return self._book.raised()

    def forbidding(self) -> dict[str, str]:
        """Return why nothing may be armed just now, by rule; trips apart.

        While the safe state is driven, too: the end of it must not overtake a new run's setpoints.
        """
        found = self._book.raised("pause", "abort", "safe_shutdown")
        if self._driving or self._drive.is_set():
            found[UNREACHABLE] = "the safe state is being driven"
        for verdict in self._unreached.values():
            found[f"{UNREACHABLE} {verdict.channel}"] = _not_reached(verdict)
        return found

    def holding(self) -> dict[str, str]:
        """Return what stands against clearing the trips: their conditions that still hold."""
        names = [trip.rule for trip in self._trips.latched]
        found = self._book.holding(names, trio.current_time())
        for verdict in self._unreached.values():
            found[f"{UNREACHABLE} {verdict.channel}"] = _not_reached(verdict)
        return found

    def clear(self, *, by: str, reason: str, user: str) -> str:
        """Clear the trips in somebody's name; return why not, or an empty text."""
        if not by.strip() or not reason.strip():
            return "clearing a trip takes a name and a reason"
        if not self._trips.latched:
            return "no trip is latched"
        holding = self.holding()
        if holding:
            return "it still holds: " + "; ".join(holding.values())
        cleared = self._trips.clear(by=by.strip(), reason=reason.strip(), user=user)
        self._gate.release()
        rules = [trip.rule for trip in cleared]
        self._log.info("safety.gate_open", rules=rules, message="commands pass the gate again")
        self._changed()
        return ""

    def judge(self, verdicts: Mapping[str, ChannelVerdict], *, latch: bool = True) -> None:
        """Hear how the safe state ended: what was not reached is retried, and latches a trip.

        Without ``latch`` for a rig on which nothing ran: an instrument that is switched off needs
        nobody's name to be switched on again, and is made safe when it answers.
        """
        for channel, verdict in verdicts.items():
            if verdict.verdict is not Verdict.UNREACHABLE:
                self._unreached.pop(channel, None)
                continue
            self._unreached[channel] = verdict
            if latch:
                self._trip(UNREACHABLE, _not_reached(verdict))

    # --- the watch ------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        self._rig.bus.add_tap(self._tap)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_safe)
                if self._store is not None:
                    nursery.start_soon(self._keep_trips, self._store)
                if self._measure is not None:
                    nursery.start_soon(self._keep_measuring, self._measure)
                task_status.started()
                await self._watch()
        finally:
            self._rig.bus.remove_tap(self._tap)

    async def _watch(self) -> None:
        while True:
            with trio.move_on_after(TICK_S):
                await self._urgent.wait()
            self._urgent = trio.Event()
            self.beat_at_s = trio.current_time()
            self._feed_lag()
            for change in self._book.look(trio.current_time()):
                self._act(change)

    def _tap(self, samples: Sequence[Sample]) -> None:
        if self._book.feed(samples):
            self._urgent.set()

    def _feed_lag(self) -> None:
        lag_s = self._runs.recorder_lag_s
        self._book.feed([Sample(RECORDER_LAG, lag_s or 0.0, trio.current_time())])

    async def _keep_measuring(self, measure: Measure) -> None:
        while True:
            at_s = trio.current_time()
            found = await measure()
            if self._book.feed([Sample(name, value, at_s) for name, value in found.items()]):
                self._urgent.set()
            await trio.sleep(MEASURE_S)

    # --- acting: no waiting here, only what those who wait will see -------------------------------

    def _act(self, change: Change) -> None:
        severity: Severity = "info"
        if change.kind == "raised":
            severity = "warning" if change.action == "warn" else "error"
        metadata = {"rule": change.rule, "action": change.action, "channel": change.channel}
        self._event(f"safety.{change.kind}", change.words, severity, metadata)
        if change.kind == "raised":
            self._respond(change)
        if change.action == "pause":
            self._runs.hold_method("; ".join(self._book.raised("pause").values()))
        self._changed()

    def _respond(self, change: Change) -> None:
        match change.action:
            case "abort":
                if not self._runs.safety_stop(change.words, at_once=False):
                    self._drive.set()
            case "safe_shutdown":
                self._latching = True
                self._drive.set()
                self._runs.safety_stop(change.words, at_once=True)
                self._trip(change.rule, change.words)
            case _:
                pass

    def _trip(self, rule: str, words: str) -> None:
        run_id = self._runs.run_id
        if self._trips.latch(rule, words, run_id=run_id):
            self._runs.safety_event(
                "safety.tripped", words, severity="error", metadata={"rule": rule}
            )
        self._gate.latch(self._trips.text)
        self._changed()

    def _event(
        self, kind: str, message: str, severity: Severity, metadata: Mapping[str, Any]
    ) -> None:
        getattr(self._log, severity)(kind, message=message, **metadata)
        self._runs.safety_event(kind, message, severity=severity, metadata=metadata)

    def _changed(self) -> None:
        if self._trips.unsaved:
            self._dirty.set()
        if self._on_change is not None:
            self._on_change()

    # --- what takes time --------------------------------------------------------------------------

    async def _keep_safe(self) -> None:
        """Drive the safe state when asked to, and again for as long as it is not reached."""
        while True:
            with trio.move_on_after(RETRY_S):
                await self._drive.wait()
            if not (self._drive.is_set() or self._unreached.keys() & self._first_stage()):
                continue
            self._drive = trio.Event()
            latching, self._latching = self._latching, False
            self._driving = True
            verdicts = await drive_safe_state(
                self._rig, budget_s=self._budget_s, on_write=self._gate.note
            )
            self._driving = False
            self._report(verdicts)
            self.judge(verdicts, latch=latching)
            self._changed()

    def _first_stage(self) -> Collection[str]:
        """Return the outputs of stage one; what is later is tried again by who waits for it."""
        stages = self._rig.profile.safe_state
        return stages[0].set.keys() if stages else ()

    def _report(self, verdicts: Mapping[str, ChannelVerdict]) -> None:
        for verdict in verdicts.values():
            known = self._unreached.get(verdict.channel)
            if known is not None and known.detail == verdict.detail:
                continue  # said already; it is tried every few seconds
            severity: Severity = "error" if verdict.verdict is Verdict.UNREACHABLE else "info"
            words = f"{verdict.channel} = {verdict.value:g}: {verdict.verdict}, {verdict.detail}"
            metadata = {"channel": verdict.channel, "verdict": str(verdict.verdict)}
            self._event("safety.driven", words, severity, metadata)
        if self._on_verdicts is not None:
            self._on_verdicts(verdicts)

    async def _keep_trips(self, store: TripStore) -> None:
        """Have the files say what is latched; a disk in trouble is tried again."""
        while True:
            await self._dirty.wait()
            self._dirty = trio.Event()
            try:
                await self._save(lambda: self._trips.save(store))
            except OSError as error:
                why = f"{error.filename or store.file} can't be written ({error.strerror})"
                message = f"{why}; tried again"
                self._log.error("safety.trips_not_saved", message=message)
                await trio.sleep(RETRY_S)
                self._dirty.set()


def _not_reached(verdict: ChannelVerdict) -> str:
    return f"{verdict.channel} could not be brought to {verdict.value:g}: {verdict.detail}"
