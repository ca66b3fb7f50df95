"""Reading a bundle: ``open_bundle``, whatever state the bundle is in.

A sealed bundle, one that is being recorded, one that a power cut left: what can be read is read,
and nothing in the folder is changed. Arrow is loaded when samples are asked for, not before.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from capa.errors import BundleError
from capa.storage.inflight import EVENTS_FILE, connect_for_reading
from capa.storage.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from capa.config.problems import Problem

__all__ = ["Bundle", "RecordedEvent", "open_bundle"]

_SEVERITIES = ("debug", "info", "warning", "error", "critical")


class RecordedEvent(NamedTuple):
    """One row of ``events``: ``t_mono_ns`` counts from the arming, ``t_utc`` is ISO 8601."""

    id: int
    t_mono_ns: int
    t_utc: str
    kind: str
    severity: str
    source: str
    message: str
    metadata_json: str

    @property
    def at_s(self) -> float:
        """Seconds since the run was armed."""
        return self.t_mono_ns / 1e9


class Bundle:
    """One bundle, read when asked; see ``open_bundle``.

    ``manifest`` is what it was when the bundle was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest = read_manifest(path)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.manifest.run_id

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What became of each step, in the order in which they began; see the bundle's format."""
        data = self.manifest.model_dump(mode="json")
        steps = data.get("steps") or data["custom"].get("steps") or []
        return [step for step in steps if isinstance(step, dict)]

    def channels(self) -> dict[str, str]:
        """Return the unit of each channel, in the order in which they are stored.

        Raises:
            BundleError: the samples can't be read.
        """
        from capa.storage.tables import channel_units

        return channel_units(self.path)

    def scalars(
        self,
        channels: Sequence[str] | None = None,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> "pa.Table":
        """Return samples as an Arrow table (``.to_pandas()`` where pandas is installed).

        Columns: channel, t_mono_ns, t_mono_s, t_utc, value, unit, status, raw_value; sorted by
        channel, then by time.

        Args:
            channels: those to return; None for all.
            start_s: the first second since the arming to return.
            end_s: the second before which to end.

        Raises:
            BundleError: the samples can't be read, or a channel is not in the bundle.
        """
        from capa.storage.tables import read_scalars

        return read_scalars(
            self.path,
            channels,
            start_ns=None if start_s is None else round(start_s * 1e9),
            end_ns=None if end_s is None else round(end_s * 1e9),
            anchor_utc=self.manifest.started_utc,
        )

    def recorded_s(self) -> float:
        """Return for how long the run was recorded: its duration, or until the last event."""
        if self.manifest.duration_s:
            return self.manifest.duration_s
        with self._events() as connection:
            (last_ns,) = connection.execute(
                "SELECT max(CAST(t_mono_ns AS INTEGER)) FROM events"
            ).fetchone()
        return (last_ns or 0) / 1e9

    def events(
        self,
        *,
        kind: str | None = None,
        at_least: str = "debug",
        after_id: int = 0,
        limit: int | None = None,
    ) -> list[RecordedEvent]:
        """Return events in the order in which they were written.

        Args:
            kind: only those of this kind, or whose kind begins with it where it ends in ``.``.
            at_least: the lowest severity to return.
            after_id: only those with a higher id: to follow a run that is going on.
            limit: at most so many.

        Raises:
            BundleError: the events can't be read.
            ValueError: there is no such severity.
        """
        wanted = _SEVERITIES[_rank(at_least) :]
        marks = ", ".join("?" * len(wanted))
        fields = ", ".join(map(_as_told, RecordedEvent._fields))
        query = f"SELECT {fields} FROM events WHERE id > ? AND severity IN ({marks})"  # noqa: S608 - our own names
        values: list[object] = [after_id, *wanted]
        if kind is not None:
            query += " AND substr(kind, 1, ?) = ?" if kind.endswith(".") else " AND kind = ?"
            values += [len(kind), kind] if kind.endswith(".") else [kind]
        query += " ORDER BY id LIMIT ?"
        values.append(-1 if limit is None else limit)
        with self._events() as connection:
            return [RecordedEvent(*row) for row in connection.execute(query, values)]

    def event_counts(self) -> dict[str, int]:
        """Return how many events of each kind there are."""
        with self._events() as connection:
            return dict(connection.execute("SELECT kind, count(*) FROM events GROUP BY kind"))

    def verify(self) -> "list[Problem]":
        """Hash every file again; return what is wrong, nothing when the bundle is whole."""
        from capa.storage.verify import verify_bundle

        return verify_bundle(self.path)

    @contextmanager
    def _events(self) -> Iterator[sqlite3.Connection]:
        path = self.path / EVENTS_FILE
        if not path.exists():
            raise BundleError(f"{path}: is missing; see what capa bundle verify says")
        try:
            with closing(connect_for_reading(path)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise BundleError(f"{path}: the events can't be read: {error}") from error


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle for reading.

    Raises:
        BundleError: there is no manifest, or one that can't be read or is newer than this capa.
    """
    return Bundle(Path(path))


def _as_told(name: str) -> str:
    """Return a column as what it is to be, whatever an altered row has there."""
    kind, none = ("INTEGER", "0") if name in ("id", "t_mono_ns") else ("TEXT", "''")
    return f"coalesce(CAST({name} AS {kind}), {none})"


def _rank(severity: str) -> int:
    """Return a severity's place, the mildest first."""
    try:
        return _SEVERITIES.index(severity)
    except ValueError:
        known = ", ".join(_SEVERITIES)
        raise ValueError(f"there is no severity {severity!r}; there are {known}") from None
