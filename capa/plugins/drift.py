"""What is installed, held against what the lock trusts."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from capa.plugins.lock import LockedPlugin, PluginsLock

__all__ = ["Drift", "DriftKind", "Installed", "compare", "drift_of", "record_of"]


class DriftKind(StrEnum):
    """How an installation can differ from its lock."""

    MISSING_FROM_INSTALL = "missing from install"
    MISSING_FROM_LOCK = "missing from lock"
    VERSION = "version"
    HASH = "hash"
    ENTRY_POINT = "entry point"


@dataclass(frozen=True, slots=True)
class Installed:
    """A third-party plug-in as its distribution declares it, before any of its code has run.

    ``id`` is the entry point's name until the class is loaded and says its own. ``hash`` is None
    where it could not be taken.
    """

    id: str
    package: str
    version: str
    entry_point: str
    hash: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference; ``locked`` and ``installed`` are what the two sides say."""

    kind: DriftKind
    id: str
    package: str
    locked: str | None = None
    installed: str | None = None

    def __str__(self) -> str:
        """Return the difference in words."""
        match self.kind:
            case DriftKind.MISSING_FROM_INSTALL:
                return f"{self.id} ({self.package}) is in the lock and not installed"
            case DriftKind.MISSING_FROM_LOCK:
                return f"{self.id} ({self.package}) is installed and not in the lock"
            case kind:
                seen = "could not be taken" if self.installed is None else f"is {self.installed}"
                return f"{kind} of {self.id} {seen}, the lock has {self.locked}"


def drift_of(lock: PluginsLock, installed: Sequence[Installed]) -> tuple[Drift, ...]:
    """Return every difference between a lock and what is installed."""
    found: list[Drift] = []
    seen: set[str] = set()
    for item in installed:
        record = record_of(lock, item)
        if record is not None:
            seen.add(record.id)
        found += compare(record, item)
    return (
        *found,
        *(
            Drift(DriftKind.MISSING_FROM_INSTALL, record.id, record.package)
            for record in lock.plugins
            if record.id not in seen
        ),
    )


def compare(record: LockedPlugin | None, item: Installed) -> list[Drift]:
    """Return how one plug-in differs from its record; nothing for one that is as trusted."""
    if record is None:
        return [Drift(DriftKind.MISSING_FROM_LOCK, item.id, item.package)]
    pairs = (
        (DriftKind.VERSION, record.version, item.version),
        (DriftKind.ENTRY_POINT, record.entry_point, item.entry_point),
        (DriftKind.HASH, record.distribution_hash, item.hash),
    )
    return [
        Drift(kind, record.id, item.package, locked, found)
        for kind, locked, found in pairs
        if locked != found
    ]


def record_of(lock: PluginsLock, item: Installed) -> LockedPlugin | None:
    """Find the record of a plug-in: of its package, by its id, else by its entry point."""
    own = [one for one in lock.plugins if _same_package(one.package, item.package)]
    return _first(one for one in own if one.id == item.id) or _first(
        one for one in own if one.entry_point == item.entry_point
    )


def _first(records: Iterable[LockedPlugin]) -> LockedPlugin | None:
    return next(iter(records), None)


def _same_package(one: str, other: str) -> bool:
    """Compare as the packaging specification's name normalization does."""
    return _normal(one) == _normal(other)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
