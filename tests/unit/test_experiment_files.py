"""Experiment files: every mistake with its line, and what the spool makes of them."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, model_validator
from typer.testing import CliRunner

from capa.cli.main import app
from capa.config.check_experiment import check_experiment
from capa.config.load import load_profile, read_experiment
from capa.config.problems import ProblemsError
from capa.config.procedure_config import procedure_problems
from capa.config.reading import parse_toml
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.plugins.discovery import load_procedures
from capad.intake import Intake, Prepared
from capad.jobs import Job, JobState
from capad.spool_folders import SpoolFolders

CONFIGS = Path(__file__).parents[2] / "configs"
DEMO = CONFIGS / "methods/demo.method.toml"
RIG = CONFIGS / "hardware/demo.toml"
OTHER_RIG = CONFIGS / "hardware/sim_capa.toml"

YAML = """\
hardware: demo
method: methods/demo.method.toml
procedure:
  id: capa.builtin.recipe_runner
  config:
    auto_acknowledge_prompts: true
    notes: "PMMA replicate 3"
operator: { id: maria, name: Maria L. }
sample: { id: PMMA-03, thickness_mm: 3 }
tags: [pmma, series-2]
custom: { beamline: 4 }
"""


def problems(folder: Path, text: str, name: str = "run.experiment.yaml") -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        read_experiment(text, file=name, folder=folder, procedures=load_procedures())
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/demo.method.toml").write_bytes(DEMO.read_bytes())
    return tmp_path


def test_a_yaml_experiment_says_everything_about_a_run(folder: Path) -> None:
    read = read_experiment(
        YAML, file="run.experiment.yaml", folder=folder, procedures=load_procedures()
    )
    experiment = read.experiment
    assert experiment.method is not None
    assert experiment.method.name == "demo"
    assert experiment.procedure.config["notes"] == "PMMA replicate 3"
    assert (experiment.operator.id, experiment.operator.name) == ("maria", "Maria L.")
    assert experiment.sample == {"id": "PMMA-03", "thickness_mm": 3}
    assert experiment.tags == ("pmma", "series-2")
    assert experiment.custom == {"beamline": 4}


def test_every_mistake_of_a_yaml_experiment_has_its_line(folder: Path) -> None:
    bad = (
        YAML.replace("tags:", "tag:")
        .replace("recipe_runner", "recipe_runer")
        .replace("demo.method.toml", "dem.method.toml")
        .replace("{ id: maria, name", "{ name")
    )
    found = problems(folder, bad)
    assert found[0].startswith("run.experiment.yaml:2: field method: the method can't be read")
    assert any(
        text.startswith("run.experiment.yaml:4: field procedure.id: no procedure")
        and "did you mean `capa.builtin.recipe_runner`?" in text
        for text in found
    )
    assert any(
        text.startswith("run.experiment.yaml:8: field operator.id: is missing") for text in found
    )
    assert any(":10: field tag: unknown field; did you mean `tags`?" in text for text in found)


def test_a_wrong_procedure_config_has_its_line_and_a_hint_before_anything_runs(
    folder: Path,
) -> None:
    found = problems(folder, YAML.replace("auto_acknowledge_prompts", "auto_acknowledge_prompt"))
    assert found == [
        "run.experiment.yaml:6: field procedure.config.auto_acknowledge_prompt: unknown field; "
        "did you mean `auto_acknowledge_prompts`?"
    ]


def test_a_wrong_value_in_toml_has_its_line(folder: Path) -> None:
    text = '[procedure]\nid = "capa.builtin.free_run"\n\n[procedure.config]\nduration_s = "long"\n'
    (found,) = problems(folder, text, "run.experiment.toml")
    assert found.startswith("run.experiment.toml:5: field procedure.config.duration_s: ")


@pytest.mark.parametrize("raised", [KeyError("oven"), SystemExit(3)])
def test_a_config_model_that_breaks_is_a_problem_of_the_file(raised: BaseException) -> None:
    class Broken(BaseModel):
        @model_validator(mode="before")
        @classmethod
        def _look(cls, _data: object) -> object:
            raise raised

    class Plugin(RecipeRunner):
        id: ClassVar[str] = "lab.broken"
        config_model: ClassVar[type[BaseModel]] = Broken

    source = parse_toml('[procedure]\nid = "lab.broken"\n', file="run.experiment.toml")
    (found,) = procedure_problems(source, {"lab.broken": Plugin})
    assert f"lab.broken: config_model raised {type(raised).__name__}: " in str(found)


def test_an_unknown_procedure_lists_those_that_there_are(folder: Path) -> None:
    (found,) = problems(folder, "procedure: { id: zzz }\n")
    assert "there are: capa.builtin.batch, " in found


def test_a_procedure_version_that_is_not_installed_is_refused(folder: Path) -> None:
    (found,) = problems(folder, 'procedure: { id: capa.builtin.free_run, version: "9.0" }\n')
    assert "capa.builtin.free_run 9.0 is asked for, installed is 1.0.0" in found


def test_the_procedure_inside_a_batch_is_checked_too(folder: Path) -> None:
    text = """\
method: methods/demo.method.toml
procedure:
  id: capa.builtin.batch
  config:
    replicates: 3
    sample_id_template: "PMMA-{index:02}"
    procedure:
      id: capa.builtin.recipe_runner
      config:
        note: x
"""
    (found,) = problems(folder, text)
    assert ":10: " in found
    assert "did you mean `notes`?" in found


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "methods", "run.experiment.yaml", "x\0.method.toml"]
)
def test_nothing_but_a_method_is_read_as_one(folder: Path, name: str) -> None:
    text = f"method = {name!r}\n".replace("'", '"').replace("\\x00", "\\u0000")
    (found,) = problems(folder, text, "run.experiment.toml")
    assert "field method" in found


def test_a_link_that_is_called_a_method_leads_to_nothing_else(folder: Path) -> None:
    secret = folder / "secret.toml"
    secret.write_text("password = hunter2\n")
    (folder / "x.method.toml").symlink_to(secret)
    (found,) = problems(folder, "method: x.method.toml\n")
    assert "is not called NAME.method.toml" in found
    assert "hunter2" not in found


# --- at the desk ----------------------------------------------------------------------------------


def capa(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_validate_refuses_a_profile_other_than_the_experiments_and_names_both(
    folder: Path,
) -> None:
    file = folder / "run.experiment.yaml"
    file.write_text(YAML)
    code, output = capa("validate", file, "--hardware", OTHER_RIG)
    assert code == 2
    assert f"{file}:1: field hardware: is written for the rig 'demo'; this is 'sim_capa'" in output
    assert capa("validate", file, "--hardware", RIG)[0] == 0


def test_validate_names_a_handler_that_the_recipe_runner_has_not(folder: Path) -> None:
    (folder / "c.method.toml").write_text(
        'name = "c"\n\n[[steps]]\nkind = "custom"\nhandler_id = "lab.purge"\n'
    )
    file = folder / "run.experiment.toml"
    file.write_text('method = "c.method.toml"\n')
    code, output = capa("validate", file, "--hardware", RIG)
    assert code == 2
    assert "c.method.toml:5: step 1 (custom), field handler_id: the procedure has no handler" in (
        output
    )


def test_an_inline_method_has_its_lines_in_the_experiment(folder: Path) -> None:
    file = folder / "run.experiment.toml"
    file.write_text(
        '[method]\nname = "x"\n\n[[method.steps]]\nkind = "setpoint"\n'
        'target = { name = "heter.setpoint" }\nvalue = 1.0\n'
    )
    code, output = capa("validate", file, "--hardware", RIG)
    assert code == 2
    assert f"{file}:6: step 1 (setpoint), field target.name: no channel is called" in output


@pytest.mark.parametrize("hardware", ["demo", "hardware/demo.toml", "/gone/with/the/box/demo.toml"])
def test_the_rig_is_named_or_is_a_path(tmp_path: Path, hardware: str) -> None:
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware/demo.toml").write_bytes(RIG.read_bytes())
    file = tmp_path / "run.experiment.toml"
    file.write_text(f'hardware = "{hardware}"\n[procedure]\nid = "capa.builtin.free_run"\n')
    assert capa("validate", file, "--hardware", RIG)[0] == 0
    assert capa("validate", file, "--hardware", OTHER_RIG)[0] == 2


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "experiments").glob("*.experiment.*")), ids=lambda path: path.stem
)
def test_every_shipped_experiment_fits_the_rig_whose_path_it_gives(path: Path) -> None:
    if "hardware" not in path.read_text():
        pytest.skip("it names no rig")
    code, output = capa("validate", path)
    assert code == 0, output


def batch_file(folder: Path, steps: str) -> Path:
    """A batch of the demo method whose second replicate has other values."""
    file = folder / "series.experiment.yaml"
    file.write_text(
        "method: methods/demo.method.toml\nprocedure:\n  id: capa.builtin.batch\n"
        f"  config: {{ replicates: 2, overrides: [{{ iteration: 2, steps: {steps} }}] }}\n"
    )
    return file


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("{ 3: { value: 9000.0 } }", "is above"),
        ("{ 3: { valu: 1.0 } }", "did you mean `value`?"),
        ("{ 9: { value: 1.0 } }", "there is no step 9"),
    ],
)
def test_a_batchs_changed_values_are_checked_at_the_desk(
    folder: Path, steps: str, said: str
) -> None:
    code, output = capa("validate", batch_file(folder, steps), "--hardware", RIG)
    assert code == 2
    assert said in output


def test_what_a_batch_finds_in_its_overrides_names_the_file(folder: Path) -> None:
    file = batch_file(folder, "{ 9: { value: 1 } }")
    _, output = capa("validate", file, "--hardware", RIG)
    assert f"{file}:4: overrides of iteration 2: there is no step 9" in output


def test_what_is_wrong_with_every_replicate_is_said_once(folder: Path) -> None:
    method = folder / "methods/demo.method.toml"
    method.write_text(method.read_text().replace('"mass_loss_fraction"', '"mass_loss"'))
    file = batch_file(folder, "{ 3: { value: 1 } }")
    _, output = capa("validate", file, "--hardware", RIG)
    assert output.count('no channel is called "mass_loss"') == 1


def test_a_recipe_without_a_method_is_told_at_the_desk_and_a_batch_of_free_runs_is_not(
    folder: Path,
) -> None:
    file = folder / "run.experiment.yaml"
    file.write_text("procedure: { id: capa.builtin.recipe_runner }\n")
    code, output = capa("validate", file, "--hardware", RIG)
    assert code == 0  # its preflight refuses; another procedure may do without
    assert f"warning: {file}:1: field method: capa.builtin.recipe_runner walks a method" in output
    file.write_text(
        "procedure:\n  id: capa.builtin.batch\n"
        "  config: { replicates: 2, procedure: { id: capa.builtin.free_run, "
        "config: { duration_s: 1 } } }\n"
    )
    code, output = capa("validate", file, "--hardware", RIG)
    assert (code, "walks a method" in output) == (0, False)


# --- in the spool ---------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Path) -> SpoolFolders:
    made = SpoolFolders(tmp_path / "spool", max_bytes=100_000)
    made.prepare()
    (made.incoming / "methods").mkdir()
    return made


def taken(spool: SpoolFolders, name: str, text: str) -> Job:
    (spool.incoming / name).write_text(text)
    job = spool.claim(name, spool.look()[name])
    assert job is not None
    return job


def prepared(spool: SpoolFolders, job: Job) -> Prepared:
    intake = Intake(
        load_profile(RIG),
        incoming=spool.incoming,
        profile_file=RIG,
        procedures=load_procedures(),
    )
    return intake.prepare(job, spool.content(job), spool.companion(job))


def test_a_method_in_the_methods_folder_is_no_job(spool: SpoolFolders) -> None:
    (spool.incoming / "methods/demo.method.toml").write_bytes(DEMO.read_bytes())
    assert spool.look() == {}


def test_a_dropped_experiment_finds_its_method_as_it_did_where_it_was_written(
    spool: SpoolFolders,
) -> None:
    (spool.incoming / "methods/demo.method.toml").write_bytes(DEMO.read_bytes())
    made = prepared(spool, taken(spool, "run.experiment.yaml", YAML))
    assert made.experiment.operator.id == "maria"
    assert made.method_text == DEMO.read_text()


def test_what_was_checked_is_what_is_run_though_the_method_is_changed_or_removed(
    spool: SpoolFolders,
) -> None:
    method = spool.incoming / "methods/demo.method.toml"
    method.write_bytes(DEMO.read_bytes())
    job = taken(spool, "run.experiment.yaml", YAML)
    companion = prepared(spool, job).companion
    assert companion is not None
    spool.keep_companion(job, companion)
    method.unlink()
    (again,) = spool.jobs(JobState.QUEUED)
    assert prepared(spool, again).method_text == DEMO.read_text()


def test_a_method_beside_the_experiment_would_be_a_job_of_its_own_and_is_refused(
    spool: SpoolFolders,
) -> None:
    (spool.incoming / "demo.method.toml").write_bytes(DEMO.read_bytes())
    job = taken(spool, "run.experiment.toml", 'method = "demo.method.toml"\n')
    with pytest.raises(ProblemsError) as caught:
        prepared(spool, job)
    assert "incoming/methods/" in str(caught.value)


def test_a_method_beside_a_procedure_that_walks_none_is_told_with_its_line(folder: Path) -> None:
    text = YAML.replace("capa.builtin.recipe_runner", "capa.builtin.free_run")
    text = text.replace("    auto_acknowledge_prompts: true\n", "")
    read = read_experiment(
        text, file="run.experiment.yaml", folder=folder, procedures=load_procedures()
    )
    profile = load_profile(RIG)
    said = check_experiment(
        read, profile=profile, profile_file=RIG, folder=folder, procedures=load_procedures()
    )
    (told,) = [problem for problem in said if problem.code == "experiment.method_unused"]
    assert str(told).startswith(
        "run.experiment.yaml:2: field method: capa.builtin.free_run uses no method"
    )
    assert not told.blocking


def test_an_experiment_for_another_rig_is_rejected_with_both_names(spool: SpoolFolders) -> None:
    text = 'hardware = "sim_capa"\n[procedure]\nid = "capa.builtin.free_run"\n'
    with pytest.raises(ProblemsError) as caught:
        prepared(spool, taken(spool, "run.experiment.toml", text))
    assert "is written for the rig 'sim_capa'; this is 'demo'" in str(caught.value)


def test_without_an_operator_the_owner_of_the_file_answers_for_the_run(
    spool: SpoolFolders,
) -> None:
    text = '[procedure]\nid = "capa.builtin.free_run"\n'
    job = taken(spool, "run.experiment.toml", text)
    assert job.uid == os.getuid()
    assert prepared(spool, job).experiment.operator.id == job.owner


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("not_before: soon", "not_before"),
        ("not_before: 12", "must be a date and a time"),
        ("not_before: 0001-01-01T00:00:00", "between the years 2000 and 2999"),
        ("priority: 1.5", "priority"),
        ("priority: 1000", "priority"),
    ],
)
def test_a_wrong_place_in_the_queue_has_its_line(folder: Path, line: str, told: str) -> None:
    (problem,) = problems(folder, f"{YAML}{line}\n")
    assert ":12" in problem
    assert told in problem


def test_an_experiment_says_when_and_before_whom_it_runs(folder: Path) -> None:
    text = f"{YAML}priority: 3\nnot_before: 2026-11-22T06:00:00+02:00\n"
    read = read_experiment(
        text, file="run.experiment.yaml", folder=folder, procedures=load_procedures()
    )
    assert read.experiment.priority == 3
    assert read.experiment.not_before == datetime(2026, 11, 22, 4, tzinfo=UTC)
