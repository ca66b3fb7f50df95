"""``capa validate``: what it prints and how it ends."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from capa.cli.main import app

CONFIGS = Path(__file__).parents[2] / "configs"
DEMO = CONFIGS / "methods/demo.method.toml"
RIG = CONFIGS / "hardware/sim_capa.toml"


def capa(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_good_files_get_a_line_each_and_exit_0() -> None:
    code, output = capa("validate", DEMO, RIG, "--hardware", RIG)
    assert code == 0
    assert output.splitlines() == [
        f"ok: {DEMO}: method demo: 5 steps, duration not fixed; fits sim_capa",
        f"ok: {RIG}: profile sim_capa: 3 devices on 3 links, 8 channels, 2 safe-state stages",
    ]


def test_a_known_duration_is_told() -> None:
    output = capa("validate", CONFIGS / "methods/sim_capa_pyrolysis.method.toml")[1]
    assert "2 steps, 10 min; not checked against a rig" in output


def test_a_value_past_a_limit_exits_2_and_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "hot.method.toml"
    file.write_text(DEMO.read_text("utf-8").replace("400.0", "4000.0"), encoding="utf-8")
    code, output = capa("validate", file, "--hardware", RIG)
    assert code == 2
    assert f"error: {file}:14: step 2 (ramp), field end_value: 4000 degC is above" in output
    assert output.splitlines()[-1] == f"refused: {file}: 2 problems"


def test_a_mistake_in_one_step_does_not_hide_a_wrong_target_or_value_in_another(
    tmp_path: Path,
) -> None:
    file = tmp_path / "m.method.toml"
    file.write_text(
        'name = "m"\n'
        '[[steps]]\nkind = "ramp"\nend_value = 30.0\nrate_per_seconds = 0.5\n'
        'target = { name = "heater.setpiont" }\n'
        '[[steps]]\nkind = "setpoint"\nvalue = 5.0\ntarget = { name = "heater.setpt" }\n'
        '[[steps]]\nkind = "setpoint"\nvalue = 5e4\ntarget = { name = "heater.setpoint" }\n'
    )
    code, output = capa("validate", file, "--hardware", RIG)
    assert code == 2
    lines = [line.removeprefix(f"error: {file}:") for line in output.splitlines()[1:]]
    assert lines[0].startswith("5: step 1 (ramp), field rate_per_seconds: unknown field")
    assert lines[1].startswith('6: step 1 (ramp), field target.name: no channel is called "heater.')
    assert lines[2].startswith("10: step 2 (setpoint), field target.name: no channel is called")
    assert lines[3].startswith("13: step 3 (setpoint), field value: 50000 degC is above")
    assert lines[4:] == [f"refused: {file}: 4 problems"]


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    code, output = capa("validate", tmp_path / "none.method.toml", DEMO)
    assert code == 2
    assert "No such file" in output
    assert "ok: " in output


def test_a_warning_alone_exits_0(tmp_path: Path) -> None:
    file = tmp_path / "cool.method.toml"
    file.write_text(DEMO.read_text("utf-8").replace('"purge.flow" =', '"purge.flo" ='), "utf-8")
    code, output = capa("validate", file, "--hardware", RIG)
    assert code == 0
    assert f"\nwarning: {file}:" in output


def test_a_bad_profile_is_named_before_the_methods(tmp_path: Path) -> None:
    profile = tmp_path / "rig.toml"
    profile.write_text(RIG.read_text("utf-8").replace("watlow", "watlo"), encoding="utf-8")
    code, output = capa("validate", DEMO, "--hardware", profile)
    assert code == 2
    assert "did you mean `watlow`?" in output


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_an_experiment_is_checked_with_the_method_it_names(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "d.method.toml").write_text(DEMO.read_text("utf-8"), encoding="utf-8")
    file = tmp_path / f"run.experiment.{suffix}"
    equals = " =" if suffix == "toml" else ":"
    file.write_text(f'method{equals} "d.method.toml"\ntags{equals} ["a"]\n', encoding="utf-8")
    code, output = capa("validate", file, "--hardware", RIG)
    assert code == 0
    assert "experiment with capa.builtin.recipe_runner, method demo: 5 steps" in output


def test_an_experiment_whose_method_is_missing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.experiment.toml"
    file.write_text('tags = []\nmethod = "none.method.toml"\n', encoding="utf-8")
    code, output = capa("validate", file)
    assert code == 2
    assert f"{file}:2: field method: the method can't be read" in output


def test_the_daemons_settings_are_not_taken_for_a_method() -> None:
    code, output = capa("validate", CONFIGS / "demo.toml")
    assert code == 2
    assert "capad --check" in output


def test_help_lists_the_commands() -> None:
    code, output = capa("--help")
    assert code == 0
    assert "validate" in output
    assert "twin" in output
