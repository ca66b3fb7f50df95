"""A manifest that is empty, old, newer than we know, or lies: a message, and nothing is lost."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capa.channels.sample import Sample
from capa.cli.main import app
from capa.storage import evidence, seal, work
from capa.storage.manifest import read_manifest
from capa.storage.seal import finalize_bundle
from capa.storage.verify import verify_bundle
from tests.support.bundles import messages, read_json, sha256sum_check, unsealed_bundle
from tests.support.kills import killed_at

SAMPLES = [Sample("a", float(n), at_s=n) for n in range(3)]


def unsealed(tmp_path: Path) -> Path:
    return unsealed_bundle(tmp_path, SAMPLES, texts=["begun", "heating"])


def with_values(path: Path, **values: object) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps({**read_json(path), **values}))


def used(path: Path) -> list[str]:
    """Use every command that reads; return what each says. None may end in a traceback."""
    said = []
    for words in (["show"], ["events"], ["verify"], ["export", "--csv"]):
        result = CliRunner().invoke(app, ["bundle", words[0], str(path), *words[1:]])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        said.append(result.output)
    result = CliRunner().invoke(app, ["bundle", "list", "--runs", str(path.parent)])
    assert result.exit_code == 0
    return [*said, result.output]


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", "NaN", "[" * 100_000, "{}", '{"run_id": 5}', "\x00\x01"]
)
def test_a_manifest_that_is_none_is_made_anew_and_kept(tmp_path: Path, text: str) -> None:
    path = unsealed(tmp_path)
    (path / "manifest.json").write_text(text)
    used(path)
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert "the manifest was made anew" in result.detail
    assert (path / "evidence" / "manifest.json").read_text() == text
    assert messages(path) == ["begun", "heating"]
    assert pq.read_table(path / "scalars.parquet").num_rows == 3
    used(path)


@pytest.mark.parametrize(
    "lie",
    [
        {"started_utc": "9999-12-31T23:59:59Z"},
        {"started_utc": "0001-01-01T00:00:00Z"},
        {"duration_s": 1e300},
        {"duration_s": -1},
        {"format_version": -1},
        {"format_version": 2.5},
        {"run_status": "great"},
        {"tags": [1]},
        {"unheard_of": {"x": [1]}},
    ],
)
def test_of_a_manifest_with_one_field_that_lies_the_others_are_kept(
    tmp_path: Path, lie: dict[str, Any]
) -> None:
    path = unsealed(tmp_path)
    with_values(path, **lie, operator={"id": "anna"}, sample={"id": "PMMA-7"})
    used(path)
    assert finalize_bundle(path).sealed
    manifest = read_manifest(path)
    assert manifest.operator == {"id": "anna"}
    assert manifest.sample == {"id": "PMMA-7"}
    assert manifest.custom.items() >= lie.items()
    assert sha256sum_check(path).returncode == 0
    used(path)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("module", "step"),
    [
        (seal, "free_evidence"),
        (seal, "keep_copy"),
        (evidence, "write_atomically"),
        (seal, "in_the_way"),
        (work, "write_manifest"),
        (seal, "finish_events"),
        (seal, "settle_outcome"),
    ],
)
def test_a_kill_costs_nothing_of_what_is_left_of_a_damaged_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str, after: bool
) -> None:
    path = unsealed(tmp_path)
    with_values(path, operator={"id": "anna"}, job="000007-x", tags=[1])
    (path / "scalars.parquet").mkdir()
    damaged = (path / "manifest.json").read_bytes()
    with killed_at(monkeypatch, module, step, after=after):
        finalize_bundle(path)
    assert finalize_bundle(path).sealed
    manifest = read_manifest(path)
    assert (manifest.operator, manifest.job) == ({"id": "anna"}, "000007-x")
    assert manifest.run_status == "completed"
    assert [note.split(":")[0] for note in manifest.finalize_notes] == [
        "the manifest was made anew",
        "scalars.parquet was no file of this one's own",
        "evidence/scalars.parquet is an empty folder; left out",
    ]
    kept = [file.read_bytes() for file in (path / "evidence").glob("manifest.json*")]
    assert kept == [damaged]
    assert sha256sum_check(path).returncode == 0


@pytest.mark.parametrize("version", [3, "3", 10**30])
def test_a_newer_format_is_told_and_not_touched(tmp_path: Path, version: object) -> None:
    path = unsealed(tmp_path)
    with_values(path, format_version=version)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    result = finalize_bundle(path)
    assert not result.sealed
    assert "use a newer capa" in result.detail
    assert all("use a newer capa" in said for said in used(path)[:4])
    assert {file: file.read_bytes() for file in before} == before


def test_a_time_without_an_offset_is_utc(tmp_path: Path) -> None:
    path = unsealed(tmp_path)
    with_values(path, started_utc="2026-11-21T12:00:00", ended_utc=None)
    assert finalize_bundle(path).sealed
    assert "2026-11-21T12:00:00Z" in (path / "manifest.json").read_text()


def test_a_sealed_bundle_whose_manifest_says_that_it_is_not_is_not_sealed_again(
    tmp_path: Path,
) -> None:
    path = unsealed(tmp_path)
    assert finalize_bundle(path).sealed
    with_values(path, bundle_status="finalizing", run_status="aborted")
    result = finalize_bundle(path)
    assert result.bundle_status == "verification_failed"
    assert "was altered since; nothing was touched" in result.detail
    assert any(problem.blocking for problem in verify_bundle(path))


def test_a_name_in_a_manifest_leads_nowhere_else_and_does_nothing_to_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unsealed(tmp_path / "runs")
    here = tmp_path / "deep" / "er"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with_values(path, run_id="../../stray", method="\x1b[31mred\x07")
    assert not any("\x1b" in said or "\x07" in said for said in used(path))
    CliRunner().invoke(app, ["bundle", "export", str(path), "--parquet-wide"])
    assert [file.name for file in here.iterdir()] == [f"{path.name}.wide.parquet"]
