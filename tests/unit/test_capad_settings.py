"""``capad.toml``: every mistake named, every path where it is meant to be."""

from pathlib import Path

import pytest

from capa.config.problems import ProblemsError
from capad.settings import load_settings, settings_text


def problems(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ProblemsError) as caught:
        load_settings(path, {})
    return str(caught.value)


def test_without_a_file_the_defaults_suit_a_box() -> None:
    settings = load_settings(None, {})
    assert settings.spool.root == Path("/var/lib/capad/spool")
    assert settings.runtime.dir == Path("/run/capad")
    assert settings.rig.profile == Path("/etc/capad/hardware.toml")


def test_an_unknown_key_is_an_error_that_knows_the_right_one(tmp_path: Path) -> None:
    said = problems(tmp_path / "capad.toml", "[spool]\nsettle = 0.5\nrescan_s = 2\n")
    assert "settle" in said
    assert "did you mean `settle_s`?" in said
    assert ":2" in said


def test_every_problem_of_the_file_is_named_at_once(tmp_path: Path) -> None:
    said = problems(
        tmp_path / "capad.toml",
        "[spool]\nsettle_s = -1\n[safety]\ngrace_s = 'long'\n[rigg]\nprofile = 'x'\n",
    )
    assert "settle_s" in said
    assert "grace_s" in said
    assert "rigg" in said


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "capad.toml").write_text('[spool]\nroot = "../spool"\n')
    assert load_settings(folder / "capad.toml", {}).spool.root == tmp_path / "spool"


def test_flags_win_and_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "capad.toml").write_text('[rig]\nprofile = "a.toml"\n')
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        tmp_path / "capad.toml", {"rig.profile": Path("b.toml"), "runs.root": None}
    )
    assert settings.rig.profile == tmp_path / "b.toml"
    assert settings.runs.root == Path("/var/lib/capad/runs")


def test_a_file_that_was_named_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"capad\.toml"):
        load_settings(tmp_path / "capad.toml", {})


def test_the_next_run_waits_for_the_last_stage_unless_the_box_says_other(tmp_path: Path) -> None:
    assert load_settings(None, {}).safety.next_run_may_start == "after_last_stage"
    file = tmp_path / "capad.toml"
    file.write_text('[safety]\nnext_run_may_start = "after_first_stage"\n')
    assert load_settings(file, {}).safety.next_run_may_start == "after_first_stage"
    assert "after_last_stage" in problems(file, '[safety]\nnext_run_may_start = "at once"\n')


def test_the_settings_in_force_are_printed_one_a_line() -> None:
    lines = settings_text(load_settings(None, {})).splitlines()
    assert "spool.settle_s = 0.25" in lines
