"""The short form of ``make drill-data``, and that its judge sees what it is there to see."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.check_data import check
from tests.drill_data.campaign import run_campaign


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drill") / "data"
    campaign = run_campaign(folder, n=6, seed=20261121)
    assert campaign.kills.total() >= 6
    return folder


def test_whenever_the_daemon_is_killed_nothing_is_lost_doubled_or_embellished(left: Path) -> None:
    findings = check(left)
    assert findings.wrong == []
    assert findings.counts["drops"] == sum(findings.counts[f"jobs {s}"] for s in ("done", "failed"))
    assert findings.counts["replies"] > 0
    assert findings.counts["outputs"] > 0


def first(folder: Path, state: str) -> Path:
    return min((folder / "spool" / state).iterdir())


def completed(folder: Path) -> Path:
    for manifest in sorted((folder / "runs").glob("*/manifest.json")):
        if json.loads(manifest.read_text())["run_status"] == "completed":
            return manifest.parent
    raise AssertionError("no run was completed")


def lose_a_job(folder: Path) -> None:
    shutil.rmtree(first(folder, "done"))


def double_a_job(folder: Path) -> None:
    job = first(folder, "done")
    shutil.copytree(job, folder / "spool" / "failed" / job.name)


def call_it_failed(folder: Path) -> None:
    job = first(folder, "done")
    job.rename(folder / "spool" / "failed" / job.name)


def leave_a_job_active(folder: Path) -> None:
    job = first(folder, "done")
    job.rename(folder / "spool" / "active" / job.name)


def alter_a_byte(folder: Path) -> None:
    with (completed(folder) / "run.log").open("ab") as file:
        file.write(b" ")


def forget_a_sample(folder: Path) -> None:
    path = completed(folder) / "scalars.parquet"
    table = pq.read_table(path)
    names, times = table["channel"].to_pylist(), table["t_mono_s"].to_pylist()
    flows = [i for i, (n, t) in enumerate(zip(names, times, strict=True)) if n == "purge.flow"]
    middle = flows[len(flows) // 2]
    kept = [i for i in range(table.num_rows) if not middle - 4 <= i <= middle + 4]
    pq.write_table(table.take(kept), path)


def forget_the_intents(folder: Path) -> None:
    for path in (folder / "runs").glob("*/events.sqlite"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM events WHERE kind = 'command.intent'")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lose_a_job, "is in 0 places"),
        (double_a_job, "is in 2 places"),
        (call_it_failed, "is in failed/, but"),
        (leave_a_job_active, "is active, though nothing runs"),
        (alter_a_byte, "differs from its sum"),
        (forget_a_sample, "have no sample of purge.flow"),
        (forget_the_intents, "and no event says so"),
    ],
)
def test_the_judge_sees_what_is_wrong(
    left: Path, tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    harmed = tmp_path / "data"
    shutil.copytree(left, harmed, ignore=shutil.ignore_patterns("notify", "*.sock", "pts*"))
    harm(harmed)
    assert any(told in line for line in check(harmed).wrong)
