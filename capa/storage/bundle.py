"""The bundle of a run that is going on: everything the run says, on its way to the disk."""

import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import trio

from capa.channels.sample import Sample
from capa.clock import RunClock, utc_now
from capa.devices.adapter import Reading
from capa.errors import BundleError
from capa.storage.events import Severity, metadata_json, storable
from capa.storage.folder import free_reserve, make_folder
from capa.storage.health import DeviceHealthRow, RecorderHealthRow
from capa.storage.inflight import EVENTS_FILE, INFLIGHT_FILE, EventRow, EventStore, InflightStore
from capa.storage.lock import FolderLock
from capa.storage.manifest import (
    FORMAT_VERSION,
    Manifest,
    RecorderStats,
    RunStatus,
    versions,
    write_manifest,
)
from capa.storage.recorder import Recorder
from capa.storage.records import RecordBuffer, Talker
from capa.storage.samples import SampleBuffer
from capa.storage.syncer import Syncer
from capa.storage.waiters import Waiters

__all__ = ["LOG_FILE", "BundleWriter", "RecorderHealth", "new_run_id"]

LOG_FILE = "run.log"
FLUSH_S = 0.5
COMMIT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 10.0
SYNC_PATIENCE_S = 5.0
"""A disk that takes longer than this for a sync is not to be relied on."""
STATUS_FLUSHES = 2
"""Every so many flushes, the recorder's own health goes into the file: once a second."""
MAX_BUFFERED_SAMPLES = 2048
"""A burst larger than this is packed at once, so that packing never holds the loop for long."""


def new_run_id(now: datetime) -> str:
    """Return ``YYYYMMDD-HHMMSS-<4 hex>`` in UTC."""
    return f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@dataclass(frozen=True, slots=True)
class RecorderHealth:
    """How the recorder is doing; ``failed`` says in words why nothing is written just now.

    ``lag_s`` is for how long the file has been behind the run, ``heartbeat_at_s`` (trio's clock)
    when the recorder last answered; None until ``run`` has seen it answer once.
    """

    queue_depth: int
    lag_s: float
    pending_samples: int
    dropped_samples: int
    failed: str | None
    failures: int
    heartbeat_at_s: float | None
    written: int = 0
    """Events and samples in the files so far: what shows progress where work never runs out."""
    unsynced_s: float = 0.0
    """For how long there has been something that a power cut would take."""


class BundleWriter:
    """Takes events, samples and log records of one run; see ``create``.

    Every method that takes something returns at once. One recorder thread commits, another one
    syncs; with ``threaded=False`` there is neither, and ``committed``, ``flush`` and ``close``
    do the work where they are called: for virtual time, in which waiting for a thread would let
    the clock run away.
    """

    def __init__(
        self,
        path: Path,
        clock: RunClock,
        manifest: Manifest,
        recorder: Recorder,
        waiters: Waiters,
        lock: FolderLock,
        *,
        syncer: Syncer | None,
    ) -> None:
        self.path = path
        self.run_id = manifest.run_id
        self._manifest = manifest
        self._recorder = recorder
        self._waiters = waiters
        self._lock = lock
        self._syncer = syncer
        self._threaded = syncer is not None
        self._buffer = SampleBuffer(clock)
        self._records = RecordBuffer(clock)
        self._clock = clock
        self._pings = 0
        self._heartbeat_at_s: float | None = None
        self._closed = False
        self._closing = trio.Event()

    @classmethod
    def create(
        cls,
        runs_root: Path,
        run_id: str,
        clock: RunClock,
        *,
        files: Mapping[str, str],
        manifest: Mapping[str, Any],
        channels: Mapping[str, str],
        channel_info: Mapping[str, Mapping[str, Any]] | None = None,
        threaded: bool = True,
    ) -> Self:
        """Make the folder ``runs_root/run_id`` and start recording; blocks on the disk.

        Args:
            runs_root: made when it is missing.
            run_id: see ``new_run_id``.
            clock: the run's timebase.
            files: names and texts to keep beside the data (``method.toml`` ...).
            manifest: what is known of the run by now, by the manifest's field names.
            channels: unit of each channel.
            channel_info: what else is to be known of each channel; see docs/bundle-format.md.
            threaded: whether to use threads of its own; see the class.

        Raises:
            BundleError: the folder cannot be made or written; nothing is left of it.
        """
        started = Manifest(
            run_id=run_id,
            created_utc=utc_now(),
            started_utc=clock.anchor_utc,
            versions=versions(),
        ).merged(manifest)
        path = runs_root / run_id
        try:
            lock = make_folder(path, files, started)
            try:
                told = channel_info or {}
                return cls._open(path, lock, clock, started, channels, told, threaded=threaded)
            except BaseException:
                lock.release()
                raise
        except (OSError, sqlite3.Error) as error:
            raise BundleError(
                f"{path}: cannot open a bundle here: {error}; check space and permissions"
            ) from error

    @classmethod
    def _open(
        cls,
        path: Path,
        lock: FolderLock,
        clock: RunClock,
        manifest: Manifest,
        channels: Mapping[str, str],
        channel_info: Mapping[str, Mapping[str, Any]],
        *,
        threaded: bool,
    ) -> Self:
        waiters = Waiters()
        syncer = _syncer(path) if threaded else None
        meta = {
            "run_id": manifest.run_id,
            "anchor_utc": clock.anchor_utc.isoformat(),
            "format_version": str(FORMAT_VERSION),
            "channel_info": metadata_json(channel_info),
        }
        recorder = Recorder(
            EventStore(path / EVENTS_FILE, run_id=manifest.run_id),
            InflightStore(path / INFLIGHT_FILE, meta=meta, units=channels),
            path / LOG_FILE,
            syncer=syncer,
            on_change=waiters.wake,
        )
        if syncer is not None:
            syncer.on_error = recorder.sync_failed
            syncer.on_synced = recorder.synced
            syncer.start()
            recorder.start()
        return cls(path, clock, manifest, recorder, waiters, lock, syncer=syncer)

    @property
    def health(self) -> RecorderHealth:
        """How the recorder is doing, now."""
        recorder, samples = self._recorder, self._recorder.waiting.samples
        return RecorderHealth(
            queue_depth=recorder.pending_events,
            lag_s=recorder.lag_s,
            pending_samples=samples.pending + len(self._buffer),
            dropped_samples=samples.dropped,
            failed=recorder.failed,
            failures=recorder.failures,
            heartbeat_at_s=self._heartbeat_at_s,
            written=recorder.committed + samples.stored,
            unsynced_s=0.0 if self._syncer is None else self._syncer.behind_s,
        )

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
        """Take an event; never blocks, never drops it, never raises for what the metadata holds."""
        self._recorder.put_event(
            EventRow(
                t_mono_ns,
                t_utc.isoformat(),
                storable(kind),
                storable(severity),
                storable(source),
                storable(message),
                metadata_json(metadata),
            )
        )

    def write_samples(self, samples: Sequence[Sample]) -> None:
        """Take samples; never blocks. They are handed to the recorder every ``FLUSH_S``."""
        self._buffer.extend(samples)
        if len(self._buffer) >= MAX_BUFFERED_SAMPLES:
            self.flush()

    def write_records(self, talker: Talker, readings: Sequence[Reading]) -> None:
        """Take what a device said, as it said it; never blocks."""
        self._records.extend(talker, readings)
        if len(self._records) >= MAX_BUFFERED_SAMPLES:
            self.flush()

    def write_health(self, rows: Sequence[DeviceHealthRow]) -> None:
        """Take how the devices are doing; never blocks."""
        self._recorder.put_packed(tuple(rows))

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one record of ``run.log``, JSON lines; never blocks."""
        self._recorder.put_log(metadata_json(record).encode() + b"\n")

    def flush(self) -> None:
        """Hand over the samples and records gathered so far."""
        if len(self._buffer) or len(self._records):
            self._recorder.put_packed((*self._buffer.take(), *self._records.take()))
        if not self._threaded:
            self._recorder.pump()

    async def committed(self) -> None:
        """Return once every event written so far is in the file and so survives the process.

        Raises:
            BundleError: the recorder cannot write; what asked for it must not go on.
        """
        recorder = self._recorder
        if not self._threaded:
            recorder.pump()
        wanted = recorder.taken
        with trio.move_on_after(COMMIT_TIMEOUT_S) as deadline:
            await self._waiters.wait_until(
                lambda: recorder.committed >= wanted or recorder.failed is not None
            )
        if recorder.committed >= wanted:
            return
        if deadline.cancelled_caught:
            raise BundleError(
                f"{self.path}: the recorder has not answered for {COMMIT_TIMEOUT_S:g} s; "
                f"check the disk"
            )
        raise BundleError(f"{recorder.failed}; check the disk")

    async def wait_failed(self) -> str:
        """Return, in words, why the recorder cannot write, once it cannot."""
        recorder = self._recorder
        await self._waiters.wait_until(lambda: recorder.failed is not None)
        return recorder.failed or "the recorder failed and has recovered"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand over samples every ``FLUSH_S`` and watch the recorder, until closed."""
        task_status.started()
        while not self._closed:
            self._pings += 1
            self._recorder.ping(self._pings)
            if self._pings % STATUS_FLUSHES == 0:
                self._note_health()
            self.flush()
            with trio.move_on_after(FLUSH_S):
                await self._closing.wait()
            if self._recorder.answered == self._pings:
                self._heartbeat_at_s = trio.current_time()

    def _note_health(self) -> None:
        """Put the recorder's own health on record, and complain of a sync that does not end."""
        health, now_ns = self.health, self._clock.t_mono_ns()
        row = RecorderHealthRow(
            now_ns,
            self._clock.utc_at(now_ns).isoformat(),
            health.queue_depth,
            round(health.lag_s, 3),
            health.pending_samples,
            health.dropped_samples,
            health.failures,
        )
        self._recorder.put_packed((row,))
        if health.failed is None and health.unsynced_s > SYNC_PATIENCE_S:
            self._recorder.sync_failed(
                f"{self.path}: the disk has not finished a sync for {health.unsynced_s:.0f} s"
            )

    async def close(
        self, *, run_status: RunStatus, exit_reason: str, extra: Mapping[str, Any]
    ) -> None:
        """Commit what is left, write the outcome into the manifest, end the threads.

        Takes at most about ``CLOSE_TIMEOUT_S``, whatever the disk does; what could not be written
        is counted in the manifest, or, when that cannot be written either, in ``health``.
        A second call does nothing.
        """
        if self._closed:
            return
        free_reserve(self.path)
        self.flush()
        self._closed = True
        self._closing.set()
        outcome = {
            "run_status": run_status,
            "bundle_status": "finalizing",
            "exit_reason": exit_reason,
            "ended_utc": self._clock.t_utc(),
            "duration_s": self._clock.t_mono_s(),
        }
        values = dict(extra) | outcome
        if not self._threaded:
            self._finish(values)
            return
        with trio.move_on_after(CLOSE_TIMEOUT_S + 1, shield=True):
            await trio.to_thread.run_sync(self._finish, values, abandon_on_cancel=True)

    def _finish(self, values: Mapping[str, Any]) -> None:
        recorder = self._recorder
        recorder.stop(CLOSE_TIMEOUT_S - 2)
        stats = self._stats()
        try:
            write_manifest(
                self.path, self._manifest.merged({**values, "recorder": stats.model_dump()})
            )
        except OSError as error:
            recorder.fail(f"{self.path}: the manifest cannot be written: {error}")
        self._lock.release()

    def _stats(self) -> RecorderStats:
        recorder = self._recorder
        samples, records = recorder.waiting.samples, recorder.waiting.records
        return RecorderStats(
            events=recorder.committed,
            events_lost=recorder.pending_events,
            samples=samples.stored,
            samples_dropped=samples.dropped,
            samples_lost=samples.pending,
            records=records.stored,
            records_dropped=records.dropped,
            records_lost=records.pending,
            failures=recorder.failures,
            last_failure=recorder.last_failure,
        )


def _syncer(path: Path) -> Syncer:
    return Syncer([path / EVENTS_FILE, path / INFLIGHT_FILE], [path / LOG_FILE])
