"""Interrupted bundles whose files are none, lead elsewhere, or hold something else: all sealed."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capa.cli.main import app
from capa.storage import open_bundle
from capa.storage.inflight import INFLIGHT_FILE
from capa.storage.seal import finalize_bundle
from capa.storage.verify import verify_bundle
from tests.support.bundles import read_json, sha256sum_check
from tests.unit.test_reading_bundles import IDS, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return record(tmp_path / "runs", IDS[0], close=False)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def seal(path: Path) -> str:
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert not any(problem.blocking for problem in verify_bundle(path))
    assert sha256sum_check(path).returncode == 0
    return result.detail


@pytest.mark.parametrize(
    "name", ["device_records", "scalars.parquet", "status.sqlite", "evidence", "events.sqlite-shm"]
)
def test_a_link_in_the_place_of_a_file_leads_nothing_out_of_the_bundle(
    path: Path, elsewhere: Path, name: str
) -> None:
    (path / name).symlink_to(elsewhere)
    assert name in seal(path)
    assert list(elsewhere.iterdir()) == []
    assert pq.read_metadata(path / "scalars.parquet").num_rows == 12


def test_a_link_to_other_events_leaves_them_alone(path: Path, elsewhere: Path) -> None:
    (path / "events.sqlite").rename(elsewhere / "events.sqlite")
    (path / "events.sqlite").symlink_to(elsewhere / "events.sqlite")
    before = (elsewhere / "events.sqlite").read_bytes()
    assert "events.sqlite" in seal(path)
    assert [file.read_bytes() for file in elsewhere.iterdir()] == [before]
    assert (path / "evidence" / "events.sqlite").is_symlink()


@pytest.mark.parametrize(
    "name",
    [
        "scalars.parquet",
        "status.sqlite",
        "events.sqlite",
        "events.sqlite-wal",
        "inflight.sqlite-shm",
        "manifest.sha256",
        "manifest.sha256.sig",
    ],
)
def test_a_folder_in_the_place_of_a_file_is_put_aside(path: Path, name: str) -> None:
    (path / name).unlink(missing_ok=True)
    (path / name).mkdir()
    (path / name / "kept").write_text("x")
    assert f"{name} was no file" in seal(path)
    assert (path / "evidence" / name / "kept").read_text() == "x"


@pytest.mark.parametrize("name", ["device_records", "evidence"])
def test_a_file_in_the_place_of_a_folder_is_put_aside(path: Path, name: str) -> None:
    (path / name).write_text("x")
    assert f"{name} was no folder" in seal(path)
    kept = path / ("evidence.aside" if name == "evidence" else "evidence/device_records")
    assert kept.read_text() == "x"


def test_what_is_called_evidence_and_is_no_folder_replaces_nothing(path: Path) -> None:
    (path / "evidence").write_text("x")
    (path / "evidence.aside").write_text("mine")
    assert "it is kept as evidence.aside.2" in seal(path)
    assert (path / "evidence.aside").read_text() == "mine"
    assert (path / "evidence.aside.2").read_text() == "x"


@pytest.mark.parametrize("linked", [False, True])
def test_a_damaged_manifest_stays_in_the_bundle_though_evidence_is_no_folder(
    path: Path, elsewhere: Path, linked: bool
) -> None:
    if linked:
        (path / "evidence").symlink_to(elsewhere)
    else:
        (path / "evidence").write_text("x")
    (path / "manifest.json").write_text("{")
    seal(path)
    assert list(elsewhere.iterdir()) == []
    assert (path / "evidence" / "manifest.json").read_text() == "{"


def test_a_folder_in_the_place_of_the_manifest_is_kept(path: Path) -> None:
    (path / "manifest.json").unlink()
    (path / "manifest.json").mkdir()
    (path / "manifest.json" / "kept").write_text("x")
    seal(path)
    assert (path / "evidence" / "manifest.json" / "kept").read_text() == "x"


def test_a_link_to_a_damaged_manifest_leaves_that_alone(path: Path, elsewhere: Path) -> None:
    (elsewhere / "other.json").write_text("{")
    (path / "manifest.json").unlink()
    (path / "manifest.json").symlink_to(elsewhere / "other.json")
    seal(path)
    assert not (path / "manifest.json").is_symlink()
    assert (path / "evidence" / "manifest.json").is_symlink()
    assert [file.read_text() for file in elsewhere.iterdir()] == ["{"]


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(statement)


def without_a_start(path: Path) -> None:
    changed(path / INFLIGHT_FILE, "UPDATE meta SET value = 'zzz'")
    (path / "manifest.json").write_text("{")


def without_samples(path: Path) -> None:
    changed(path / INFLIGHT_FILE, "DROP TABLE batches")


def with_other_events(path: Path) -> None:
    changed(path / "events.sqlite", "DROP TABLE events; CREATE TABLE events (a)")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without_a_start, "the time of the start is lost"),
        (without_samples, "inflight.sqlite has no table batches"),
        (with_other_events, "events.sqlite has another table of events"),
    ],
)
def test_what_a_file_lacks_is_said_and_the_rest_is_sealed(
    path: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(path)
    assert told in seal(path)
    assert told in " ".join(read_json(path)["finalize_notes"])


@pytest.mark.parametrize(
    "change",
    [
        "message = CAST(x'ff41' AS TEXT)",
        "kind = CAST(x'746573f4' AS TEXT)",
        "prev_hash = CAST(x'37c9' AS TEXT)",
        "message = x'ff'",
        "t_utc = 5",
        "t_mono_ns = 'zz'",
        "t_mono_ns = 1e300",
        "t_mono_ns = 9223372036854775807",
        "metadata_json = 'not JSON'",
    ],
)
def test_an_altered_event_keeps_nobody_from_sealing_and_reading_the_rest(
    path: Path, change: str
) -> None:
    """A flipped bit in a text shows to no check of SQLite's."""
    statement = f"UPDATE events SET {change} WHERE id = 2"  # noqa: S608 - above
    changed(path / "events.sqlite", statement)
    seal(path)
    assert open_bundle(path).events()[0].message == "it began"
    for words in ("events", "show"):
        result = CliRunner().invoke(app, ["bundle", words, str(path)])
        assert result.exit_code == 0, result.output
        assert "it began" in result.output or words == "show"
    assert CliRunner().invoke(app, ["bundle", "events", "--json", str(path)]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "column"),
    [("events.sqlite", "message"), (INFLIGHT_FILE, "raw_value"), (INFLIGHT_FILE, "id")],
)
def test_a_damaged_name_of_a_column_costs_no_row(path: Path, name: str, column: str) -> None:
    table = "events" if name == "events.sqlite" else "batches"
    changed(path / name, f"ALTER TABLE {table} RENAME {column} TO zz")
    assert f"{name} was damaged" in seal(path)
    assert [event.message for event in open_bundle(path).events()] == ["it began", "too hot"]
    assert pq.read_metadata(path / "scalars.parquet").num_rows == 12
    assert "bundle.chain_was_broken" not in {problem.code for problem in verify_bundle(path)}


@pytest.mark.parametrize("name", ["events.sqlite", INFLIGHT_FILE])
def test_a_schema_that_is_no_text_any_more_is_kept_as_evidence(path: Path, name: str) -> None:
    for file in (path / "events.sqlite", path / INFLIGHT_FILE):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = (path / name).read_bytes().replace(b"NOT NULL", b"NOT NUL\xcc", 1)
    (path / name).write_bytes(data)
    assert f"{name} was damaged" in seal(path)
    assert (path / "evidence" / name).read_bytes() == data
