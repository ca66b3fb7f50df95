"""Removing old bundles, where ``[runs.keep]`` sets a limit: one at a time, while nothing runs.

A child process does it, and is ended when a job begins: what it leaves half-way is recognized and
finished later. A full disk is a matter of the safety monitor as well: it ends the run, and forbids
the next one while too little is free. Idle then, the box makes room here, and the queue goes on.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from capa.clock import utc_now
from capa.errors import BundleError
from capa.storage.prune import prune_in_child
from capa.storage.removal import Kept, Removed
from capa.storage.retention import Limits, Outcome
from capad.settings import KeepSettings, RunSettings
from capad.turns import ClockWatch, boot_s

__all__ = ["Housekeeping", "limits_of"]

Prune = Callable[[Path, Limits], Awaitable[Sequence[Outcome]]]

EVERY_S = 600.0
AGAIN_S = 1.0
"""After a removal: there may be more to remove."""
BUSY_S = 30.0
_LOOK_S = 0.2


async def _by_capad(runs_root: Path, limits: Limits) -> Sequence[Outcome]:
    return await prune_in_child(runs_root, limits, by="capad")


class Housekeeping:
    """The task that removes old bundles.

    Args:
        runs: where the bundles are and how long they stay.
        idle: whether nothing runs and nothing is about to.
        log: hears of each removal, and once of each bundle that stays although its time has come.
        remove: makes one pass.
    """

    def __init__(
        self,
        runs: RunSettings,
        *,
        idle: Callable[[], bool],
        log: FilteringBoundLogger,
        remove: Prune = _by_capad,
    ) -> None:
        self._root = runs.root
        self._limits = limits_of(runs.keep)
        self._idle = idle
        self._log = log
        self._remove = remove
        self._clock = ClockWatch()
        self._said: set[Outcome | str] = set()

    async def run(self) -> None:
        """Look every few minutes, until cancelled; ends at once where there is no limit."""
        pause_s = BUSY_S
        while (self._limits.max_age_days, self._limits.min_free_gb) != (None, None):
            await trio.sleep(pause_s)
            self._distrust_a_clock_that_jumps()
            pause_s = await self._pass() if self._idle() else BUSY_S

    async def _pass(self) -> float:
        """Remove one bundle, if one is to go and nothing begins meanwhile; return the pause."""
        outcomes: Sequence[Outcome] = ()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_way, nursery.cancel_scope)
            try:
                outcomes = await self._remove(self._root, self._limits)
            except BundleError as error:
                self._say_once(str(error), "runs.not_pruned", str(error))
            nursery.cancel_scope.cancel()
        for outcome in outcomes:
            self._tell(outcome)
        if not self._idle():
            return BUSY_S
        return AGAIN_S if any(isinstance(it, Removed) for it in outcomes) else EVERY_S

    async def _give_way(self, scope: trio.CancelScope) -> None:
        while self._idle():  # noqa: ASYNC110 - no event tells of all that ends it
            await trio.sleep(_LOOK_S)
        scope.cancel()

    def _tell(self, outcome: Outcome) -> None:
        if isinstance(outcome, Removed):
            self._log.warning(
                "bundle.removed",
                run_id=outcome.run_id,
                why=outcome.why,
                manifest_sha256=outcome.manifest_sha256,
                size_bytes=outcome.size_bytes,
            )
        elif isinstance(outcome, Kept):
            message = f"{outcome.run_id} is due for removal, and stays: {outcome.reason}"
            self._say_once(outcome, "bundle.kept", message)
        else:
            message = f"{outcome.run_id} can't be removed: {outcome.reason}"
            self._say_once(outcome, "bundle.not_removed", message)

    def _say_once(self, what: Outcome | str, event: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._log.warning(event, message=message)

    def _distrust_a_clock_that_jumps(self) -> None:
        """By age, nothing is removed under a clock that was seen to jump."""
        jump = self._clock.jumped(utc_now(), boot_s())
        if jump and self._limits.max_age_days is not None:
            self._limits = replace(self._limits, max_age_days=None)
            message = f"the clock jumped by {jump}: by age nothing is removed until the next start"
            self._log.warning("runs.age_unclear", message=message)


def limits_of(keep: KeepSettings) -> Limits:
    """Return the limits that ``[runs.keep]`` sets."""
    return Limits(keep.max_age_days, keep.min_free_gb, keep.min_runs)
