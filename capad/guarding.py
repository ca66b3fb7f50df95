"""What the daemon does for ``capad-guard``: the plan it replays, the lock it respects, its word.

The plan is written before a link opens, so that there is no moment at which an output is driven
and nobody could take it back. Where that fails, nothing is armed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from structlog.typing import FilteringBoundLogger

from capa.runtime.parts import Parts
from capa.runtime.rig_lock import RigBusyError, RigLock
from capa.storage.atomic import clear_temporaries

__all__ = ["GuardReport", "Guarding", "guard_report"]

VERDICTS_FILE = "guard_verdicts.json"
MAX_BYTES = 1 << 20
_DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


class Guarding:
    """One runtime directory, held from ``take`` until the process ends.

    ``trouble`` says in words why the guardian could not act; None while it could. ``lacking``
    are the outputs that it can't drive.
    """

    def __init__(self, directory: Path, *, log: FilteringBoundLogger) -> None:
        self._directory = directory
        self._log = log
        self._lock = RigLock(directory)
        self.trouble: str | None = None
        self.lacking: tuple[str, ...] = ()

    def take(self) -> str:
        """Take the rig's lock; return who drives the rig instead, in words. Blocks for a moment.

        A folder that can't be used is nobody's: ``prepare`` says it. A lock that this user may not
        open can be anybody's.
        """
        try:
            self._lock.acquire()
        except RigBusyError as error:
            return str(error).partition(";")[0]  # what comes then is how to end a daemon
        except PermissionError as error:
            if self._lock.is_there():
                why = f"{error.filename}: {error.strerror}"
                return f"whether another program drives it can't be seen by this user ({why})"
        except OSError:
            pass
        return ""

    def prepare(self, parts: Parts, *, simulated: bool) -> tuple[str, ...]:
        """Compile and write the plan of a profile; blocks. Returns what it can't cover, in words.

        What goes wrong is in ``trouble`` and in the log, not raised: the safe state is still to
        be driven.
        """
        from capa.runtime.safe_plan import compile_safe_plan

        self.trouble, self.lacking = None, ()
        try:
            self._lock.acquire()
            clear_temporaries(self._directory)  # nobody but the lock's holder writes there
            plan = compile_safe_plan(
                parts.profile, parts.families, written_utc=datetime.now(UTC), simulated=simulated
            )
            path = plan.write(self._directory)
        except (OSError, RigBusyError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self.trouble = f"no safe plan for capad-guard in {self._directory}: {why}"
            self._log.error("safe_plan.not_written", message=f"{self.trouble}; nothing is armed")
            return ()
        self.lacking = tuple(lack.channel for lack in plan.not_compiled)
        lacks = tuple(str(lack) for lack in plan.not_compiled)
        for lack in lacks:
            self._log.warning("safe_plan.not_compiled", message=lack)
        self._log.info("safe_plan.written", file=str(path))
        return lacks


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What the guardian left when it last ran."""

    started_utc: datetime
    exit_code: int
    record: Mapping[str, Any]
    text: bytes

    @property
    def proven(self) -> bool:
        """Whether it proved every output safe."""
        return self.exit_code == 0

    def __str__(self) -> str:
        at = f"capad-guard at {self.started_utc.astimezone():%H:%M:%S}"
        if self.record.get("resumed"):
            at += ", at the next start, for the one before did not come to its end"
        if error := self.record.get("error"):
            return f"{at}: nothing was made safe: {error}"
        words = [
            f"{verdict['channel']} = {verdict['value']:g} {verdict['verdict']}"
            + ("" if verdict["verdict"] == "proven" else f" ({verdict['detail']})")
            for verdict in self.record["verdicts"].values()
        ]
        return f"{at}: {', '.join(words) or 'there was nothing to make safe'}"


def guard_report(directory: Path) -> tuple[GuardReport | None, str]:
    """Read what the guardian left; and, where it left what can't be read, say why."""
    try:
        with (directory / VERDICTS_FILE).open("rb") as file:
            text = file.read(MAX_BYTES)
        record = json.loads(text)
        report = GuardReport(
            started_utc=datetime.fromisoformat(record["started_utc"]),
            exit_code=int(record["exit_code"]),
            record=record,
            text=text,
        )
        str(report)
        return (report, "") if _is_whole(report) else (None, "damaged: something is missing")
    except FileNotFoundError:
        return None, ""
    except (*_DAMAGED, RecursionError) as error:
        return None, getattr(error, "strerror", None) or f"damaged: {type(error).__name__}"


def _is_whole(report: GuardReport) -> bool:
    """Whether all that is read of it later is there: what raises here would end the daemon."""
    record = report.record
    service = record.get("service")
    return (
        report.started_utc.tzinfo is not None
        and isinstance(service, dict | NoneType)
        and all(
            isinstance(verdict["value"], int | float) and isinstance(verdict["verdict"], str)
            for verdict in record["verdicts"].values()
        )
    )
