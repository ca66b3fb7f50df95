"""What a run says reaches the disk, in order, and a disk that refuses is a state, not a crash."""

import json
import math
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from capa.channels.sample import Sample, Status
from capa.errors import BundleError
from capa.storage import bundle, folder
from capa.storage.bundle import BundleWriter, new_run_id
from capa.storage.events import metadata_json
from capa.storage.inflight import EventRow, EventStore
from capa.storage.lock import is_held
from capa.storage.manifest import read_manifest
from capa.storage.memory import MemoryBundleWriter
from capa.storage.recorder import Recorder
from tests.support.bundles import CLOCK, messages, new_writer, read_json, say


async def close(writer: BundleWriter) -> None:
    await writer.close(run_status="completed", exit_reason="done", extra={})


def test_a_run_id_is_the_utc_second_and_four_hex() -> None:
    run_id = new_run_id(datetime(2026, 11, 20, 13, 15, tzinfo=UTC))
    assert run_id.startswith("20261120-131500-")
    int(run_id.removeprefix("20261120-131500-"), 16)
    assert len(run_id) == 20


async def test_a_new_bundle_is_running_and_open_and_holds_its_files(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "runs")
    manifest = read_manifest(writer.path)
    assert (manifest.run_status, manifest.bundle_status) == ("running", "open")
    assert manifest.started_utc == CLOCK.anchor_utc
    assert (writer.path / "method.toml").read_text() == "x = 1\n"
    assert [path.name for path in writer.path.parent.iterdir()] == [writer.run_id]
    await close(writer)


async def test_an_event_is_readable_by_another_program_once_committed(tmp_path: Path) -> None:
    writer = new_writer(tmp_path, threaded=True)
    say(writer, "setpoint 600")
    await writer.committed()
    assert messages(writer.path) == ["setpoint 600"]
    await close(writer)


async def test_committed_returns_in_milliseconds_and_covers_what_was_written_before(
    tmp_path: Path,
) -> None:
    writer = new_writer(tmp_path, threaded=True)
    for number in range(200):
        say(writer, str(number))
    began_s = time.perf_counter()
    await writer.committed()
    assert time.perf_counter() - began_s < 1.0  # a bound against hanging, not a measurement
    assert len(messages(writer.path)) == 200
    assert writer.health.queue_depth == 0
    assert writer.health.lag_s == 0
    await close(writer)


async def test_many_tasks_may_wait_for_the_recorder_at_once(tmp_path: Path) -> None:
    writer = new_writer(tmp_path, threaded=True)

    async def command(number: int) -> None:
        say(writer, str(number))
        await writer.committed()

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(command, number)
    assert sorted(map(int, messages(writer.path))) == list(range(20))
    await close(writer)


async def test_samples_are_flushed_every_half_second(
    tmp_path: Path, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    writer = new_writer(tmp_path)
    await nursery.start(writer.run)
    await trio.sleep(0.1)
    writer.write_samples([Sample("a", 1.0, at_s=0.1)])
    await trio.sleep(0.5)
    assert writer.health.pending_samples == 0
    await close(writer)


async def test_the_recorder_shows_a_heartbeat_while_it_answers(
    tmp_path: Path, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    writer = new_writer(tmp_path)
    before = writer.health
    assert before.heartbeat_at_s is None
    await nursery.start(writer.run)
    await trio.sleep(3)
    heartbeat_at_s = writer.health.heartbeat_at_s
    assert heartbeat_at_s is not None
    assert trio.current_time() - heartbeat_at_s <= 0.5
    await close(writer)


async def test_the_oldest_samples_are_dropped_and_counted_when_the_disk_falls_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MAX_BUFFERED_SAMPLES", 1)
    writer = new_writer(tmp_path)
    writer._recorder.waiting.limit = 3
    monkeypatch.setattr(writer._recorder, "pump", lambda: None)
    for number in range(10):
        writer.write_samples([Sample("a", number, at_s=number)])
    assert writer.health.dropped_samples == 7
    monkeypatch.undo()
    await close(writer)
    stats = read_manifest(writer.path).recorder
    assert stats is not None
    assert (stats.samples, stats.samples_dropped) == (3, 7)
    with closing(sqlite3.connect(writer.path / "inflight.sqlite")) as connection:
        rows = connection.execute("SELECT t_mono_ns FROM batches").fetchall()
    assert [int.from_bytes(row[0], "little") for row in rows] == [7 * 10**9, 8 * 10**9, 9 * 10**9]


class _FullDisk:
    """Makes the recorder's writes fail as SQLite does on a full disk, until told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        honest = EventStore.write

        def write(store: EventStore, rows: Iterable[EventRow]) -> None:
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
            honest(store, rows)

        monkeypatch.setattr(EventStore, "write", write)


async def test_on_a_full_disk_a_command_is_refused_in_words_and_nothing_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _FullDisk(monkeypatch)
    writer = new_writer(tmp_path, threaded=True)
    say(writer, "setpoint 600")
    with pytest.raises(BundleError, match=r"database or disk is full.*check the disk"):
        await writer.committed()
    assert "database or disk is full" in await writer.wait_failed()
    await close(writer)
    stats = read_manifest(writer.path).recorder
    assert stats is not None
    assert (stats.events, stats.events_lost) == (0, 1)
    assert "full" in (stats.last_failure or "")


async def test_events_wait_for_room_on_the_disk_and_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _FullDisk(monkeypatch)
    writer = new_writer(tmp_path)
    say(writer, "one")
    with pytest.raises(BundleError):
        await writer.committed()
    say(writer, "two")
    disk.full = False
    await writer.committed()
    assert messages(writer.path) == ["one", "two"]
    assert writer.health.failed is None
    assert writer.health.failures == 1
    await close(writer)


async def test_a_recorder_that_hangs_is_reported_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    writer = new_writer(tmp_path, threaded=True)
    monkeypatch.setattr(writer._recorder, "put_event", lambda row: None)
    monkeypatch.setattr(writer._recorder, "taken", 1)
    with pytest.raises(BundleError, match="has not answered for 5 s; check the disk"):
        await writer.committed()
    monkeypatch.undo()
    writer._recorder.taken = 0
    writer._finish({"run_status": "aborted"})


def test_a_folder_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "runs"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(BundleError, match=r"runs.*cannot open a bundle here.*permissions"):
        new_writer(blocked)
    assert blocked.read_text().startswith("a file")


async def test_a_run_id_that_is_taken_is_refused_and_the_old_bundle_stays(tmp_path: Path) -> None:
    first = new_writer(tmp_path)
    with pytest.raises(BundleError, match="there is a bundle of this name already"):
        new_writer(tmp_path)
    await close(first)
    assert read_manifest(first.path).run_status == "completed"


def test_a_bundle_that_cannot_be_begun_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, manifest: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_manifest", refuse)
    with pytest.raises(BundleError, match="No space left on device"):
        new_writer(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_bundle_is_in_hand_from_the_moment_that_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a daemon that starts just then seals what capa run is about to record."""
    held: list[bool] = []

    def looked(parent: Path) -> None:
        held.extend(is_held(path) for path in parent.iterdir())

    monkeypatch.setattr(folder, "fsync_dir", looked)
    writer = new_writer(tmp_path)
    assert held == [True]
    assert is_held(writer.path)
    await close(writer)
    assert not is_held(writer.path)


async def test_what_a_plugin_puts_into_metadata_never_loses_an_event(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    loop: dict[str, object] = {}
    loop["itself"] = loop
    for metadata in ({"x": math.nan}, {("a", 1): object()}, loop, {"when": datetime.now(UTC)}):
        writer.write_event(
            kind="k",
            message="m",
            source="s",
            t_mono_ns=0,
            t_utc=CLOCK.anchor_utc,
            metadata=metadata,  # type: ignore[arg-type]  # the point: a plug-in's mistake
        )
    await writer.committed()
    await close(writer)
    with closing(sqlite3.connect(writer.path / "events.sqlite")) as connection:
        texts = [row[0] for row in connection.execute("SELECT metadata_json FROM events")]
    assert len(texts) == 4
    for text in texts:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_plain_metadata_is_plain_json() -> None:
    assert metadata_json({"value": 1.5, "name": "Öfen"}) == '{"value": 1.5, "name": "Öfen"}'
    assert metadata_json(None) == "{}"


async def test_run_log_has_one_json_object_a_line(tmp_path: Path) -> None:
    writer = new_writer(tmp_path, threaded=True)
    for number in range(3):
        writer.log({"event": "step\nentered", "number": number})
    await close(writer)
    lines = (writer.path / "run.log").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2]


@dataclass(frozen=True)
class _Verdict:
    value: float
    verdict: str
    detail: str


async def test_the_outcome_is_in_the_manifest_before_anything_is_finalized(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    extra = {
        "verdicts": {"heater.setpoint": _Verdict(20.0, "proven", "read back 20.0")},
        "authorization_id": "00112233aabbccdd",
        "steps": [{"index": 1}],
        "tags": 7,
    }
    await writer.close(run_status="aborted", exit_reason="SIGINT", extra=extra)
    manifest = read_json(writer.path)
    assert manifest["run_status"] == "aborted"
    assert manifest["bundle_status"] == "finalizing"
    assert manifest["exit_reason"] == "SIGINT"
    assert manifest["verdicts"]["heater.setpoint"]["verdict"] == "proven"
    assert manifest["custom"] == {"steps": [{"index": 1}], "tags": 7}  # no field, and no fit


async def test_close_comes_back_although_the_run_is_being_cancelled(tmp_path: Path) -> None:
    writer = new_writer(tmp_path, threaded=True)
    say(writer, "last words")
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.close(run_status="aborted", exit_reason="stop", extra={})
    assert messages(writer.path) == ["last words"]
    assert read_manifest(writer.path).run_status == "aborted"


async def test_closing_twice_keeps_the_first_outcome(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    await close(writer)
    await writer.close(run_status="crashed", exit_reason="late", extra={})
    assert read_manifest(writer.path).run_status == "completed"


async def test_a_warning_is_synced_at_once_and_an_info_within_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = new_writer(tmp_path, threaded=True)
    syncer = writer._recorder._syncer
    assert syncer is not None
    urgencies: list[bool] = []
    honest = syncer.dirty

    def note(*, urgent: bool) -> None:
        urgencies.append(urgent)
        honest(urgent=urgent)

    monkeypatch.setattr(syncer, "dirty", note)
    say(writer, "fine")
    await writer.committed()
    say(writer, "over temperature", severity="warning")
    await writer.committed()
    await close(writer)
    assert urgencies[:2] == [False, True]
    assert syncer.syncs >= 2


async def test_status_and_raw_value_are_packed_as_the_format_says(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    writer.write_samples(
        [
            Sample("a", 21.5, at_s=1.0, raw_value=70.7),
            Sample("a", math.nan, at_s=2.0, status=Status.SENSOR_FAIL),
        ]
    )
    await close(writer)
    with closing(sqlite3.connect(writer.path / "inflight.sqlite")) as connection:
        row = connection.execute("SELECT n, t_mono_ns, status FROM batches").fetchone()
    assert row == (
        2,
        (10**9).to_bytes(8, "little") + (2 * 10**9).to_bytes(8, "little"),
        b"\x00\x04",
    )


async def test_a_procedure_can_be_tested_against_a_bundle_in_memory() -> None:
    writer = MemoryBundleWriter()
    writer.write_event(
        kind="a.b", message="m", source="s", t_mono_ns=1, t_utc=CLOCK.anchor_utc, metadata={"x": 1}
    )
    await writer.committed()
    assert writer.kinds == ["a.b"]
    assert writer.of_kind("a.b")[0].metadata == {"x": 1}


def test_the_recorder_is_level_with_the_run_before_anything_is_said(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    assert isinstance(writer._recorder, Recorder)
    assert writer.health.queue_depth == 0
    trio.run(close, writer)
