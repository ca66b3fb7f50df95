"""A plug-in whose import never ends: the daemon, the list and the desk go on without it."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.support.daemon_process import REPOSITORY, Twin, method_toml, running_daemon
from tests.support.plugin_tree import good, install
from tests.support.polling import eventually

HANGS = "import threading\n\nthreading.Event().wait()\n" + good("hangs.one")
DEADLINE_S = 5
WATCHDOG_S = 2
PLUGINS = f'[plugins]\nmode = "dev"\nimport_deadline_s = {DEADLINE_S}'
LONG = method_toml(hold_s=600)
ASKS_FOR_IT = """
[procedure]
id = "hangs.one"
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that has the project and one more plug-in, which hangs."""
    site = tmp_path / "site"
    files = {"hangs/__init__.py": "", "hangs/one.py": HANGS}
    install(site, "hangs", files, {"hangs.one": "hangs.one:Idle"})
    script = tmp_path / "python"
    here = sysconfig.get_path("purelib")
    script.write_text(
        f'#!/bin/sh\nPYTHONPATH="{site}:{REPOSITORY}:{here}" exec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    return script


def says(deadline_s: float) -> str:
    return f"its import did not return within {deadline_s:g} s (hangs.one:Idle of the package hangs"


def test_a_plug_in_that_hangs_at_import_keeps_the_daemon_from_nothing(
    twin: Twin, tmp_path: Path, python: Path
) -> None:
    with running_daemon(
        tmp_path,
        twin.profile,
        settings=PLUGINS,
        python=python,
        prefix=["env", f"WATCHDOG_USEC={WATCHDOG_S * 1_000_000}"],
    ) as daemon:
        began_s = time.monotonic()
        daemon.drop("runs.method.toml", LONG)
        daemon.wait_setpoint(twin, above=90)  # a built-in waits for nobody
        daemon.drop("asks.experiment.toml", ASKS_FOR_IT)
        daemon.send(signal.SIGINT)
        daemon.wait_job("failed", within_s=DEADLINE_S)
        assert time.monotonic() - began_s < DEADLINE_S, "this shows nothing: it no longer hung"
        eventually(lambda: twin.setpoint() < 30, "the heater is safe", say=daemon.log)

        job = daemon.wait_job("rejected", within_s=DEADLINE_S + 5)
        beats = daemon.listen().count("WATCHDOG=1")
        lasted_s = time.monotonic() - began_s
        report = (job / "report.txt").read_text()
        daemon.release()
        daemon.drop("next.method.toml", method_toml(hold_s=0.1))
        daemon.wait_job("done")
        log = daemon.log()
    assert "procedure 'hangs.one' is installed, but " + says(DEADLINE_S) in report
    assert "hangs/one.py, line 3)" in report
    assert "procedure 'hangs.one' of hangs is left out: " + says(DEADLINE_S) in log
    assert beats >= lasted_s / WATCHDOG_S


def capa(python: Path, *argv: str | Path, deadline_s: float) -> "subprocess.CompletedProcess[str]":
    told = {"CAPA_PLUGIN_MODE": "dev", "CAPA_PLUGIN_IMPORT_DEADLINE_S": f"{deadline_s:g}"}
    return subprocess.run(
        [str(python), "-m", "capa.cli.main", *map(str, argv)],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_list_of_plug_ins_tells_which_one_hangs_and_shows_the_others(python: Path) -> None:
    done = capa(python, "plugins", "list", deadline_s=1)
    assert "hangs.one (hangs): " + says(1) in done.stdout, done.stdout + done.stderr
    assert "capa.builtin.recipe_runner" in done.stdout


def test_at_the_desk_a_built_in_waits_for_nobody_and_the_one_that_hangs_is_named(
    python: Path, tmp_path: Path
) -> None:
    file = tmp_path / "free.experiment.toml"
    file.write_text('[procedure]\nid = "capa.builtin.free_run"\n[procedure.config]\nduration_s=1\n')
    done = capa(python, "validate", file, deadline_s=50)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(ASKS_FOR_IT)
    done = capa(python, "validate", file, deadline_s=1)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says(1) in done.stdout
