"""The wall clock of the box jumps by a year in the middle of a run, forward or back."""

import json
import sys
import sysconfig
from datetime import datetime
from pathlib import Path

import pytest

from capa.storage import open_bundle
from capa.storage.verify import verify_bundle
from tests.support.daemon_process import REPOSITORY, Twin, method_toml, running_daemon

CLOCK = """
import capa.clock
from datetime import timedelta
from pathlib import Path

tell = capa.clock.utc_now


def utc_now():
    jump = Path({file!r})
    return tell() + timedelta(days=float(jump.read_text()) if jump.exists() else 0.0)


capa.clock.utc_now = utc_now
"""


@pytest.fixture
def jump(tmp_path: Path) -> Path:
    """The file that makes the wall clock of the daemon jump, by the days that are in it."""
    file = tmp_path / "jump"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CLOCK.format(file=str(file)))
    script = tmp_path / "python"
    paths = f"{site}:{REPOSITORY}:{sysconfig.get_path('purelib')}"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return file


@pytest.mark.parametrize("days", [365.0, -365.0])
def test_a_run_keeps_its_times_and_the_next_one_runs(
    twin: Twin, tmp_path: Path, jump: Path, days: float
) -> None:
    with running_daemon(tmp_path, twin.profile, python=tmp_path / "python") as daemon:
        daemon.drop("first.method.toml", method_toml(hold_s=2.0))
        daemon.wait_setpoint(twin, above=50)
        new = jump.with_name("new")
        new.write_text(str(days))
        new.replace(jump)
        job = daemon.wait_job("done")
        daemon.drop("second.method.toml", method_toml(hold_s=0.1))
        later = daemon.wait_job("done", 2)
    first, second = (report(one)["run"] for one in (job, later))
    bundle = open_bundle(first["bundle"])
    assert not [one for one in verify_bundle(Path(first["bundle"])) if one.blocking]
    times = bundle.scalars().column("t_utc").to_pylist()
    assert times
    took_s = (max(times) - min(times)).total_seconds()
    assert 1.0 < took_s < 60.0
    manifest = json.loads((Path(first["bundle"]) / "manifest.json").read_text())
    began, ended = (datetime.fromisoformat(manifest[key]) for key in ("started_utc", "ended_utc"))
    assert 1.0 < (ended - began).total_seconds() < 60.0
    (told,) = [line for line in (job / "report.txt").read_text().splitlines() if "Run 2" in line]
    assert 1.0 < float(told.split()[-2]) < 60.0  # Run ID: completed, 2.5 s
    apart = datetime.fromisoformat(second["started_utc"]) - max(times)
    assert abs(apart.days - days) <= 1


def report(job: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((job / "report.json").read_text())
    return found
