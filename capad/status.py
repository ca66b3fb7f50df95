"""The one line that says what the box is doing: for ``systemctl status`` and for a terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from capa.runtime.progress import RunProgress
from capa.runtime.safe_state import ChannelVerdict, Verdict

__all__ = ["SafeRecord", "Snapshot", "status_line", "worst"]

_MANY = 200
"""Characters of alarms that leave room for the rest of the line: systemd shows some 500."""


@dataclass(frozen=True, slots=True)
class SafeRecord:
    """When the safe state was last driven, and with what result."""

    verdicts: Mapping[str, ChannelVerdict]
    at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the line may speak of.

    ``phase`` is what it begins with when nothing else takes precedence: ``STARTING``, ``IDLE``,
    ``RUN``, ``STOPPING``; ``doing`` says more.
    """

    phase: str
    doing: str = ""
    progress: RunProgress | None = None
    stop_reason: str = ""
    held: str | None = None
    hold_file: str = ""
    queue: int = 0
    waits: str = ""
    """What of the queue waits for its time, and until when."""
    silent: tuple[str, ...] = ()
    trouble: str | None = None
    unguarded: tuple[str, ...] = ()
    """Outputs that nobody makes safe while the daemon is gone."""
    safe: SafeRecord | None = None
    trip: str = ""
    alarms: tuple[str, ...] = ()
    cooling: str = ""
    """What the later stages of the safe state wait for."""


def status_line(now: Snapshot) -> str:
    """Return the line; what a person has to act on comes first."""
    parts = [_head(now), f"queue {now.queue}{f', {now.waits}' if now.waits else ''}"]
    if now.held is not None and now.phase == "RUN":
        parts.append(f"held after this run: {now.held}")
    if now.held is not None and now.trip and now.phase == "IDLE":
        parts.append(f"held, too: rm '{now.hold_file}' once it is cleared")
    if now.trip and now.phase != "IDLE":
        parts.append(f"TRIPPED: {now.trip}")
    if now.trouble:
        parts.append(f"TROUBLE: {now.trouble}")
    if now.alarms and not now.trip:
        parts.append(f"ALARM: {_alarms(now.alarms)}")
    if now.cooling and now.phase != "RUN":
        parts.append(f"cooling: {now.cooling}")
    if now.silent:
        parts.append(f"no answer from {', '.join(now.silent)}")
    if now.unguarded:
        parts.append(f"capad-guard can't reach {', '.join(now.unguarded)}")
    parts.append(f"last safe: {_safe(now.safe)}")
    return "; ".join(parts)


def worst(verdicts: Mapping[str, ChannelVerdict]) -> Verdict:
    """Return the weakest of the verdicts: a rig is as safe as its least certain output."""
    order = (Verdict.UNREACHABLE, Verdict.COMMANDED, Verdict.PROVEN)
    found = {verdict.verdict for verdict in verdicts.values()}
    return next((verdict for verdict in order if verdict in found), Verdict.PROVEN)


def _head(now: Snapshot) -> str:
    if now.phase == "RUN":
        return _run(now)
    if now.phase == "IDLE" and now.trip:
        return f"TRIPPED {now.trip}; to clear: capa safety clear --by NAME --reason TEXT"
    if now.phase == "IDLE" and now.held is not None:
        return f"HELD {now.held}; to release: rm '{now.hold_file}'"
    return f"{now.phase} {now.doing}".strip()


def _alarms(alarms: tuple[str, ...]) -> str:
    """Return them all, or the first: a mute device raises many, and what follows is needed too."""
    text = "; ".join(alarms)
    if len(text) <= _MANY or len(alarms) == 1:
        return text
    return f"{alarms[0]}; and {len(alarms) - 1} more: capa safety show"


def _run(now: Snapshot) -> str:
    stopping = f"stopping ({now.stop_reason}), " if now.stop_reason else ""
    if now.progress is None:
        return f"RUN {stopping}{now.doing}".strip()
    return f"RUN {now.progress.run_id} {stopping}{now.progress.describe()}"


def _safe(record: SafeRecord | None) -> str:
    if record is None:
        return "not yet"
    verdict = worst(record.verdicts)
    bad = [n for n, v in record.verdicts.items() if v.verdict is verdict is not Verdict.PROVEN]
    return f"{verdict}{' ' + ', '.join(bad) if bad else ''} {record.at:%H:%M}"
