"""Strangers in a bundle and among the runs, names that no terminal should see, files put amiss."""

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capa.channels.sample import Sample
from capa.cli.main import app
from capa.storage.catalog import catalogued
from capa.storage.seal import finalize_bundle
from capa.storage.verify import verify_bundle
from tests.support.bundles import read_json, sha256sum_check, unsealed_bundle

BYTES = os.fsdecode(b"\xff\xfe")
"""A name that is no UTF-8."""


def put_strangers(path: Path) -> None:
    (path / BYTES).write_text("x")
    (path / "link").symlink_to("/etc/hostname")
    (path / "folder").symlink_to("/etc")
    (path / "empty").mkdir()
    (path / "env" / ".x.capa-tmp").write_text("x")
    os.mkfifo(path / "pipe")


STRANGERS = {"\\udcff\\udcfe", "link", "folder", "empty", "env/.x.capa-tmp", "pipe"}


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["bundle", *arguments])
    assert result.exit_code == code, result.output
    result.output.encode()  # what a terminal of UTF-8 takes
    return result.output


def test_each_stranger_is_named_and_left_out_and_does_not_keep_the_bundle_from_its_seal(
    tmp_path: Path,
) -> None:
    path = unsealed_bundle(tmp_path)
    put_strangers(path)
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    notes = read_json(path)["finalize_notes"]
    assert {note.split(" ")[0] for note in notes} >= STRANGERS
    assert sha256sum_check(path).returncode == 0
    assert not any(problem.blocking for problem in verify_bundle(path))


def test_strangers_that_came_later_are_named_too(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    put_strangers(path)
    (path / "later").write_text("x")
    named = {problem.file: problem.blocking for problem in verify_bundle(path)}
    assert named == {str(path / name): name == "later" for name in (*STRANGERS, "later")}


def test_names_do_nothing_to_a_terminal_and_end_no_command(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    (path / "a\x1b[31mb\nc").write_text("x")
    (path / BYTES).write_text("x")
    for words in (
        said("verify", str(path), code=3),
        said("finalize", str(path), code=3),
        said("verify", str(path / BYTES), code=1),
    ):
        assert "\x1b" not in words
    assert "a\\x1b[31mb\\nc: is not in the manifest" in said("verify", str(path), code=3)


def test_a_folder_with_any_name_does_not_keep_the_others_from_being_listed(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    odd = tmp_path / BYTES
    odd.mkdir()
    (odd / "manifest.json").write_bytes((path / "manifest.json").read_bytes())
    assert [row.folder for row in catalogued(tmp_path)] == [path.name, "\\udcff\\udcfe"]
    assert path.name in said("list", "--runs", str(tmp_path))
    assert "2" in said("query", "SELECT count(*) AS n FROM runs", "--runs", str(tmp_path))
    said("prune", "--max-age-days", "1", "--dry-run", "--runs", str(tmp_path))


def test_verify_looks_at_all_that_there_are_though_one_is_not_there(tmp_path: Path) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    told = said("verify", "20990101", path.name, "--runs", str(tmp_path), code=1)
    assert "no run is called 20990101" in told
    assert f"{path.name}: whole" in told
    (path / "later").write_text("x")
    said("verify", path.name, "20990101", "--runs", str(tmp_path), code=3)


@pytest.mark.parametrize(
    "words",
    [
        ("report", "."),
        ("export", ".", "--parquet-wide"),
        ("export", ".", "--csv", "--out", "env/x.csv"),
        ("report", ".", "--out", "scalars.parquet"),
    ],
)
def test_nothing_is_written_into_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    monkeypatch.chdir(path)
    assert "would not verify any more" in said(*words, code=1)
    assert verify_bundle(path) == []


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more PAR1", b"x" * 10_000])
def test_samples_that_cannot_be_read_are_told_and_do_not_spoil_a_query(
    tmp_path: Path, damage: bytes
) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    other = tmp_path / "20261120-131500-0002"
    shutil.copytree(path, other)
    (other / "scalars.parquet").write_bytes(damage)
    told = said("query", "SELECT count(*) AS n FROM scalars", "--runs", str(tmp_path))
    assert f"{other / 'scalars.parquet'}: can't be read, and is left out" in told
    assert told.endswith("n\n0\n")


@pytest.mark.parametrize("gone", [None, "manifest.sha256", "events.sqlite"])
def test_a_manifest_of_another_kind_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str | None
) -> None:
    path = unsealed_bundle(tmp_path / "runs")
    assert finalize_bundle(path).sealed
    project = tmp_path / "project"
    (project / "deep").mkdir(parents=True)
    (project / "manifest.json").write_text('{"name": "a web page"}')
    monkeypatch.chdir(project / "deep")
    if gone is not None:
        (path / gone).unlink()
    said("export", str(path), "--csv", "--out", "x.csv")
    assert (project / "deep" / "x.csv").exists()
    told = said("export", str(path), "--csv", "--out", str(path / "x.csv"), code=1)
    assert "would not verify any more" in told


def changed_samples(path: Path, name: str, column: pa.Array | None) -> None:
    """Take a column out of the samples, or put another one in its place."""
    file = path / "scalars.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index(name)
    table = table.remove_column(place)
    if column is not None:
        table = table.add_column(place, name, [column])
    pq.write_table(table, file)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("show",), "channel"),
        (("show",), "t_mono_s"),
        (("report", "--png"), "value"),
        (("export", "--csv"), "status"),
        (("export", "--parquet-wide"), "unit"),
    ],
)
@pytest.mark.parametrize("column", [None, pa.array([True])])
def test_samples_that_lack_a_column_are_told_in_words(
    tmp_path: Path, words: tuple[str, ...], name: str, column: pa.Array | None
) -> None:
    path = unsealed_bundle(tmp_path / "runs", [Sample("a", 1.0, at_s=1.0)])
    assert finalize_bundle(path).sealed
    changed_samples(path, name, column)
    command, *options = words
    out = () if command == "show" else ("--out", str(tmp_path / "out"))
    told = said(command, str(path), *options, *out, code=0 if command == "show" else 1)
    wrong = "there is no" if column is None else "the"
    assert f"scalars.parquet: {wrong} column {name}" in told
    assert "see what capa bundle verify says" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("export", "--csv"), ("export", "--parquet-wide"), ("report",)])
def test_an_export_to_a_full_disk_says_so_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    path = unsealed_bundle(tmp_path / "runs")
    assert finalize_bundle(path).sealed
    target = tmp_path / "out"
    target.write_text("what was there")
    command, *options = words
    arguments = (command, str(path), *options, "--out")
    (tmp_path / "full").symlink_to("/dev/full")
    assert "No space left on device" in said(*arguments, str(tmp_path / "full"), code=1)
    assert (tmp_path / "full").is_char_device()
    (tmp_path / "full").unlink()

    def full(self: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert "No space left on device" in said(*arguments, str(target), code=1)
    assert target.read_text() == "what was there"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "runs"]
    said(*arguments, str(target))
    assert target.read_bytes() != b"what was there"


def test_a_folder_that_may_not_be_looked_into_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unsealed_bundle(tmp_path)
    assert finalize_bundle(path).sealed
    locked = tmp_path / "20261120-131500-0000"
    shutil.copytree(path, locked)
    forbid(monkeypatch, locked)
    runs = ("--runs", str(tmp_path))
    assert [row.run_status for row in catalogued(tmp_path)] == ["unreadable", "completed"]
    assert "COMPLETED" in said("show", "last", *runs)
    assert "2" in said("query", "SELECT count(*) AS n FROM runs", *runs)
    assert f"{locked}: NOT WHOLE" in said("verify", str(locked), path.name, *runs, code=3)
    told = said("prune", "--min-free-gb", "1e9", "--min-runs", "1", "--dry-run", *runs, code=1)
    assert f"{locked.name} COULD NOT BE REMOVED" in told
    assert "no run is called" in said("show", "x" * 300, *runs, code=1)


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Root may look anywhere: have the system refuse, as it does a user."""

    def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(path: object, *arguments: object, **options: object) -> object:
            text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            if text.startswith(f"{folder}/") or (call is real_open and text == str(folder)):
                raise PermissionError(errno.EACCES, "Permission denied", text)
            return call(path, *arguments, **options)

        return maybe

    real_open = os.open
    for module, name in ((os, "stat"), (os, "open"), (io, "open")):
        monkeypatch.setattr(module, name, refusing(getattr(module, name)))
