"""The recorder: samples per second to durable files, CPU at a rig's rate, latency of an event."""

import os
import sqlite3
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from unittest.mock import patch

import trio

from bench.long_run import CHANNELS
from bench.table import Table
from capa.channels.sample import Sample, Status
from capa.clock import RunClock
from capa.devices.adapter import FieldInfo, Reading
from capa.storage.bundle import BundleWriter
from capa.storage.inflight import EVENTS_FILE, wal_of

__all__ = ["cpu", "latency", "rate"]

_SAMPLES = 600_000
_BATCH = 2048
_KEPT = 50 * _BATCH
"""So many samples are made, and recorded over and over."""
_MOST_PENDING = 200_000
_SYNC_S = 0.4
_WINDOW_S = 15.0
_PERIOD_S = 0.1
_EVENTS = 1000
_WARNINGS = 100
_CODES = {status: code for code, status in enumerate(Status)}


class _Device:
    """What a record names: a device with five fields."""

    family = "bench"

    def __init__(self, number: int) -> None:
        self.name = f"d{number}"
        self.fields = {f"f{place}": FieldInfo(f"f{place}", "degC") for place in range(5)}


def rate(table: Table, directory: Path) -> None:
    """As fast as it goes, until the last sample would survive a power cut; best of three."""
    samples = [
        Sample(CHANNELS[number % len(CHANNELS)], 20.0 + number * 1e-3, number / 300, raw_value=20.0)
        for number in range(_KEPT)
    ]
    batches = [samples[start : start + _BATCH] for start in range(0, _KEPT, _BATCH)]
    ours, rows, packed = [], [], []
    for turn in range(3):
        rows.append(_plain_loop(directory / f"rows{turn}.sqlite", batches, _insert_rows))
        packed.append(_plain_loop(directory / f"packed{turn}.sqlite", batches, _insert_packed))
        ours.append(trio.run(_recorded, directory / f"rate{turn}", batches))
    table.add("plain SQLite loop, a row a sample, durable", max(rows) / 1e3, "k/s")
    table.add("plain SQLite loop, the same packed batches, durable", max(packed) / 1e3, "k/s")
    table.add("recorder, samples to durable files", max(ours) / 1e3, "k/s", at_least=100)
    table.add("  against the rows", max(ours) / max(rows), "x", at_least=0.5)
    table.add("  against the packed batches", max(ours) / max(packed), "x", at_least=0.5)


_Insert = Callable[[sqlite3.Connection, Sequence[Sample]], object]


def _plain_loop(path: Path, batches: Sequence[Sequence[Sample]], insert: _Insert) -> float:
    """Return samples per second of the least one can do: no thread, no queue, a sync as often."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE samples (a, b, c, d, e)")
        wal = os.open(f"{path}-wal", os.O_RDONLY)
        began = synced_at = time.perf_counter()
        for number in range(_SAMPLES // _BATCH):
            connection.execute("BEGIN")
            insert(connection, batches[number % len(batches)])
            connection.execute("COMMIT")
            if time.perf_counter() - synced_at > _SYNC_S:
                os.fdatasync(wal)
                synced_at = time.perf_counter()
        os.fdatasync(wal)
        took_s = time.perf_counter() - began
        os.close(wal)
    return _SAMPLES // _BATCH * _BATCH / took_s


def _insert_rows(connection: sqlite3.Connection, batch: Sequence[Sample]) -> None:
    rows = [
        (it.channel, round(it.at_s * 1e9), it.value, _CODES[it.status], it.raw_value)
        for it in batch
    ]
    connection.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", rows)


def _insert_packed(connection: sqlite3.Connection, batch: Sequence[Sample]) -> None:
    columns = (
        " ".join(it.channel for it in batch),
        array("q", [round(it.at_s * 1e9) for it in batch]),
        array("d", [it.value for it in batch]),
        bytes(_CODES[it.status] for it in batch),
        array("d", [it.raw_value or 0.0 for it in batch]),
    )
    connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", columns)


async def _recorded(root: Path, batches: Sequence[Sequence[Sample]]) -> float:
    """Return samples per second; what is asked for is waited for, so that none is dropped."""
    writer = _writer(root)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        began = time.perf_counter()
        for number in range(_SAMPLES // _BATCH):
            writer.write_samples(batches[number % len(batches)])
            await trio.lowlevel.checkpoint()
            if writer.health.pending_samples > _MOST_PENDING:
                await _until(lambda: writer.health.pending_samples <= _MOST_PENDING)
        writer.flush()
        await _until(lambda: not writer.health.pending_samples and not writer.health.unsynced_s)
        took_s = time.perf_counter() - began
        assert writer.health.dropped_samples == 0
        await writer.close(run_status="completed", exit_reason="", extra={})
    return _SAMPLES // _BATCH * _BATCH / took_s


def cpu(table: Table, directory: Path) -> None:
    """30 channels, ten times a second: what is above the same loop that keeps nothing."""
    bare = trio.run(_share, None, False)
    samples = trio.run(_share, directory / "cpu", False)
    records = trio.run(_share, directory / "cpu_records", True)
    table.add("loop that makes 300 samples/s and keeps none, CPU", bare * 100, "%")
    table.add("recording 300 samples/s, CPU above that", (samples - bare) * 100, "%", 1.0)
    table.add("  and 300 native records/s, CPU above that", (records - bare) * 100, "%", 1.0)


async def _share(root: Path | None, records: bool) -> float:
    """Return CPU over wall time of this process, all its threads."""
    writer = None if root is None else _writer(root)
    devices = [_Device(number) for number in range(6)]
    async with trio.open_nursery() as nursery:
        if writer is not None:
            await nursery.start(writer.run)
        start_s, began_s, began = trio.current_time(), time.process_time(), time.perf_counter()
        for tick in range(round(_WINDOW_S / _PERIOD_S)):
            await trio.sleep_until(start_s + tick * _PERIOD_S)
            now_s = trio.current_time()
            samples = [Sample(name, 20.0 + tick, now_s, raw_value=20.0) for name in CHANNELS]
            readings = [Reading(f"f{n}", 20.0, now_s, native="A +020.0") for n in range(5)]
            if writer is not None:
                writer.write_samples(samples)
                for device in devices if records else ():
                    writer.write_records(device, readings)
        share = (time.process_time() - began_s) / (time.perf_counter() - began)
        if writer is not None:
            await writer.close(run_status="completed", exit_reason="", extra={})
    return share


def latency(table: Table, directory: Path) -> None:
    """Of an event: until it survives the process, and of a warning until it survives the power."""
    commit_ms, sync_ms = _plain_commits(directory / "commits.sqlite")
    events_ms = trio.run(_events, directory / "events")
    warnings_ms = trio.run(_warnings, directory / "warnings")
    table.spread("plain SQLite commit of one event", commit_ms, "ms")
    table.spread("event, written until committed() returns", events_ms, "ms")
    table.spread("plain SQLite commit and fdatasync", sync_ms, "ms")
    table.spread("warning, written until its fdatasync ends", warnings_ms, "ms")


def _plain_commits(path: Path) -> tuple[list[float], list[float]]:
    plain, synced = [], []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, message TEXT)")
        wal = os.open(f"{path}-wal", os.O_RDONLY)
        for number in range(_EVENTS):
            began = time.perf_counter()
            connection.execute("INSERT INTO events (message) VALUES (?)", (f"event {number}" * 9,))
            plain.append((time.perf_counter() - began) * 1e3)
            if number % (_EVENTS // _WARNINGS) == 0:
                os.fdatasync(wal)
                synced.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.002)
        os.close(wal)
    return plain, synced


async def _events(root: Path) -> list[float]:
    """Return how long each event took, while 300 samples/s are recorded."""
    writer = _writer(root)
    took_ms = []
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        for number in range(_EVENTS):
            if number % 50 == 0:
                writer.write_samples([Sample(name, 20.0, number / 300) for name in CHANNELS])
            began = time.perf_counter()
            _say(writer, number)
            await writer.committed()
            took_ms.append((time.perf_counter() - began) * 1e3)
            await trio.sleep(0.002)
        await writer.close(run_status="completed", exit_reason="", extra={})
    return took_ms


async def _warnings(root: Path) -> list[float]:
    """Return how long each took to be on the disk: until the first sync that covers it has ended.

    Every sync is watched: which file, how long it was when the sync began, when it ended.
    """
    writer = _writer(root)
    log = wal_of(writer.path / EVENTS_FILE)
    honest, seen = os.fdatasync, [(0, 0.0)]

    def watched(descriptor: int) -> None:
        told = os.fstat(descriptor)
        honest(descriptor)
        if os.path.samestat(told, log.stat()):
            seen.append((told.st_size, time.perf_counter()))

    took_ms = []
    with patch.object(os, "fdatasync", watched):
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            for number in range(_WARNINGS):
                began = time.perf_counter()
                _say(writer, number, urgent=True)
                await writer.committed()
                wanted = log.stat().st_size
                await _until(partial(_reached, seen, wanted))
                took_ms.append((_ended(seen, wanted) - began) * 1e3)
                await trio.sleep(0.002)
            await writer.close(run_status="completed", exit_reason="", extra={})
    return took_ms


def _reached(seen: Sequence[tuple[int, float]], size: int) -> bool:
    return seen[-1][0] >= size


def _ended(seen: Sequence[tuple[int, float]], size: int) -> float:
    return next(at for reached, at in seen if reached >= size)


def _say(writer: BundleWriter, number: int, *, urgent: bool = False) -> None:
    writer.write_event(
        kind="command.intent",
        message=f"heater.setpoint <- {number}",
        severity="warning" if urgent else "info",
        source="bench",
        t_mono_ns=number,
        t_utc=datetime.now(UTC),
        metadata={"channel": "heater.setpoint", "value": float(number), "issued_by": "bench"},
    )


def _writer(root: Path) -> BundleWriter:
    return BundleWriter.create(
        root,
        "20261120-131500-0001",
        RunClock.start(),
        files={},
        manifest={},
        channels=dict.fromkeys(CHANNELS, "degC"),
    )


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 - the recorder's threads set no event of ours
        await trio.sleep(0.001)
