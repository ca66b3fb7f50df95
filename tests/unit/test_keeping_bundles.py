"""``capa bundle prune``, ``keep`` and ``list --removed``, as somebody at a desk uses them."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capa.cli.main import app
from capa.clock import utc_now
from tests.support.sealed import sealed_at


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for days in (400, 300, 2, 1):
        sealed_at(tmp_path / "runs", utc_now() - timedelta(days=days), job=500 - days)
    return tmp_path / "runs"


def told(runs: Path, *words: str, code: int = 0) -> str:
    """What a command prints, its messages included."""
    result = CliRunner().invoke(app, ["bundle", *words, "--runs", str(runs)])
    assert result.exit_code == code, result.output
    return result.output


PRUNE = ("prune", "--max-age-days", "100", "--min-runs", "1")


def test_a_dry_run_says_what_would_go_and_removes_nothing(runs: Path) -> None:
    before = sorted(path.name for path in runs.glob("2*"))
    said = told(runs, *PRUNE, "--dry-run")
    assert [line.split()[0] for line in said.splitlines()[:-1]] == before[:2]
    assert said.count("would go") == 3
    assert sorted(path.name for path in runs.glob("2*")) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("prune",), "say what is to go"),
        (("prune", "--max-age-days", "1"), "--dry-run"),
        (("prune", "--min-free-gb", "1", "--yes", "--dry-run"), "--dry-run"),
    ],
)
def test_nothing_goes_that_was_not_asked_for_in_so_many_words(
    runs: Path, words: tuple[str, ...], why: str
) -> None:
    assert why in told(runs, *words, code=1)
    assert len(list(runs.glob("2*"))) == 4


def test_what_went_is_listed_and_named_when_it_is_asked_for(runs: Path) -> None:
    first = min(path.name for path in runs.glob("2*"))
    told(runs, *PRUNE, "--yes")
    assert first in told(runs, "list", "--removed")
    line = json.loads(told(runs, "list", "--removed", "--json").splitlines()[0])
    assert (line["run_id"], line["why"]) == (first, "age")
    assert "was removed on" in told(runs, "show", first, code=1)
    assert first not in told(runs, "list")


def test_what_is_kept_stays_until_it_is_not_kept_any_more(runs: Path) -> None:
    first = min(path.name for path in runs.glob("2*"))
    told(runs, "keep", first, "--reason", "for the paper")
    assert "for the paper" in (runs / f"{first}.keep").read_text()
    assert "sealed (kept)" in told(runs, "list")
    assert f"{first} stays" in told(runs, *PRUNE, "--yes")
    told(runs, "keep", first, "--undo")
    assert f"{first} removed" in told(runs, *PRUNE, "--yes")
