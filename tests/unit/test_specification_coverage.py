"""The list of the specification's sentences names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED = ROOT / "docs" / "specification-coverage.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _tests_of(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def _named() -> dict[str, set[str]]:
    named: dict[str, set[str]] = {}
    for file, test in NAMED.findall(LISTED.read_text(encoding="utf-8")):
        named.setdefault(file, set()).add(test)
    return named


@pytest.mark.parametrize("file", sorted(_named()))
def test_every_test_that_the_specification_list_names_is_there(file: str) -> None:
    assert _named()[file] <= _tests_of(ROOT / file)


def test_every_row_of_the_specification_list_names_a_test() -> None:
    text = LISTED.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| ---" not in line]
    unnamed = [row for row in rows if not NAMED.search(row) and not row.startswith("| sentence")]
    assert rows
    assert unnamed == []
