"""The page for the safety officer names tests that exist, and the bounds that are in force."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "safety.md").read_text()
UNIT = (REPOSITORY / "deploy" / "systemd" / "capad.service").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_test_that_the_page_names_is_there(file: str, name: str) -> None:
    tree = ast.parse((REPOSITORY / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in tree.body if isinstance(node, functions)}


def test_every_guarantee_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 6]
    guarantees = [row for row in rows if not row.startswith(("| whatever", "| ---"))]
    assert len(guarantees) > 15
    assert [row for row in guarantees if "::" not in row] == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("WatchdogSec=3s", "`WatchdogSec=` (3 s)"),
        ("TimeoutStartSec=60s", "`TimeoutStartSec=` (60 s)"),
        ("RestartSec=1s", "starts the daemon again after 1 s"),
    ],
)
def test_the_page_speaks_of_the_unit_as_it_ships(setting: str, words: str) -> None:
    assert f"\n{setting}\n" in UNIT
    assert words in PAGE


def test_the_page_is_installed_where_the_unit_says() -> None:
    assert "Documentation=file:///opt/capad/share/doc/capad/safety.md" in UNIT
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "docs/safety.md $(PREFIX)/share/doc/capad/safety.md" in makefile
