"""What survives a power cut: only what was synced, as seen by whoever keeps the synced bytes."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import trio

from capa.channels.sample import Sample
from capa.storage.bundle import FLUSH_S, BundleWriter
from capa.storage.inflight import EVENTS_FILE, INFLIGHT_FILE, wal_of
from capa.storage.seal import finalize_bundle
from capa.storage.syncer import SYNC_INTERVAL_S
from tests.support.bundles import messages, new_writer, say

PATIENCE_S = 5.0


class Disk:
    """Keeps, of each log, how much of it was there when its latest sync began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: dict[int, int] = {}
        honest = os.fdatasync

        def fdatasync(descriptor: int) -> None:
            told = os.fstat(descriptor)
            honest(descriptor)
            self.synced[told.st_ino] = told.st_size

        monkeypatch.setattr(os, "fdatasync", fdatasync)

    def after_the_cut(self, bundle: Path, target: Path) -> Path:
        """A copy of the bundle as the power would leave it: each log as long as it was synced."""
        copy = Path(shutil.copytree(bundle, target, ignore=shutil.ignore_patterns("*-shm")))
        for name in (EVENTS_FILE, INFLIGHT_FILE):
            os.truncate(wal_of(copy / name), self.covers(wal_of(bundle / name)))
        return copy

    def covers(self, log: Path) -> int:
        return self.synced.get(log.stat().st_ino, 0)


async def _until(done: Callable[[], bool], within_s: float) -> None:
    began_s = time.monotonic()
    while not done():
        assert time.monotonic() - began_s < within_s, "it is not on the disk"
        await trio.sleep(0.002)


async def test_a_warning_is_on_the_disk_at_once_and_does_not_wait_for_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capa.storage.syncer.SYNC_INTERVAL_S", 3600.0)
    disk = Disk(monkeypatch)
    writer = new_writer(tmp_path, threaded=True)
    await _say_and_commit(writer, "the first round goes at once")
    log = wal_of(writer.path / EVENTS_FILE)
    await _until(lambda: disk.covers(log) > 0, PATIENCE_S)
    say(writer, "over temperature", severity="warning")
    await writer.committed()
    size = log.stat().st_size
    await _until(lambda: disk.covers(log) >= size, PATIENCE_S)

    cut = disk.after_the_cut(writer.path, tmp_path / "cut")
    await writer.close(run_status="completed", exit_reason="", extra={})
    assert finalize_bundle(cut).sealed
    assert "over temperature" in messages(cut)


async def test_samples_and_events_survive_the_power_cut_that_follows_a_round_of_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    writer = new_writer(tmp_path, threaded=True)
    log = wal_of(writer.path / INFLIGHT_FILE)
    before = log.stat().st_size
    writer.write_samples([Sample("a", 20.0, at_s=1.0)])
    writer.flush()
    await _say_and_commit(writer, "fine")
    await _until(lambda: log.stat().st_size > before, PATIENCE_S)
    size = log.stat().st_size
    await _until(lambda: disk.covers(log) >= size, PATIENCE_S)

    cut = disk.after_the_cut(writer.path, tmp_path / "cut")
    await writer.close(run_status="completed", exit_reason="", extra={})
    assert finalize_bundle(cut).sealed
    assert messages(cut) == ["fine"]
    assert pq.read_table(cut / "scalars.parquet")["value"].to_pylist() == [20.0]


def test_a_flush_and_a_round_of_syncs_together_take_less_than_a_second() -> None:
    assert FLUSH_S + SYNC_INTERVAL_S < 1.0


async def _say_and_commit(writer: BundleWriter, message: str) -> None:
    say(writer, message)
    await writer.committed()
