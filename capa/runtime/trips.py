"""Latched trips: what happened, kept on disk until somebody with a name clears it.

``trips.json`` holds what is latched and survives the power; ``trips.jsonl`` beside it is the
journal of every trip and every clearing. A file that can't be read counts as a trip: nobody
knows what stood in it.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from capa.clock import utc_now
from capa.storage.atomic import make_folder, open_for_folder, write_for_folder
from capa.storage.lock import FolderLock

__all__ = ["Trip", "TripStore", "Trips"]

_UNREADABLE = "trips file"
_VERSION = 1
_PATIENCE_S = 1.0
"""For another program's save, which takes milliseconds."""
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RecursionError)


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
        except _DAMAGED as error:
            message = f"{self.file} can't be read ({error}); nobody knows what was latched"
            return (Trip(_UNREADABLE, message, _now()),)

    def save(
        self,
        trips: Sequence[Trip],
        records: Sequence[Mapping[str, Any]],
        *,
        known: Collection[Trip] = (),
    ) -> bool:
        """Write what is latched, and add to the journal.

        What stands there and is not ``known`` was latched by another program: it stays. Returns
        whether nobody else can have been writing; a trip is on the disk all the same.

        Raises:
            OSError: as the file system says, with the file's name. If it is the store's, what was
                latched before still stands there.
        """
        make_folder(self.file.parent)
        with _alone_in(self.file.parent) as alone:
            others = [one for one in self._standing() if one not in known and one not in trips]
            data = {"version": _VERSION, "trips": [asdict(trip) for trip in (*others, *trips)]}
            text = json.dumps(data, indent=2) + "\n"
            with _named(self.file):
                write_for_folder(self.file, text.encode())
            with _named(self.journal_file):
                self._note(records)
        return alone

    def _standing(self) -> tuple[Trip, ...]:
        """Return what others may have latched meanwhile; a damaged file says nothing."""
        try:
            return _trips_in(json.loads(self.file.read_bytes()))
        except _DAMAGED:
            return ()

    def _note(self, records: Sequence[Mapping[str, Any]]) -> None:
        descriptor = open_for_folder(self.journal_file, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "a", encoding="utf-8") as journal:
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
        self._known = frozenset(latched)
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

    def take_up(self, standing: Sequence[Trip]) -> tuple[Trip, ...]:
        """Latch what another program has latched on disk; returns what was not known here.

        What was known stays what it is here: cleared, perhaps, and the file is yet to be told.
        """
        new = tuple(trip for trip in standing if trip not in self._known)
        self._known |= frozenset(new)
        rules = {trip.rule for trip in self._latched}
        added = (trip for trip in new if trip.rule not in rules)
        self._latched = tuple(sorted((*self._latched, *added), key=lambda trip: trip.at_utc))
        return new

    def latch(self, rule: str, message: str, *, run_id: str | None = None) -> bool:
        """Latch a trip; False when this rule's stands already, and then the old words stay."""
        if any(trip.rule == rule for trip in self._latched):
            return False
        trip = Trip(rule, message, _now(), run_id)
        self._latched = (*self._latched, trip)
        self._known |= {trip}
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
            OSError: one of them could not be written, and still has to be; it is named.
        """
        trips, records = self._latched, tuple(self._unsaved)
        if not store.save(trips, records, known=self._known):
            words = (
                f"another program keeps {store.file.parent} locked; trips are saved all the same"
            )
            self._log.warning("safety.saved_beside_another", message=words)
        del self._unsaved[: len(records)]


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Keep other programs from saving meanwhile, where the file system has locks.

    Whoever may read the folder can lock it for as long as he likes: False when he did, for a trip
    that is not on the disk is worse than two that are written at once.
    """
    lock = FolderLock(folder)
    try:
        alone = lock.acquire_within(_PATIENCE_S)
    except OSError:  # no locks here, and so nobody who waits for ours
        alone = True
    try:
        yield alone
    finally:
        lock.release()


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Have an error name this file: not the temporary one beside it, and not none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


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
