"""``capa plugins``: what it prints, writes and refuses."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from capa.cli.main import app
from capa.plugins.lock import journal_of, read_lock
from tests.support.plugin_tree import good, install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path with one good plug-in; the working directory beside it."""
    root = tmp_path / "site"
    files = {"greet/__init__.py": "", "greet/one.py": good("greet.one")}
    install(root, "greet", files, {"greet.one": "greet.one:Idle"}, version="0.2.0")
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPA_PLUGIN_MODE", raising=False)
    monkeypatch.delenv("CAPA_PLUGINS_LOCK", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield root
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("greet", "broken")]:
        del sys.modules[name]


def capa(*argv: str) -> Result:
    _forget()
    return CliRunner().invoke(app, ["plugins", *argv])


def listed(*argv: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capa("list", "--json", *argv).stdout)
    return answer


def add_broken(site: Path) -> None:
    files = {"broken/__init__.py": "", "broken/one.py": "raise OSError('no')\n"}
    install(site, "broken", files, {"broken.one": "broken.one:Idle"})


def test_the_list_is_as_the_specification_shows_it(site: Path) -> None:
    lines = capa("list").stdout.splitlines()
    assert lines[:4] == [
        "plugin mode: dev",
        "plugins.lock: (none — production mode requires one to gate trust)",
        "",
        "id                                       package              version    hash",
    ]
    start = "capa.builtin.free_run                    capa                 0.1.0      sha256:"
    assert any(line.startswith(start) for line in lines)
    assert any(line.split()[:3] == ["greet.one", "greet", "0.2.0"] for line in lines)


def test_trust_writes_the_lock_and_the_journal_and_the_list_shows_it(site: Path) -> None:
    answer = capa("trust", "greet.one", "--reason", "read it")
    assert answer.exit_code == 0, answer.output
    assert "trusted: greet.one (greet 0.2.0)" in answer.stdout
    lock = read_lock(Path("plugins.lock"))
    assert lock is not None
    assert [one.id for one in lock.plugins] == ["greet.one"]
    (line,) = journal_of(Path("plugins.lock")).read_text().splitlines()
    assert json.loads(line)["reason"] == "read it"
    assert "plugins.lock: plugins.lock (1 trusted)" in capa("list").stdout


def test_trust_prints_the_journals_line_as_json(site: Path) -> None:
    answer = json.loads(capa("trust", "greet.one", "--reason", "read it", "--json").stdout)
    assert answer["after"]["package"] == "greet"
    assert answer["lock"] == "plugins.lock"


def test_the_lock_may_be_elsewhere(site: Path, tmp_path: Path) -> None:
    lock = tmp_path / "etc" / "trusted.lock"
    assert capa("trust", "greet.one", "--reason", "x", "--lock", str(lock)).exit_code == 0
    assert listed("--lock", str(lock))["lock_present"] is True
    assert listed()["lock_present"] is False


def test_production_runs_what_is_trusted_until_a_byte_changes(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPA_PLUGIN_MODE", "production")
    assert "greet.one" not in [one["id"] for one in listed()["plugins"]]
    assert capa("trust", "greet.one", "--reason", "read it").exit_code == 0
    assert "greet.one" in [one["id"] for one in listed()["plugins"]]
    module = site / "greet" / "one.py"
    module.write_text(module.read_text().replace("Idle", "Idly", 1))
    found = listed()
    assert "greet.one" not in [one["id"] for one in found["plugins"]]
    assert [one["kind"] for one in found["drift"]] == ["hash"]
    assert "rejected:\n  greet.one (greet): not trusted: hash of" in capa("list").stdout


def test_untrust_takes_it_back(site: Path) -> None:
    capa("trust", "greet.one", "--reason", "read it")
    assert capa("untrust", "greet.one", "--reason", "retired").exit_code == 0
    assert [one["kind"] for one in listed()["drift"]] == ["missing from lock"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trust", "greet.one"], "Missing option '--reason'"),
        (["trust", "greet.one", "--reason", " "], "a reason is needed"),
        (["trust", "greet.on", "--reason", "x"], "did you mean `greet.one`?"),
        (["trust", "capa.builtin.free_run", "--reason", "x"], "is always trusted"),
        (["trust", "broken.one", "--reason", "x"], "is refused: importing it raised OSError: no"),
        (["untrust", "greet.one", "--reason", "x"], "is not in the lock"),
    ],
)
def test_what_can_not_be_trusted_is_refused_and_nothing_is_written(
    site: Path, argv: list[str], says: str
) -> None:
    add_broken(site)
    answer = capa(*argv)
    assert answer.exit_code == 2
    assert says in answer.output
    assert not Path("plugins.lock").exists()


def test_a_broken_plug_in_is_listed_with_its_reason(site: Path) -> None:
    add_broken(site)
    (one,) = listed()["rejected"]
    assert (one["name"], one["package"]) == ("broken.one", "broken")
    assert "one.py, line 1" in one["reason"]


def test_a_lock_that_can_not_be_used_is_an_error_with_its_place(site: Path) -> None:
    Path("plugins.lock").write_text("version = 7\n")
    answer = capa("list")
    assert answer.exit_code == 78
    assert "plugins.lock:1: version 7 is unknown" in answer.stdout
    assert "greet.one" in answer.stdout


def test_a_mode_that_is_none_is_an_error(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPA_PLUGIN_MODE", "prod")
    answer = capa("list")
    assert answer.exit_code == 78
    assert "CAPA_PLUGIN_MODE='prod' is no mode" in answer.output


def test_an_id_that_two_packages_bring_is_trusted_for_neither(site: Path) -> None:
    files = {"broken/__init__.py": "", "broken/one.py": good("greet.one")}
    install(site, "broken", files, {"greet.one": "broken.one:Idle"})
    done = capa("trust", "greet.one", "--reason", "x")
    assert done.exit_code == 2
    assert "broken.one:Idle (package broken, entry point 'greet.one')" in done.stderr
    assert "greet.one:Idle (package greet, entry point 'greet.one')" in done.stderr
    assert not Path("plugins.lock").exists()
