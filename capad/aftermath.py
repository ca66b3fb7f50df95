"""How a run ended whose daemon was gone: from its last events, systemd's word and the guardian's.

The rungs are read from what each of them wrote by itself; nothing is concluded here.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from capa.runtime.ladder import Rung, in_order
from capa.storage.inflight import EVENTS_FILE, connect_for_reading
from capad.guarding import GuardReport

__all__ = ["rungs_after"]

_KINDS = (
    "run.stop_requested",
    "run.cooldown_ended",
    "run.grace_ended",
    "run.crashed",
    "run.loop_blocked",
    "method.executor.stopped",
    "method.step.failed",
    "safe_state.verdict",
    "safety.tripped",
)
_ENDS = {
    "watchdog": "the daemon showed no life: systemd's watchdog ended it",
    "signal": "the daemon was killed",
    "core-dump": "the daemon crashed",
    "oom-kill": "the kernel killed the daemon: memory ran out",
    "timeout": "the daemon did not end in time and was killed",
    "exit-code": "the daemon ended with an error",
}


def rungs_after(bundle: Path, guard: GuardReport | None) -> tuple[Rung, ...]:
    """Return what is known of an interrupted run's end, in the order of time; blocks."""
    rungs = list(_recorded(bundle))
    if guard is not None:
        rungs += _guarded(guard)
    return in_order(rungs)


def _recorded(bundle: Path) -> Iterator[Rung]:
    """Yield the rungs that the daemon still wrote, and the very last thing that it did."""
    marks = ", ".join("?" * len(_KINDS))
    try:
        with closing(connect_for_reading(bundle / EVENTS_FILE)) as db:
            found = db.execute(
                f"SELECT t_utc, message FROM events WHERE kind IN ({marks}) ORDER BY id",  # noqa: S608 - question marks only
                _KINDS,
            ).fetchall()
            last = db.execute(
                "SELECT t_utc, kind || ': ' || message FROM events ORDER BY id DESC LIMIT 1"
            ).fetchall()
    except sqlite3.Error:
        return  # the bundle's own notes say what is wrong with it
    rows = [(at, str(message)) for at, message in found]
    rows += [(at, f"the last that was recorded: {message}") for at, message in last]
    for text, words in rows:
        if (at := _time(text)) is not None:
            yield Rung(at, words)


def _guarded(guard: GuardReport) -> Iterator[Rung]:
    """Yield how systemd says that the daemon ended, and what the guardian did."""
    service = guard.record.get("service") or {}
    result = str(service.get("service_result", ""))
    if result in _ENDS:
        how = service.get("exit_status")
        yield Rung(guard.started_utc, _ENDS[result] + (f" ({how})" if how else ""))
    ended = _instant(guard.record.get("ended_utc"), guard.started_utc)
    if error := guard.record.get("error"):
        yield Rung(ended, f"capad-guard: nothing was made safe: {error}")
    for channel, verdict in guard.record["verdicts"].items():
        words = (
            f"{channel} = {verdict['value']:g}: {verdict['verdict']}, {verdict.get('detail', '')}"
        )
        yield Rung(ended, f"capad-guard: {words}")


def _instant(text: object, otherwise: datetime) -> datetime:
    return otherwise if (found := _time(text)) is None else found


def _time(text: object) -> datetime | None:
    """Read an instant, one without an offset as UTC; None for what is none, in an altered row."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (OverflowError, ValueError):  # or an instant beyond the years that there are
        return None
