"""What a job is: its names, its order, the states it goes through. Pure; touches no disk."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

__all__ = [
    "COMPANION_FILE",
    "JOB_FILE",
    "TRANSITIONS",
    "Earlier",
    "IllegalMoveError",
    "Job",
    "JobState",
    "Move",
    "dropped_name",
    "is_ours",
    "is_temporary",
    "job_id",
    "kept_name",
    "kind_of",
    "moved",
    "sequence_of",
    "shown_name",
]

JOB_FILE = "job.json"
COMPANION_FILE = "named.method.toml"
"""The method that a job's experiment names, as it was when the job was checked."""
_OURS = frozenset({JOB_FILE, COMPANION_FILE, "report.json", "report.txt"})
_KEPT_ASIDE = "dropped-"
_LONGEST_NAME = 255
"""Bytes that a name may have."""
_TEMPORARY_ENDS = ("~", ".part", ".tmp", ".swp", ".filepart")
_KINDS: Mapping[str, Literal["method", "experiment"]] = {
    ".method.toml": "method",
    ".experiment.toml": "experiment",
    ".experiment.yaml": "experiment",
    ".experiment.yml": "experiment",
}
_JOB_ID = re.compile(r"(\d{6,})-")
_SLUG_LENGTH = 40


class JobState(StrEnum):
    """Where a job is; also the name of the folder that holds it."""

    QUEUED = "queued"
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.ACTIVE, JobState.REJECTED}),
    JobState.ACTIVE: frozenset(
        {JobState.QUEUED, JobState.DONE, JobState.FAILED, JobState.REJECTED}
    ),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.REJECTED: frozenset(),
}
"""An active job goes back to the queue when the rig could not be armed just now, and is rejected
when the procedure's own preflight refuses it: nothing ran either way."""


class IllegalMoveError(Exception):
    """A move that cannot happen from this state; nothing has changed."""


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of a job's history."""

    state: JobState
    at_utc: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The last job before this one whose file had the same content, and when it was claimed."""

    job: str
    at_utc: str

    def __str__(self) -> str:
        """Return a sentence for a report."""
        at = f"{self.at_utc[:19].replace('T', ' ')} UTC"
        return f"The same content was dropped before: job {self.job}, {at}."


@dataclass(frozen=True, slots=True)
class Job:
    """One dropped file on its way.

    ``name`` is the file's name as it was dropped (with ``os.fsdecode``'s surrogates where it is
    not UTF-8), ``kept`` what it is called in the job's folder. ``priority`` and ``not_before``
    (an instant with its offset, ISO 8601) are what its experiment asks for, once it is checked.
    """

    id: str
    name: str
    kept: str
    owner: str
    uid: int
    state: JobState
    sha256: str | None = None
    run_id: str | None = None
    dropped_utc: str | None = None
    earlier: Earlier | None = None
    priority: int = 0
    not_before: str | None = None
    history: tuple[Move, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what ``job.json`` holds; names that are not UTF-8 as escapes, and as bytes."""
        return {
            "version": 1,
            "id": self.id,
            "file": shown_name(self.name),
            "file_bytes_hex": os.fsencode(self.name).hex(),
            "kept_bytes_hex": os.fsencode(self.kept).hex(),
            "owner": self.owner,
            "uid": self.uid,
            "sha256": self.sha256,
            "run_id": self.run_id,
            "dropped_utc": self.dropped_utc,
            "seen_before": None if self.earlier is None else asdict(self.earlier),
            "priority": self.priority,
            "not_before": self.not_before,
            "history": [
                {"state": move.state.value, "at_utc": move.at_utc, "note": move.note}
                for move in self.history
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], state: JobState) -> "Job":
        """Read ``job.json``; the folder that it lies in says the state.

        Raises:
            KeyError, TypeError, ValueError: it is not what ``to_json`` makes.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"{JOB_FILE} holds no object")
        earlier = data.get("seen_before")
        return cls(
            id=data["id"],
            name=os.fsdecode(bytes.fromhex(data["file_bytes_hex"])),
            kept=os.fsdecode(bytes.fromhex(data["kept_bytes_hex"])),
            owner=data["owner"],
            uid=data["uid"],
            state=state,
            sha256=data["sha256"],
            run_id=data["run_id"],
            dropped_utc=data.get("dropped_utc"),
            earlier=None if earlier is None else Earlier(earlier["job"], earlier["at_utc"]),
            priority=data.get("priority", 0),
            not_before=data.get("not_before"),
            history=tuple(
                Move(JobState(move["state"]), move["at_utc"], move["note"])
                for move in data["history"]
            ),
        )


def moved(job: Job, to: JobState) -> JobState:
    """Return the state after a move, or raise ``IllegalMoveError``."""
    if to not in TRANSITIONS[job.state]:
        raise IllegalMoveError(f"job {job.id} is {job.state}; it cannot become {to}")
    return to


def is_temporary(name: str) -> bool:
    """Whether a copying program or an editor is still at work on it."""
    return name.startswith(".") or name.lower().endswith(_TEMPORARY_ENDS)


def kind_of(name: str) -> Literal["method", "experiment"] | None:
    """Return what a file's name says it holds, or None."""
    for end, kind in _KINDS.items():
        if name.endswith(end) and len(name) > len(end):
            return kind
    return None


def kept_name(name: str) -> str:
    """Return the file's name inside its job folder: its own, unless one of ours has it."""
    if not is_ours(name):
        return name
    return os.fsdecode(os.fsencode(f"{_KEPT_ASIDE}{name}")[:_LONGEST_NAME])


def dropped_name(kept: str) -> str:
    """Return the name that a file in a job folder was dropped by, as far as its own tells."""
    name = kept.removeprefix(_KEPT_ASIDE)
    return name if kept_name(name) == kept else kept


def is_ours(name: str) -> bool:
    """Whether no dropped file has this name in a job's folder: those are for the daemon's own."""
    return name.startswith(tuple(_OURS))


def job_id(sequence: int, now: datetime, name: str) -> str:
    """Return ``000042-20261120-131500-pmma_50kw``: sorts by sequence, tells a person the rest."""
    stem = name
    for end in _KINDS:
        stem = stem.removesuffix(end)
    slug = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:_SLUG_LENGTH]
    return f"{sequence:06d}-{now:%Y%m%d-%H%M%S}-{slug or 'job'}"


def sequence_of(folder: str) -> int | None:
    """Return the sequence number of a job folder's name; None for a stranger."""
    match = _JOB_ID.match(folder)
    return int(match.group(1)) if match else None


def shown_name(name: str) -> str:
    """Return a name that can be printed anywhere: no control characters, no stray bytes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
