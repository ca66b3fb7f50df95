"""``runs/catalog.sqlite``: what ``capa bundle list`` knows of every bundle, without opening them.

Never the truth: each use compares it with the manifests that are there (by inode, size and time
of change) and reads those anew that differ. Remove it whenever you like. Where it can't be
written, because the folder belongs to somebody else, it is made in memory.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capa.errors import BundleError
from capa.storage.events import storable
from capa.storage.find import bundle_folders
from capa.storage.manifest import MANIFEST_FILE, Manifest, read_manifest

__all__ = ["CATALOG_FILE", "Filter", "RunRow", "catalogued", "verdict_of"]

CATALOG_FILE = "catalog.sqlite"
_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    folder TEXT PRIMARY KEY, stamp TEXT NOT NULL,
    run_id TEXT NOT NULL, run_status TEXT NOT NULL, bundle_status TEXT NOT NULL,
    exit_reason TEXT NOT NULL, started_utc TEXT, ended_utc TEXT, duration_s REAL,
    operator TEXT NOT NULL, sample TEXT NOT NULL, tags TEXT NOT NULL, method TEXT NOT NULL,
    procedure TEXT NOT NULL, profile TEXT NOT NULL, job TEXT NOT NULL, safe TEXT NOT NULL,
    samples INTEGER NOT NULL
)"""
_UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as the catalog has it; texts are empty where the manifest says nothing.

    ``sample`` and ``tags`` are JSON; ``safe`` is the weakest verdict; times are ISO 8601 in UTC. A
    manifest that can't be read gives ``run_status`` ``unreadable`` and the reason.
    """

    folder: str
    run_id: str
    run_status: str
    bundle_status: str
    exit_reason: str
    started_utc: str | None
    ended_utc: str | None
    duration_s: float | None
    operator: str
    sample: str
    tags: str
    method: str
    procedure: str
    profile: str
    job: str
    safe: str
    samples: int


_FIELDS = tuple(RunRow.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs to list; an empty field asks nothing. Texts match anywhere, whatever the case."""

    status: str = ""
    operator: str = ""
    sample: str = ""
    method: str = ""
    tag: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, run: RunRow) -> bool:
        """Whether a run is one of those."""
        return (
            (not self.status or self.status in (run.run_status, run.bundle_status))
            and _within(self.operator, run.operator)
            and _within(self.sample, run.sample)
            and _within(self.method, run.method)
            and (not self.tag or self.tag in json.loads(run.tags))
            and self._in_time(run)
        )

    def _in_time(self, run: RunRow) -> bool:
        if self.since is None and self.until is None:
            return True
        if run.started_utc is None:
            return False
        started = datetime.fromisoformat(run.started_utc)
        early = self.since is not None and started < self.since
        return not early and (self.until is None or started < self.until)


def catalogued(runs_root: Path, wanted: Filter | None = None) -> list[RunRow]:
    """Return the runs of a folder, oldest first, from a catalog that is brought up to date.

    Raises:
        BundleError: the folder can't be read.
    """
    folders = bundle_folders(runs_root)
    try:
        rows = _from_file(runs_root / CATALOG_FILE, folders)
    except sqlite3.Error:  # not ours to write, or in somebody's hands: go without
        with closing(sqlite3.connect(":memory:")) as connection:
            rows = _up_to_date(connection, folders)
    return rows if wanted is None else [row for row in rows if wanted.takes(row)]


def verdict_of(manifest: Manifest) -> str:
    """Return the weakest verdict of a run; empty when none was recorded."""
    found = {entry.verdict for entry in manifest.verdicts.values()}
    return next((v for v in ("unreachable", "commanded", "proven") if v in found), "")


def _from_file(path: Path, folders: list[Path]) -> list[RunRow]:
    try:
        with _opened(path) as connection:
            return _up_to_date(connection, folders)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged: it can be made again
        with suppress(OSError):
            path.unlink()
        with _opened(path) as connection:
            return _up_to_date(connection, folders)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=1.0)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        yield connection


def _up_to_date(connection: sqlite3.Connection, folders: list[Path]) -> list[RunRow]:
    """Read what changed, drop what is gone, return all."""
    with connection:
        connection.execute(_TABLE)
        known = dict(connection.execute("SELECT folder, stamp FROM runs").fetchall())
        stamps = {storable(folder.name): (_stamp(folder), folder) for folder in folders}
        gone = [(name,) for name in known.keys() - stamps.keys()]
        connection.executemany("DELETE FROM runs WHERE folder = ?", gone)
        marks = ", ".join("?" * (len(_FIELDS) + 1))
        fields = ", ".join(("stamp", *_FIELDS))
        for name, (stamp, folder) in stamps.items():
            if known.get(name) != stamp:
                row = _row(folder)
                texts = (getattr(row, field) for field in _FIELDS)
                values = [stamp, *(storable(it) if isinstance(it, str) else it for it in texts)]
                connection.execute(
                    f"INSERT OR REPLACE INTO runs ({fields}) VALUES ({marks})",  # noqa: S608 - our own names
                    values,
                )
    query = f"SELECT {', '.join(_FIELDS)} FROM runs ORDER BY folder"  # noqa: S608 - our own names
    return [RunRow(*row) for row in connection.execute(query)]


def _stamp(folder: Path) -> str:
    try:
        status = (folder / MANIFEST_FILE).stat()
    except OSError as error:
        return str(error.errno)
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _row(folder: Path) -> RunRow:
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        texts = dict.fromkeys(("operator", "method", "procedure", "profile", "job", "safe"), "")
        return RunRow(
            folder=folder.name,
            run_id=folder.name,
            run_status=_UNREADABLE,
            bundle_status=_UNREADABLE,
            exit_reason=str(error),
            started_utc=None,
            ended_utc=None,
            duration_s=None,
            sample="{}",
            tags="[]",
            samples=0,
            **texts,
        )
    return RunRow(
        folder=folder.name,
        run_id=manifest.run_id,
        run_status=manifest.run_status,
        bundle_status=manifest.bundle_status,
        exit_reason=manifest.exit_reason,
        started_utc=_utc(manifest.started_utc),
        ended_utc=_utc(manifest.ended_utc),
        duration_s=manifest.duration_s,
        operator=_named(manifest.operator),
        sample=json.dumps(manifest.sample, default=str),
        tags=json.dumps(list(manifest.tags)),
        method=manifest.method or "",
        procedure=_named(manifest.procedure),
        profile=manifest.profile or "",
        job=manifest.job or "",
        safe=verdict_of(manifest),
        samples=sum(entry.samples for entry in manifest.quality.values()),
    )


def _named(value: dict[str, Any] | str | None) -> str:
    return str(value.get("id", "")) if isinstance(value, dict) else value or ""


def _utc(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


def _within(part: str, text: str) -> bool:
    return part.casefold() in text.casefold()
