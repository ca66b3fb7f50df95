"""Which vital loops have shown lately that they live."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Heartbeat", "Heartbeats"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a loop last came round (trio's clock), and how long it may take to come round again."""

    last_at_s: float
    max_age_s: float


Source = Callable[[], Mapping[str, Heartbeat]]


class Heartbeats:
    """Gathers the heartbeats of whoever is vital at the moment."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def watch(self, source: Source) -> None:
        """Have ``source`` asked from now on."""
        self._sources.append(source)

    def unwatch(self, source: Source) -> None:
        """Ask it no more: what it spoke for has ended properly."""
        self._sources.remove(source)

    def stale(self, now_s: float) -> dict[str, float]:
        """Return the loops that are overdue, with the age of their last heartbeat in seconds."""
        overdue = {}
        for source in self._sources:
            for name, beat in source().items():
                age_s = now_s - beat.last_at_s
                if age_s > beat.max_age_s:
                    overdue[name] = age_s
        return overdue
