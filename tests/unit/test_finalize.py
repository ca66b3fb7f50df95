"""From what a run left behind to a sealed bundle, and what is said when that can't be."""

import math
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
import trio

from capa.channels.sample import Sample, Status
from capa.storage import convert, repaired, row_groups, scalars, seal, work
from capa.storage.finalize import FinalizeResult, finalize_in_child, main
from capa.storage.inflight import EVENTS_FILE, INFLIGHT_FILE
from capa.storage.manifest import read_manifest
from capa.storage.seal import finalize_bundle
from capa.storage.verify import verify_bundle
from tests.support.bundles import (
    messages,
    new_writer,
    read_json,
    say,
    sha256sum_check,
    unsealed_bundle,
)
from tests.support.kills import killed_at

SAMPLES = [
    Sample("b", 1.25, at_s=0.5),
    Sample("a", 20.0, at_s=2.0, raw_value=68.0),
    Sample("a", 21.0, at_s=1.0, status=Status.SETTLING),
    Sample("a", math.nan, at_s=3.0, status=Status.COMM_ERROR),
]


def codes(path: Path) -> list[str]:
    return [problem.code for problem in verify_bundle(path)]


async def test_a_run_of_ten_thousand_samples_becomes_a_bundle_that_sha256sum_accepts(
    tmp_path: Path,
) -> None:
    writer = new_writer(tmp_path, threaded=True)
    say(writer, "begun")
    for number in range(5_000):
        at_s = number / 10
        writer.write_samples([Sample("a", number, at_s), Sample("b", -number, at_s)])
    await writer.committed()
    await writer.close(run_status="completed", exit_reason="done", extra={})

    result = await finalize_in_child(writer.path)

    assert result.sealed, result.detail
    check = sha256sum_check(writer.path)
    assert check.returncode == 0, check.stderr
    assert set(check.stdout.splitlines()) == {
        "env/packages.json: OK",
        "events.sqlite: OK",
        "manifest.json: OK",
        "method.toml: OK",
        "scalars.parquet: OK",
        "status.sqlite: OK",
    }
    table = pq.read_table(writer.path / "scalars.parquet")
    assert table.num_rows == 10_000
    assert table.slice(0, 5_000)["value"].to_pylist() == list(range(5_000))
    assert verify_bundle(writer.path) == []


def test_the_parquet_file_is_long_sorted_and_speaks_in_names_and_units(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    assert finalize_bundle(path) == FinalizeResult("sealed", "")
    rows = pq.read_table(path / "scalars.parquet").to_pylist()
    assert [(row["channel"], row["t_mono_s"], row["value"]) for row in rows] == [
        ("a", 1.0, 21.0),
        ("a", 2.0, 20.0),
        ("a", 3.0, None),
        ("b", 0.5, 1.25),
    ]
    assert [row["unit"] for row in rows] == ["degC", "degC", "degC", "g"]
    assert [row["status"] for row in rows] == ["settling", "ok", "comm_error", "ok"]
    assert [row["raw_value"] for row in rows] == [None, 68.0, None, None]
    assert rows[1]["t_mono_ns"] == 2_000_000_000
    assert rows[1]["t_utc"].isoformat() == "2026-11-20T13:15:02+00:00"


def test_the_manifest_counts_what_was_recorded(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    finalize_bundle(path)
    manifest = read_json(path)
    assert manifest["run_status"] == "completed"
    assert manifest["bundle_status"] == "sealed"
    assert manifest["quality"]["a"]["samples"] == 3
    assert manifest["quality"]["a"]["unusable"] == 1
    assert manifest["files"]["scalars.parquet"]["rows"] == 4
    assert manifest["files"]["events.sqlite"]["rows"] == 1


def test_only_whole_files_are_left_in_a_sealed_bundle(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    finalize_bundle(path)
    assert sorted(item.name for item in path.iterdir()) == [
        "env",
        "events.sqlite",
        "manifest.json",
        "manifest.sha256",
        "method.toml",
        "scalars.parquet",
        "status.sqlite",
    ]


def test_finalizing_twice_changes_nothing(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    finalize_bundle(path)
    before = {item: item.read_bytes() for item in path.rglob("*") if item.is_file()}
    assert finalize_bundle(path).sealed
    assert {item: item.read_bytes() for item in path.rglob("*") if item.is_file()} == before


def test_samples_that_arrive_late_are_put_in_order_across_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalars, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(row_groups, "ROW_GROUP_ROWS", 10)

    async def record() -> Path:
        writer = new_writer(tmp_path)
        for number in range(60):
            late_s = 5.5 if number % 4 == 0 else 0
            writer.write_samples([Sample("a", number, at_s=number - late_s)])
            writer.write_samples([Sample("a", number, at_s=number + 0.25)])
            if number % 3 == 0:
                writer.flush()
        await writer.close(run_status="completed", exit_reason="", extra={})
        return writer.path

    path = trio.run(record)
    assert finalize_bundle(path).sealed
    times = pq.read_table(path / "scalars.parquet")["t_mono_ns"].to_pylist()
    assert len(times) == 120
    assert times == sorted(times)
    assert pq.ParquetFile(path / "scalars.parquet").num_row_groups == 12


def test_a_run_without_samples_is_a_bundle_all_the_same(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    assert pq.read_table(path / "scalars.parquet").num_rows == 0


async def _abandoned(root: Path) -> Path:
    """A bundle whose writer died: nothing was closed, the lock is gone."""
    writer = new_writer(root)
    say(writer, "heating", at_s=4.0)
    writer.write_samples(SAMPLES)
    writer.flush()
    await writer.committed()
    writer._lock.release()
    copy = root / "copy"
    shutil.copytree(writer.path, copy)
    await writer.close(run_status="completed", exit_reason="", extra={})
    return copy


async def test_a_run_whose_recorder_died_is_crashed_and_ends_at_its_last_record(
    tmp_path: Path,
) -> None:
    path = await _abandoned(tmp_path)
    assert finalize_bundle(path).sealed
    manifest = read_json(path)
    assert manifest["run_status"] == "crashed"
    assert "interrupted" in manifest["exit_reason"]
    assert manifest["ended_utc"] == "2026-11-20T13:15:04Z"
    assert manifest["duration_s"] == 4.0
    assert messages(path) == ["heating"]
    assert pq.read_table(path / "scalars.parquet").num_rows == 4


async def test_a_bundle_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    result = finalize_bundle(writer.path, lock_timeout_s=0)
    assert result.bundle_status == "open"
    assert "in hand" in result.detail
    assert (writer.path / INFLIGHT_FILE).exists()
    await writer.close(run_status="completed", exit_reason="", extra={})


def test_a_folder_that_is_no_bundle_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    assert "not a bundle" in finalize_bundle(tmp_path).detail
    assert [item.name for item in tmp_path.iterdir()] == ["letter.txt"]


def test_a_bundle_of_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    (path / "manifest.json").write_text('{"format_version": 99}')
    result = finalize_bundle(path)
    assert "use a newer capa" in result.detail
    assert (path / INFLIGHT_FILE).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": 5}'])
def test_a_manifest_that_cannot_be_read_is_kept_and_made_anew(tmp_path: Path, text: str) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    (path / "manifest.json").write_text(text)
    assert finalize_bundle(path).sealed
    manifest = read_manifest(path)
    assert manifest.run_id == path.name
    assert manifest.run_status == "crashed"
    assert manifest.started_utc is not None
    assert "made anew" in manifest.finalize_notes[0]
    assert (path / "evidence" / "manifest.json").read_text() == text
    assert sha256sum_check(path).returncode == 0


async def _many_small_batches(root: Path, texts: list[str]) -> Path:
    writer = new_writer(root)
    for number, text in enumerate(texts):
        say(writer, text)
        writer.write_samples([Sample("a", number, at_s=number)])
        writer.flush()
    await writer.close(run_status="completed", exit_reason="done", extra={})
    return writer.path


@pytest.mark.parametrize("name", [EVENTS_FILE, INFLIGHT_FILE])
def test_what_can_be_read_of_a_damaged_file_is_kept_and_so_is_the_file(
    tmp_path: Path, name: str
) -> None:
    texts = [f"event {number} " + "x" * 100 for number in range(500)]
    path = trio.run(_many_small_batches, tmp_path, texts)
    damaged = path / name
    data = bytearray(damaged.read_bytes())
    page = len(data) // 2 // 4096 * 4096
    data[page : page + 4096] = b"\xff" * 4096
    damaged.write_bytes(data)
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert "damaged" in result.detail
    assert (path / "evidence" / name).read_bytes() == bytes(data)
    odd = {problem.code for problem in verify_bundle(path)}
    assert odd == ({"bundle.chain_was_broken"} if name == EVENTS_FILE else set())
    if name == EVENTS_FILE:
        kept = messages(path)
        assert texts[0] in kept
        assert texts[-1] in kept
    else:
        kept_values = pq.read_table(path / "scalars.parquet")["value"].to_pylist()
        assert len(kept_values) > 400  # all but those of one page


def _place_of_rowid(data: bytes | bytearray, rowid: int) -> int:
    """Return where in a database the only row of this small number says so, in a leaf's cell."""
    found = []
    for page in range(4096, len(data), 4096):
        if data[page] != 0x0D:  # no leaf of a table
            continue
        for cell in range(int.from_bytes(data[page + 3 : page + 5])):
            at = page + int.from_bytes(data[page + 8 + 2 * cell : page + 10 + 2 * cell])
            while data[at] > 0x7F:  # how long it is, in as many bytes as that takes
                at += 1
            found += [at + 1] if data[at + 1] == rowid else []
    (place,) = found
    return place


def test_a_damaged_row_number_does_not_have_the_rows_read_for_ever(tmp_path: Path) -> None:
    """One flipped bit, by which the next row is also the one before the last."""
    path = trio.run(_many_small_batches, tmp_path, [str(n) for n in range(20)])
    file = path / INFLIGHT_FILE
    data = bytearray(file.read_bytes())
    data[_place_of_rowid(data, 19)] ^= 32
    file.write_bytes(data)
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert pq.read_table(path / "scalars.parquet").num_rows == 20


def test_missing_data_files_are_said_and_sealed(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    (path / EVENTS_FILE).unlink()
    (path / INFLIGHT_FILE).unlink()
    result = finalize_bundle(path)
    assert result.sealed
    assert "events.sqlite was missing" in result.detail
    assert "inflight.sqlite was missing" in result.detail


def test_symlinks_are_named_and_left_out(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    (path / "secret").symlink_to("/etc/hostname")
    result = finalize_bundle(path)
    assert "secret is a symbolic link" in result.detail
    assert result.sealed
    assert [problem.blocking for problem in verify_bundle(path)] == [False]
    assert "secret" not in read_json(path)["files"]


def test_a_bundle_that_does_not_verify_right_after_sealing_says_so_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unsealed_bundle(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(seal, "sha256_of", lambda path: "0" * 64)
        assert finalize_bundle(path).bundle_status == "verification_failed"
    assert read_manifest(path).bundle_status == "verification_failed"
    assert not (path / "manifest.sha256").exists()
    assert finalize_bundle(path).bundle_status == "verification_failed"


STEPS = [
    (seal, "_remove_leftovers"),
    (seal, "finish_events"),
    (seal, "settle_outcome"),
    (seal, "finish_inflight"),
    (convert, "_convert"),
    (convert, "_convert_samples"),
    (convert, "_convert_records"),
    (convert, "_convert_status"),
    (convert, "check_parquet"),
    (convert, "fsync_file"),
    (convert, "fsync_dir"),
    (repaired, "fsync_dir"),
    (seal, "close_times"),
    (seal, "_seal"),
    (work, "write_manifest"),
    (seal, "write_atomically"),
    (seal, "verify_bundle"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("module", "step"), STEPS)
async def test_finalizing_killed_at_any_step_is_finished_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str, after: bool
) -> None:
    path = await _abandoned(tmp_path)
    with killed_at(monkeypatch, module, step, after=after):
        finalize_bundle(path)
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert messages(path) == ["heating"]
    assert pq.read_table(path / "scalars.parquet").num_rows == 4
    assert read_manifest(path).quality["a"].samples == 3
    assert read_manifest(path).duration_s == 4.0
    assert sha256sum_check(path).returncode == 0


def test_the_samples_in_flight_stay_until_the_parquet_file_has_been_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    monkeypatch.setattr(convert, "check_parquet", lambda path: 3)
    result = finalize_bundle(path)
    assert result.bundle_status == "finalizing"
    assert "reads back 3 rows" in result.detail
    assert (path / INFLIGHT_FILE).exists()


def test_every_kind_of_tampering_is_named(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path, SAMPLES)
    finalize_bundle(path)

    def after(name: str, data: bytes | None) -> list[str]:
        copy = tmp_path / "tampered"
        shutil.copytree(path, copy)
        try:
            (copy / name).unlink(missing_ok=True)
            if data is not None:
                (copy / name).write_bytes(data)
            return [code for code in codes(copy) if code != "bundle.other_name"]
        finally:
            shutil.rmtree(copy)

    assert after("method.toml", b"x = 2\n") == ["bundle.file_altered"]
    assert after("method.toml", b"longer than before\n") == ["bundle.file_altered"]
    assert after("method.toml", None) == ["bundle.file_missing"]
    assert after("notes.txt", b"new") == ["bundle.stranger"]
    assert after("manifest.sha256", None) == ["bundle.sums_missing"]
    assert after("manifest.sha256", b"nonsense") == ["bundle.sums_unreadable"]
    assert after("manifest.json", None) == ["bundle.manifest_unreadable"]
    edited = (path / "manifest.json").read_bytes().replace(b"the method is done", b"it was fine")
    assert after("manifest.json", edited) == ["bundle.file_altered"]


def test_a_sealed_bundle_that_was_altered_is_never_sealed_again(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    finalize_bundle(path)
    (path / "method.toml").write_text("x = 2\n")
    result = finalize_bundle(path)
    assert result.bundle_status == "verification_failed"
    assert "method.toml" in result.detail
    assert sha256sum_check(path).returncode == 1


def test_an_open_bundle_does_not_verify(tmp_path: Path) -> None:
    assert "bundle.not_sealed" in codes(unsealed_bundle(tmp_path))


async def test_a_child_that_takes_too_long_leaves_the_bundle_finalizing(tmp_path: Path) -> None:
    result = await finalize_in_child(tmp_path, timeout_s=0.01)
    assert result.bundle_status == "finalizing"
    assert "0.01 s" in result.detail


async def test_a_child_that_cannot_work_is_a_result_and_not_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    result = await finalize_in_child(tmp_path)
    assert (result.bundle_status, result.sealed) == ("finalizing", False)
    assert "ended with 1" in result.detail
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-such-python"))
    result = await finalize_in_child(tmp_path)
    assert "cannot start" in result.detail


def test_the_child_says_by_its_exit_code_what_it_did(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)

    def run(*arguments: str) -> int:
        command = [sys.executable, "-m", "capa.storage.finalize", *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert run() == 64
    assert main([]) == 64
    assert run(str(tmp_path)) == 1
    assert run(str(path)) == 0
    (path / "method.toml").write_text("")
    assert run(str(path)) == 3


def test_the_child_loads_nothing_that_only_an_analyst_needs(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="Arrow loads it where there is one")
    command = [sys.executable, "-X", "importtime", "-m", "capa.storage.finalize"]
    done = subprocess.run(
        [*command, str(unsealed_bundle(tmp_path))], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pyarrow.parquet" in loaded
    # Their parts: Python lists a package that was looked for and not let in, too.
    assert not loaded & {"pandas.core", "matplotlib.figure", "structlog.dev"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB of its own; needs root."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, and a machine that lets us mount a tmpfs")
    yield path
    # Lazily: a thread of Arrow's may hold a file that was read a moment longer.
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_finalizing_on_a_full_disk_says_so_and_succeeds_when_there_is_room(disk: Path) -> None:
    path = unsealed_bundle(disk, [Sample("a", math.sin(n), at_s=n) for n in range(20_000)])
    _fill(disk / "ballast")
    result = trio.run(finalize_in_child, path)
    assert result.bundle_status == "finalizing"
    assert "space" in result.detail or "full" in result.detail
    (disk / "ballast").unlink()
    result = trio.run(finalize_in_child, path)
    assert result.sealed, result.detail
    assert pq.read_table(path / "scalars.parquet").num_rows == 20_000


async def test_recording_on_a_full_disk_ends_with_words_and_keeps_what_was_committed(
    disk: Path,
) -> None:
    writer = new_writer(disk, threaded=True)
    say(writer, "begun")
    await writer.committed()
    _fill(disk / "ballast")
    for number in range(100):
        say(writer, f"{number} " + "x" * 1000)
    with trio.fail_after(10):
        assert "cannot write" in await writer.wait_failed()
        await writer.close(run_status="aborted", exit_reason="disk full", extra={})
    (disk / "ballast").unlink()
    result = await finalize_in_child(writer.path)
    assert result.sealed, result.detail
    assert messages(writer.path)[0] == "begun"


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def test_the_events_are_one_file_without_a_log_beside_it(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    finalize_bundle(path)
    with closing(sqlite3.connect(f"file:{path / EVENTS_FILE}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        columns = [row[1] for row in connection.execute("PRAGMA table_info(events)")]
    assert columns == [
        "id",
        "t_mono_ns",
        "t_utc",
        "kind",
        "severity",
        "source",
        "message",
        "metadata_json",
        "prev_hash",
    ]
