"""Reading what was recorded: any state of a bundle, the catalog, SQL, exports, reports."""

import gc
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import trio
import trio.testing
from typer.testing import CliRunner

from capa.channels.sample import Sample, Status
from capa.cli.main import app
from capa.errors import BundleError
from capa.storage import open_bundle
from capa.storage.catalog import CATALOG_FILE, Filter, catalogued
from capa.storage.find import find_bundle, runs_folder
from capa.storage.lock import FolderLock
from capa.storage.seal import finalize_bundle
from capa.storage.tables import wide
from tests.support.bundles import new_writer, say

IDS = ("20261120-131500-0001", "20261120-141500-00ab", "20261121-081500-00cd")


def record(root: Path, run_id: str, *, close: bool = True, operator: str = "maria") -> Path:
    """A run of 10 s: channel a rises from 20 to 29 degC, b is measured once, then broken."""

    async def run() -> Path:
        writer = new_writer(root, run_id)
        rising = [Sample("a", 20.0 + s, at_s=float(s)) for s in range(10)]
        broken = Sample("b", float("nan"), at_s=2.0, status=Status.SENSOR_FAIL)
        writer.write_samples([*rising, Sample("b", 1.5, at_s=1.0, raw_value=1.4), broken])
        say(writer, "it began", at_s=0.5)
        say(writer, "too hot", at_s=9.0, severity="warning")
        writer.flush()
        if close:
            told = {"operator": {"id": operator}, "sample": {"id": "PMMA-03"}, "tags": ["series-2"]}
            extra = {**told, "method": "heat", "job": "000001-x", "steps": [STEP]}
            await writer.close(run_status="completed", exit_reason="done", extra=extra)
        else:
            writer._lock.release()  # as the kernel does for a daemon that was killed
        return writer.path

    path = trio.run(run, clock=trio.testing.MockClock())
    gc.collect()  # a writer that died holds its folder no more
    return path


STEP = {
    "index": 0,
    "kind": "hold",
    "target": "a",
    "entered_ns": 1_000_000_000,
    "left_ns": 8_000_000_000,
    "outcome": "exited",
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs: two sealed, the last one still being recorded."""
    root = tmp_path / "runs"
    for run_id in IDS[:2]:
        assert finalize_bundle(record(root, run_id)).sealed
    record(root, IDS[2], close=False)
    return root


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["bundle", *arguments])
    assert result.exit_code == code, result.output
    return result.output


# --- the reading API --------------------------------------------------------------------------


def test_samples_are_read_by_channel_and_time(runs: Path) -> None:
    bundle = open_bundle(runs / IDS[0])
    assert bundle.channels() == {"a": "degC", "b": "g"}
    table = bundle.scalars(["a"], start_s=2, end_s=5)
    assert table["value"].to_pylist() == [22.0, 23.0, 24.0]
    assert bundle.scalars().num_rows == 12
    assert bundle.scalars(["b"])["value"].to_pylist() == [1.5, None]
    assert bundle.manifest.run_status == "completed"
    assert [step["kind"] for step in bundle.steps] == ["hold"]


def test_a_run_that_is_going_on_reads_as_it_will_when_it_is_sealed(runs: Path) -> None:
    open_run, sealed = open_bundle(runs / IDS[2]), open_bundle(runs / IDS[0])
    mine, theirs = open_run.scalars(), sealed.scalars()
    assert mine.schema.names == theirs.schema.names
    assert mine.to_pylist() == theirs.to_pylist()
    assert [event.message for event in open_run.events()] == ["it began", "too hot"]


def test_reading_changes_nothing_in_the_folder(runs: Path) -> None:
    before = {p: p.read_bytes() for p in (runs / IDS[0]).rglob("*") if p.is_file()}
    bundle = open_bundle(runs / IDS[0])
    bundle.scalars()
    bundle.events()
    bundle.event_counts()
    assert bundle.verify() == []
    assert {p: p.read_bytes() for p in (runs / IDS[0]).rglob("*") if p.is_file()} == before


def test_events_are_asked_for_by_kind_severity_and_place(runs: Path) -> None:
    bundle = open_bundle(runs / IDS[0])
    (warning,) = bundle.events(at_least="warning")
    assert (warning.message, warning.at_s) == ("too hot", 9.0)
    assert len(bundle.events(kind="test.")) == len(bundle.events(kind="test.said")) == 2
    assert bundle.events(kind="test") == []
    assert bundle.events(after_id=1) == [warning]
    with pytest.raises(ValueError, match="loud"):
        bundle.events(at_least="loud")


def test_a_channel_that_is_not_there_is_named_with_those_that_are(runs: Path) -> None:
    with pytest.raises(BundleError, match=r"no samples of a channel 'c'; there are a, b"):
        open_bundle(runs / IDS[0]).scalars(["c"])


def test_what_is_missing_is_said_and_no_reason_to_crash(runs: Path) -> None:
    folder = runs / IDS[0]
    (folder / "scalars.parquet").unlink()
    (folder / "events.sqlite").unlink()
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match=r"neither scalars\.parquet nor inflight\.sqlite"):
        bundle.scalars()
    with pytest.raises(BundleError, match=r"events\.sqlite: is missing"):
        bundle.events()
    assert "NOT WHOLE" in said("verify", IDS[0], "--runs", str(runs), code=3)
    assert "is missing" in said("show", IDS[0], "--runs", str(runs))


def test_a_wide_table_carries_a_measurement_for_so_long_and_no_longer(runs: Path) -> None:
    table = wide(open_bundle(runs / IDS[0]).scalars(), every_s=2.0, carry_s=3.0)
    assert table["t_mono_s"].to_pylist() == [0, 2, 4, 6, 8, 10]
    assert table["a"].to_pylist() == [20, 22, 24, 26, 28, 29]
    assert table["b"].to_pylist() == [None, 1.5, 1.5, None, None, None]


# --- finding ------------------------------------------------------------------------------------


def test_a_run_is_meant_by_path_id_beginning_or_last(runs: Path) -> None:
    assert find_bundle(str(runs / IDS[0]), Path("/nowhere")) == runs / IDS[0]
    assert find_bundle(IDS[1], runs).name == IDS[1]
    assert find_bundle("20261121", runs).name == IDS[2]
    assert find_bundle("last", runs).name == IDS[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("20261120", "may be 20261120-131500-0001, 20261120-141500-00ab; say more of it"),
        ("2025", "no run is called 2025"),
        ("no/where", "no bundle"),
    ],
)
def test_an_unclear_run_is_refused_with_what_it_may_be(runs: Path, text: str, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        find_bundle(text, runs)


def test_runs_are_looked_for_where_one_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs_folder(None, {}) == Path("/var/lib/capad/runs")
    (tmp_path / "runs").mkdir()
    assert runs_folder(None, {}) == Path("runs")
    assert runs_folder(None, {"CAPA_RUNS": "/data"}) == Path("/data")
    assert runs_folder(None, {"CAPA_RUNS_ROOT": "/data"}) == Path("/data")
    assert runs_folder(Path("x"), {"CAPA_RUNS": "/data"}) == Path("x")
    assert "say where they are" in said("list", "--runs", str(tmp_path / "none"), code=1)


# --- catalog and list ---


def test_the_catalog_follows_the_bundles_and_can_always_be_made_again(runs: Path) -> None:
    assert [row.run_id for row in catalogued(runs)] == list(IDS)
    (runs / CATALOG_FILE).write_bytes(b"not a database, and long enough to be looked at" * 30)
    assert [row.bundle_status for row in catalogued(runs)] == ["sealed", "sealed", "open"]
    finalize_bundle(runs / IDS[2])
    assert [row.bundle_status for row in catalogued(runs)] == ["sealed"] * 3
    shutil.rmtree(runs / IDS[0])
    assert [row.run_id for row in catalogued(runs)] == list(IDS[1:])
    (runs / CATALOG_FILE).unlink()
    assert len(catalogued(runs)) == 2


def test_a_catalog_of_another_version_is_made_again(runs: Path) -> None:
    with closing(sqlite3.connect(runs / CATALOG_FILE)) as connection:
        connection.execute("CREATE TABLE runs (x)")
        connection.execute("PRAGMA user_version = 99")
    assert len(catalogued(runs)) == 3


def test_a_manifest_that_cannot_be_read_is_listed_with_the_reason(runs: Path) -> None:
    (runs / IDS[1] / "manifest.json").write_text('{"format_version": 99}')
    (_, broken, _) = catalogued(runs)
    assert broken.run_status == "unreadable"
    assert "use a newer capa" in broken.exit_reason
    (runs / IDS[1] / "manifest.json").write_text("")
    (_, broken, _) = catalogued(runs)
    assert "is not JSON" in broken.exit_reason
    assert "unreadable" in said("list", "--runs", str(runs))
    assert "is not JSON" in said("show", IDS[1], "--runs", str(runs), code=1)


def test_list_filters_and_speaks_json(runs: Path) -> None:
    where = ("--runs", str(runs))
    rows = [json.loads(line) for line in said("list", "--json", *where).splitlines()]
    assert [row["run_id"] for row in rows] == list(IDS)
    assert rows[0]["sample"] == {"id": "PMMA-03"}
    assert rows[0]["job"] == "000001-x"
    assert len(said("list", "--status", "completed", *where).splitlines()) == 3
    assert IDS[2] in said("list", "--status", "open", *where)
    assert len(said("list", "--operator", "MAR", "--sample", "pmma", *where).splitlines()) == 3
    assert "no such run" in said("list", "--tag", "series-3", *where)
    assert "no such run" in said("list", "--since", "2027-01-01", *where)
    assert catalogued(runs, Filter(method="heat", tag="series-2"))[0].run_id == IDS[0]


# --- pages ----------------------------------------------------------------------------------------


def test_the_page_of_a_run_says_what_happened_and_shows_each_channel(runs: Path) -> None:
    page = said("show", IDS[0], "--runs", str(runs))
    assert "COMPLETED, bundle sealed" in page
    assert "hold" in page
    assert "too hot" in page
    assert "sample: id PMMA-03" in page
    (line,) = (line for line in page.splitlines() if line.startswith("  a "))
    assert line.split()[:7] == ["a", "degC", "20", "20", "29", "29", "10"]
    assert "█" in line


def test_the_page_of_a_run_that_is_going_on_says_so(runs: Path) -> None:
    page = said("show", "last", "--runs", str(runs))
    assert "RUNNING, bundle open (" not in page
    assert "it has not ended" in page
    assert f"capa bundle finalize {IDS[2]}" in page


def test_the_page_of_a_run_that_is_recorded_says_how_to_follow_it(runs: Path) -> None:
    lock = FolderLock(runs / IDS[2])
    assert lock.acquire()
    try:
        page = said("show", "last", "--runs", str(runs))
    finally:
        lock.release()
    assert f"it is being recorded: capa bundle events {IDS[2]} --follow" in page
    assert "finalize" not in page


def test_the_page_of_a_run_that_is_being_sealed_says_so(tmp_path: Path) -> None:
    lock = FolderLock(record(tmp_path / "runs", IDS[0]))
    assert lock.acquire()
    try:
        page = said("show", IDS[0], "--runs", str(tmp_path / "runs"))
    finally:
        lock.release()
    assert "it is being sealed just now" in page
    assert "capa bundle finalize" not in page


def test_verify_names_each_bundle_that_is_not_whole_and_exits_with_3(runs: Path) -> None:
    assert said("verify", *IDS[:2], "--runs", str(runs)).count("whole") == 2
    with (runs / IDS[1] / "method.toml").open("a") as file:
        file.write(" ")
    told = said("verify", *IDS[:2], "--runs", str(runs), code=3)
    assert f"{IDS[0]}: whole" in told
    assert f"{IDS[1]}: NOT WHOLE" in told
    assert "method.toml" in told


def test_events_are_printed_as_lines_or_as_json(runs: Path) -> None:
    told = said("events", IDS[0], "--runs", str(runs), "--at-least", "warning")
    assert told == "0:00:09.0  test.said                WARNING too hot\n"
    (line,) = said("events", "last", "--runs", str(runs), "--json", "--kind", "x").splitlines() or [
        "{}"
    ]
    assert json.loads(line) == {}
    assert "loud" in said("events", "last", "--runs", str(runs), "--at-least", "loud", code=1)


def test_following_a_run_that_is_over_ends(runs: Path) -> None:
    assert "too hot" in said("events", IDS[0], "--follow", "--runs", str(runs))


# --- export, query, report -----------------------------------------------------------------------


def test_exports_are_what_other_programs_read(runs: Path, tmp_path: Path) -> None:
    where = ("--runs", str(runs))
    out = tmp_path / "run.csv"
    assert "12 rows" in said("export", IDS[0], "--csv", "--out", str(out), *where)
    head, first = out.read_text().splitlines()[:2]
    assert head.split(",")[0] == '"channel"'
    assert first.startswith('"a",0,0,2026-11-20 13:15:00')
    wide_file = tmp_path / "run.parquet"
    said("export", IDS[0], "--parquet-wide", "--out", str(wide_file), *where)
    table = pq.read_table(wide_file)
    assert table.column_names == ["t_mono_s", "a", "b"]
    assert table.schema.metadata[b"unit:a"] == b"degC"
    assert "either --csv or" in said("export", IDS[0], *where, code=1)


def test_sql_reaches_samples_events_and_runs_of_all_bundles(runs: Path) -> None:
    pytest.importorskip("duckdb")
    where = ("--runs", str(runs), "--json")
    sql = "SELECT run_id, max(value) AS top FROM scalars GROUP BY run_id ORDER BY run_id"
    rows = [json.loads(line) for line in said("query", sql, *where).splitlines()]
    assert rows == [{"run_id": run_id, "top": 29.0} for run_id in IDS[:2]]
    sql = "SELECT count(*) AS n FROM events JOIN runs USING (run_id) WHERE severity = 'warning'"
    assert json.loads(said("query", sql, *where)) == {"n": 3}
    sql = "SELECT started_utc FROM runs LIMIT 1"
    assert "2026-11-20 13:15:00" in said("query", sql, "--runs", str(runs))
    assert "can't be answered" in said("query", "SELEC", *where, code=1)


def test_sql_over_no_runs_at_all_is_an_empty_answer(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    sql = "SELECT s.value FROM scalars s JOIN events e USING (run_id)"
    assert said("query", sql, "--runs", str(tmp_path), "--json") == ""


def test_a_report_is_one_file_that_needs_no_other(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "report.html"
    said("report", IDS[0], "--out", str(out), "--runs", str(runs))
    page = out.read_text()
    assert "<svg" in page
    assert "too hot" in page
    for part in ("<script", "src=", '<link rel="stylesheet"'):
        assert part not in page
    picture = tmp_path / "report.png"
    said("report", IDS[0], "--png", "--out", str(picture), "--runs", str(runs))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_text_from_a_run_can_do_nothing_in_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = record(tmp_path, IDS[0], operator="<script>alert(1)</script>")
    finalize_bundle(path)
    out = tmp_path / "report.html"
    said("report", str(path), "--out", str(out))
    assert "<script" not in out.read_text()


def test_without_an_extra_the_message_says_which_to_install(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "pip install 'capa[report]'" in said("report", IDS[0], "--runs", str(runs), code=1)
    assert "pip install 'capa[query]'" in said("query", "SELECT 1", "--runs", str(runs), code=1)


def test_finalize_seals_what_was_left_open(runs: Path) -> None:
    assert "sealed" in said("finalize", "last", "--runs", str(runs))
    assert open_bundle(runs / IDS[2]).manifest.run_status == "crashed"
    assert "whole" in said("verify", "last", "--runs", str(runs))
