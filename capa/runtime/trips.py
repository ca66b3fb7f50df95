"""Latched trips: what happened, kept on disk until somebody with a name clears it.

``trips.json`` holds what is latched and survives the power; ``trips.jsonl`` beside it is the
journal of every trip and every clearing. A file that can't be read counts as a trip: nobody
knows what stood in it.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from capa.clock import utc_now
from capa.config.box import BOX_SPOOL
from capa.errors import CapaError
from capa.storage.atomic import write_atomically

__all__ = ["Trip", "TripStore", "Trips", "trips_of_box"]

_UNREADABLE = "trips file"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Trip:
    """One latched trip: by which rule, in which words, when, and during which run."""

    rule: str
    message: str
    at_utc: str
    run_id: str | None = None


class TripStore:
    """The two files; every method blocks.

    Args:
        folder: a folder that survives a reboot.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "trips.json"
        self.journal_file = folder / "trips.jsonl"

    def load(self) -> tuple[Trip, ...]:
        """Return what is latched; a file that can't be read is a trip of its own."""
        try:
            return _trips_in(json.loads(self.file.read_bytes()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"{self.file} can't be read ({error}); nobody knows what was latched"
            return (Trip(_UNREADABLE, message, _now()),)

    def save(self, trips: Sequence[Trip], records: Sequence[Mapping[str, Any]]) -> None:
        """Write what is latched, and add to the journal.

        Raises:
            OSError: as the file system says; what was latched before still stands there.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        data = {"version": _VERSION, "trips": [asdict(trip) for trip in trips]}
        write_atomically(self.file, json.dumps(data, indent=2).encode() + b"\n")
        with self.journal_file.open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(record) + "\n" for record in records)
            journal.flush()
            os.fsync(journal.fileno())


class Trips:
    """What is latched now. Nothing but ``clear`` ever makes it fewer.

    Args:
        latched: what was latched when the last process ended.
    """

    def __init__(self, latched: Sequence[Trip] = (), *, log: FilteringBoundLogger) -> None:
        self._latched = tuple(latched)
        self._log = log
        self._unsaved: list[dict[str, Any]] = []

    @property
    def latched(self) -> tuple[Trip, ...]:
        """The trips, oldest first."""
        return self._latched

    @property
    def text(self) -> str:
        """All of them in one line; empty when there is none."""
        return "; ".join(trip.message for trip in self._latched)

    @property
    def unsaved(self) -> bool:
        """Whether the files have yet to be told."""
        return bool(self._unsaved)

    def latch(self, rule: str, message: str, *, run_id: str | None = None) -> bool:
        """Latch a trip; False when this rule's stands already, and then the old words stay."""
        if any(trip.rule == rule for trip in self._latched):
            return False
        trip = Trip(rule, message, _now(), run_id)
        self._latched = (*self._latched, trip)
        self._unsaved.append({"event": "latched", **asdict(trip)})
        self._log.critical("safety.tripped", rule=rule, message=message, run_id=run_id)
        return True

    def clear(self, *, by: str, reason: str, user: str) -> tuple[Trip, ...]:
        """Clear all; whether that may be done is decided by the caller. Returns what was."""
        was, self._latched = self._latched, ()
        record = {"event": "cleared", "at_utc": _now(), "by": by, "user": user, "reason": reason}
        self._unsaved.append({**record, "trips": [asdict(trip) for trip in was]})
        words = f"{by} ({user}) cleared {len(was)} trip(s): {reason}"
        self._log.warning("safety.trip_cleared", by=by, user=user, reason=reason, message=words)
        return was

    def save(self, store: TripStore) -> None:
        """Have the files say what stands; blocks.

        Raises:
            OSError: they could not be written, and still have to be.
        """
        trips, records = self._latched, tuple(self._unsaved)
        store.save(trips, records)
        del self._unsaved[: len(records)]


def trips_of_box(settings: Path) -> TripStore | None:
    """Return where the daemon of a box keeps its trips, by its settings file; None without one.

    It keeps them in the folder that holds the spool: that survives a reboot, and those who may
    drop files can't write there.

    Raises:
        CapaError: the file is there and does not say.
    """
    try:
        spool = tomllib.loads(settings.read_text(encoding="utf-8")).get("spool", {})
        root = settings.parent / spool.get("root", BOX_SPOOL)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        message = f"{settings}: can't be read, so nobody knows what is latched: {error}"
        raise CapaError(message) from error
    return TripStore(root.parent)


def _trips_in(table: Mapping[str, Any]) -> tuple[Trip, ...]:
    if table["version"] != _VERSION:
        raise ValueError(f"version {table['version']!r} is not known here")
    if not isinstance(table["trips"], list):
        raise TypeError(f"trips: {table['trips']!r} is no list")
    return tuple(_trip(entry) for entry in table["trips"])


def _trip(entry: Mapping[str, Any]) -> Trip:
    run_id = entry["run_id"]
    rule, message, at_utc = str(entry["rule"]), str(entry["message"]), str(entry["at_utc"])
    datetime.fromisoformat(at_utc)
    return Trip(rule, message, at_utc, None if run_id is None else str(run_id))


def _now() -> str:
    return utc_now().isoformat(timespec="milliseconds")
