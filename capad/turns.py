"""Whose turn it is: the order of the queue, and what waits for its time.

A wall clock may jump: a box without a battery wakes in another year, a time server lies. A job
that a jump forward makes due is not started by it, at night and with nobody there: the queue is
held, and a person looks at the clock. A jump back only makes jobs wait longer.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from capad.jobs import Job, sequence_of, shown_name

__all__ = ["JUMP", "ClockWatch", "boot_s", "due", "first_ready", "waits_text"]

JUMP = timedelta(minutes=2)
"""A difference between the wall and the monotonic clock that no slewing makes."""


def boot_s() -> float:
    """Return the seconds since boot, those asleep included: what no wall clock can change."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def due(job: Job) -> datetime | None:
    """Return the instant before which a job is not started, if it names one."""
    return None if job.not_before is None else datetime.fromisoformat(job.not_before)


def first_ready(jobs: Sequence[Job], now_utc: datetime) -> int | None:
    """Return the place of the job whose turn it is: highest priority, then lowest number."""
    ready = [place for place, job in enumerate(jobs) if (due(job) or now_utc) <= now_utc]
    return min(ready, key=lambda place: _rank(jobs[place]), default=None)


def waits_text(jobs: Iterable[Job], now_utc: datetime) -> str:
    """Say, for the status line, what waits until when; empty when nothing does."""
    waiting = [(at, job) for job in jobs if (at := due(job)) is not None and at > now_utc]
    if not waiting:
        return ""
    at, job = min(waiting, key=lambda item: (item[0], _rank(item[1])))
    more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
    return f"{shown_name(job.name)} waits until {at.astimezone():%Y-%m-%d %H:%M}{more}"


def _rank(job: Job) -> tuple[int, int]:
    return (-job.priority, sequence_of(job.id) or 0)


@dataclass(slots=True)
class ClockWatch:
    """Compares the wall clock with a monotonic one from one look to the next."""

    _wall: datetime | None = None
    _mono_s: float = 0.0

    def jumped(self, wall: datetime, mono_s: float) -> timedelta:
        """Return by how much the wall clock jumped since the last look; zero for a small step."""
        before, self._wall = self._wall, wall
        passed, self._mono_s = mono_s - self._mono_s, mono_s
        if before is None:
            return timedelta()
        jump = wall - before - timedelta(seconds=passed)
        return jump if abs(jump) > JUMP else timedelta()
