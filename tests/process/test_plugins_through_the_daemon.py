"""The example plug-ins on a box in production: refused, trusted, run, edited, refused."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_process import Daemon, Twin, running_daemon
from tests.support.plugin_box import EXAMPLES, PluginBox

HELLO = """
[operator]
id = "maria"

[procedure]
id = "hello.procedure.hold_setpoint"

[procedure.config]
target_channel = "heater.setpoint"
value = 90.0
duration_s = 0.5
"""
PURGE = """
[operator]
id = "maria"

[procedure]
id = "purge_check.recipe_runner"

[method]
name = "purged"

[[method.steps]]
kind = "custom"
handler_id = "purge_check.purge"

[method.steps.params]
channel = "purge.flow"
flow = 100.0
steady_s = 0.5
timeout_s = 20.0

[[method.steps]]
kind = "setpoint"
value = 90.0
target = { name = "heater.setpoint" }
"""
CASES = [
    pytest.param("hello_procedure", "hello.procedure.hold_setpoint", HELLO, id="hello_procedure"),
    pytest.param("purge_check", "purge_check.recipe_runner", PURGE, id="purge_check"),
]


@pytest.fixture
def box(tmp_path: Path) -> PluginBox:
    pytest.importorskip("hatchling", reason="the examples are built by hatchling: pip install it")
    found = PluginBox(tmp_path)
    found.make()
    return found


def report(job: Path) -> str:
    return (job / "report.txt").read_text()


def events(bundle: Path) -> list[str]:
    with closing(sqlite3.connect(bundle / "events.sqlite")) as connection:
        return [kind for (kind,) in connection.execute("SELECT kind FROM events ORDER BY id")]


def manifests(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(runs.glob("*/manifest.json"))]


def capa_run(box: PluginBox, twin: Twin, file: Path) -> tuple[int, str]:
    arguments = ["--hardware", str(twin.profile), "--runs", str(box.folder / "desk-runs")]
    done = subprocess.run(
        [str(box.python), "-m", "capa.cli.main", "run", str(file), *arguments],
        env={**os.environ, "CAPA_PLUGIN_MODE": "production", "CAPA_PLUGINS_LOCK": str(box.lock)},
        cwd=box.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def capa_validate(box: PluginBox, twin: Twin, file: Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(box.python), "-m", "capa.cli.main", "validate", str(file), str(twin.profile)],
        env={**os.environ, "CAPA_PLUGIN_MODE": "production", "CAPA_PLUGINS_LOCK": str(box.lock)},
        cwd=box.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def on_the_box(box: PluginBox, twin: Twin) -> Any:  # noqa: ANN401 - a context manager
    settings = f'[plugins]\nmode = "production"\nlock = "{box.lock}"'
    return running_daemon(box.folder, twin.profile, settings=settings, python=box.python)


def edit_one_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(b'"""') + 3] ^= 0x20
    file.write_bytes(data)


@pytest.mark.parametrize(("package", "plugin_id", "experiment"), CASES)
def test_a_plug_in_runs_through_the_daemon_once_it_is_trusted_and_no_more_once_it_is_edited(
    box: PluginBox, twin: Twin, package: str, plugin_id: str, experiment: str
) -> None:
    box.install(str(EXAMPLES / package))
    desk = box.folder / "desk.experiment.toml"
    desk.write_text(experiment)

    daemon: Daemon
    with on_the_box(box, twin) as daemon:
        daemon.drop("early.experiment.toml", experiment)
        job = daemon.wait_job("rejected")
        assert plugin_id in report(job)
        assert f"capa plugins trust {plugin_id}" in report(job)
    code, said = capa_run(box, twin, desk)
    assert code == 2, said
    assert f"capa plugins trust {plugin_id}" in said
    code, said = capa_validate(box, twin, desk)
    assert code == 2, said
    assert f"capa plugins trust {plugin_id}" in said
    assert not manifests(daemon.runs)
    assert not (box.folder / "desk-runs").exists()

    box.capa("trust", plugin_id, "--reason", "read it")
    code, said = capa_validate(box, twin, desk)
    assert code == 0, said
    with on_the_box(box, twin) as daemon:
        daemon.drop("trusted.experiment.toml", experiment)
        daemon.wait_job("done")
    (manifest,) = manifests(daemon.runs)
    assert (manifest["run_status"], manifest["bundle_status"]) == ("completed", "sealed")
    assert manifest["procedure"]["id"] == plugin_id
    assert max(o["value"] for o in twin.outputs() if o["device"] == "furnace") == 90.0
    (bundle,) = daemon.runs.glob("*/events.sqlite")
    mark = "hello.ended" if package == "hello_procedure" else "purge_check.purged"
    assert mark in events(bundle.parent)
    code, said = capa_run(box, twin, desk)
    assert code == 0, said

    edit_one_byte(box.site / package / "procedure.py")
    shutil.rmtree(box.folder / "spool" / "rejected")
    with on_the_box(box, twin) as daemon:
        daemon.drop("edited.experiment.toml", experiment)
        job = daemon.wait_job("rejected")
        assert "hash" in report(job)
        assert plugin_id in report(job)
    code, said = capa_run(box, twin, desk)
    assert code == 2, said
    assert "hash" in said
    assert len(manifests(daemon.runs)) == 1
