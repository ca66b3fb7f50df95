"""A bundle in memory, for the unit tests of procedures and for rehearsals: no thread, no file."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import trio

from capa.channels.sample import Sample
from capa.storage.events import Event, Severity

__all__ = ["MemoryBundleWriter"]


class MemoryBundleWriter:
    """Keeps what a bundle would hold in lists: ``events``, ``samples``, ``records``."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.samples: list[Sample] = []
        self.records: list[dict[str, Any]] = []

    def write_event(
        self,
        *,
        kind: str,
        message: str,
        severity: Severity = "info",
        source: str,
        t_mono_ns: int,
        t_utc: datetime,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one event."""
        self.events.append(
            Event(t_mono_ns, t_utc, kind, severity, source, message, dict(metadata or {}))
        )

    def write_samples(self, samples: Sequence[Sample]) -> None:
        """Keep samples."""
        self.samples.extend(samples)

    def log(self, record: Mapping[str, Any]) -> None:
        """Keep one record of the run's log."""
        self.records.append(dict(record))

    async def committed(self) -> None:
        """Return at once: memory is as durable as it gets."""
        await trio.lowlevel.checkpoint()

    @property
    def kinds(self) -> list[str]:
        """The kinds of all events, in order."""
        return [event.kind for event in self.events]

    def of_kind(self, kind: str) -> list[Event]:
        """Return the events of one kind, in order."""
        return [event for event in self.events if event.kind == kind]
