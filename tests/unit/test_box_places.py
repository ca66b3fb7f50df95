"""Where the tool ``capa`` looks on a box: one answer for each question, and the daemon's own."""

from pathlib import Path

import pytest

from capa.cli.run import _runs_root
from capa.config.box import sign_key_of_box, state_of_box
from capa.errors import CapaError
from capa.storage.find import runs_folder
from capad.settings import Settings, load_settings


@pytest.mark.parametrize("told", [{"CAPA_RUNS": "/a"}, {"CAPA_RUNS": "/b", "CAPA_RUNS_ROOT": "/a"}])
def test_runs_are_looked_for_where_capa_run_puts_them(
    told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CAPA_RUNS", "CAPA_RUNS_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in told.items():
        monkeypatch.setenv(name, folder)
    assert _runs_root(None) == runs_folder(None) == Path("/a")
    assert _runs_root(Path("/x")) == runs_folder(Path("/x")) == Path("/x")


@pytest.mark.parametrize(
    "text",
    [
        "[runs]\n",
        '[spool]\nroot = "state/spool"\n[runs]\nsign_key = "keys/box"\n',
        '[spool]\nroot = "../state/x/../spool/.."\n',
        '[spool]\nroot = "/srv/capad/spool"\n',
    ],
)
def test_the_tool_finds_the_state_and_the_key_where_the_daemon_has_them(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "etc" / "capad.toml"
    file.parent.mkdir()
    file.write_text(text)
    settings: Settings = load_settings(file, {})
    assert state_of_box(file) == settings.spool.root.parent
    assert sign_key_of_box(file) == settings.runs.sign_key


def test_without_settings_there_is_no_box(tmp_path: Path) -> None:
    assert state_of_box(tmp_path / "capad.toml") is None
    assert sign_key_of_box(tmp_path / "capad.toml") is None


@pytest.mark.parametrize("text", ["[spool", "spool = 3", "[spool]\nroot = 3"])
def test_settings_that_do_not_say_where_are_said_to_be_unreadable(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "capad.toml"
    file.write_text(text)
    with pytest.raises(CapaError, match="can't be read"):
        state_of_box(file)
