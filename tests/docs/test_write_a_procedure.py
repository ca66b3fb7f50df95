"""The blocks of "Write a procedure in ten minutes", run as a reader would run them."""

import importlib
import json
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from capa.config.experiment import ExperimentConfig, ProcedureRef
from capa.config.load import load_method, read_experiment
from capa.experiment.method import Method
from capa.experiment.procedures.base import Procedure
from capa.experiment.procedures.builtin.batch import Batch
from capa.plugins.contract import faults_of
from capa.runtime.report import RunReport, RunRequest
from tests.support.engine import bench_rig, conductor
from tests.support.plugin_box import PluginBox

PAGE = Path(__file__).parents[2] / "docs/write-a-procedure.md"
_BLOCK = re.compile(r"^```(python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every block of the page in the file that its first line names."""
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == PAGE.read_text().count("\n```python\n") + PAGE.read_text().count(
        "\n```toml\n"
    )
    for _, name, text in blocks:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "hold_lab"]:
        del sys.modules[name]


def procedures(page: Path) -> dict[str, type[Procedure]]:
    assert page in map(Path, sys.path)
    hold = importlib.import_module("hold_lab.procedure").Hold
    purging = importlib.import_module("hold_lab.purging").PurgingRunner
    phases = importlib.import_module("hold_lab.phases").Phases
    return {one.id: one for one in (hold, purging, phases, Batch)}


async def run_of(page: Path, experiment: ExperimentConfig) -> RunReport:
    async with bench_rig() as (rig, _):
        one = conductor(rig, page / "runs", procedures=procedures(page))
        return await one.run(RunRequest(experiment, "hold", None, "", "", "maria"))


def experiment(page: Path, name: str) -> ExperimentConfig:
    text = (page / name).read_text()
    return read_experiment(text, file=name, folder=page, procedures=procedures(page)).experiment


def events(report: RunReport) -> list[str]:
    assert report.bundle is not None
    db = sqlite3.connect(report.bundle / "events.sqlite")
    rows = [kind for (kind,) in db.execute("select kind from events order by id")]
    db.close()
    return rows


def test_the_procedures_on_the_page_keep_the_contract(page: Path) -> None:
    for procedure in procedures(page).values():
        assert faults_of(procedure) == []


def test_the_packages_entry_point_leads_to_the_class(page: Path) -> None:
    project = tomllib.loads((page / "pyproject.toml").read_text())
    ((name, target),) = project["project"]["entry-points"]["capa.procedures"].items()
    module, _, attribute = target.partition(":")
    procedures(page)
    assert getattr(importlib.import_module(module), attribute).id == name


def test_the_package_on_the_page_installs_as_it_stands(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the page's package is built by hatchling")
    (page / "hold_lab" / "__init__.py").touch()
    box = PluginBox(tmp_path / "box")
    box.make()
    box.install(str(page))
    assert box.usable("dev") == {"lab.hold"}


async def test_the_experiment_on_the_page_runs_to_its_end(
    autojump_clock: MockClock, page: Path
) -> None:
    report = await run_of(page, experiment(page, "hold.experiment.toml"))
    assert (report.run_status, report.exit_reason) == ("completed", "the procedure ran to its end")
    assert "command.result" in events(report)


async def test_the_custom_step_on_the_page_is_called(autojump_clock: MockClock, page: Path) -> None:
    of = load_method(page / "purged.method.toml")
    wanted = ExperimentConfig(method=of, procedure=ProcedureRef(id="lab.purging_runner"))
    report = await run_of(page, wanted)
    assert report.run_status == "completed"
    assert [step.kind for step in report.steps] == ["custom", "hold"]
    custom = report.steps[0]
    assert custom.left_ns is not None
    assert (custom.left_ns - custom.entered_ns) / 1e9 == pytest.approx(30.0, abs=0.1)


def walking(ref: ProcedureRef) -> ExperimentConfig:
    target = {"name": "heater.setpoint"}
    steps = [{"kind": "hold", "target": target, "value": v, "duration_s": 5.0} for v in (50, 60)]
    method = Method.model_validate({"name": "two holds", "steps": steps})
    return ExperimentConfig(method=method, procedure=ref)


async def test_the_phases_on_the_page_come_between_the_steps_and_clean_up(
    autojump_clock: MockClock, page: Path
) -> None:
    wanted = walking(ProcedureRef(id="lab.phases", config={"look_s": 3.0}))
    report = await run_of(page, wanted)
    assert (report.run_status, report.exit_reason) == ("completed", "the procedure ran to its end")
    walk = ("method.step.entered", "lab.looked")
    assert [kind for kind in events(report) if kind in walk] == [*(2 * walk), walk[0]]
    assert report.bundle is not None
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    samples = manifest["recorder"]["samples"]  # one channel, ten times a second, for 16 s
    assert samples == pytest.approx(80, abs=10)


async def test_the_phases_on_the_page_refuse_another_procedures_config(
    autojump_clock: MockClock, page: Path
) -> None:
    wanted = walking(ProcedureRef(id="lab.phases", config={"notes": "x"}))
    assert (await run_of(page, wanted)).run_status == "refused"


async def test_the_batch_on_the_page_runs_its_replicates(
    autojump_clock: MockClock, page: Path
) -> None:
    report = await run_of(page, experiment(page, "series.experiment.toml"))
    assert report.run_status == "completed", report.exit_reason
    assert events(report).count("batch.replicate.ended") == 3


def test_the_test_on_the_page_passes(page: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "trio_mode=true",
            "--rootdir",
            page,
            "test_hold.py",
        ],
        cwd=page,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
