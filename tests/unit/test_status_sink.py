"""What a procedure publishes is in the run's status line, and nowhere else."""

import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from capa.config.problems import Problem
from capa.experiment.executor import MethodExecutorError
from capa.experiment.procedures.base import ProcedureContext
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.experiment.procedures.live import ProcedureTick
from capa.runtime.status_sink import StatusSink
from tests.support.engine import bench_rig, conductor, method, request

TICK = ProcedureTick(
    kind="lab.tune", state="settling", elapsed_s=3.0, target=25.0, iteration=2, mean=24.831
)
SHOWN = "lab.tune settling: target 25, iteration 2, mean 24.83"


class Publisher(RecipeRunner):
    id: ClassVar[str] = "test.publisher"

    async def preflight(self, ctx: ProcedureContext) -> list[Problem]:
        return []

    async def run(self, ctx: ProcedureContext) -> None:
        ctx.ui_sink.publish(TICK)
        await trio.sleep(5)


async def test_a_tick_is_shown_in_the_status_line_and_is_not_in_the_bundle(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with bench_rig() as (rig, _), trio.open_nursery() as nursery:
        one = conductor(rig, tmp_path, procedures={Publisher.id: Publisher})
        nursery.start_soon(one.run, request(None, procedure=Publisher.id))
        await trio.sleep(4)
        assert one.progress is not None
        assert one.progress.describe() == SHOWN
    assert one.last_report is not None
    assert one.last_report.run_status == "completed"
    assert one.last_report.bundle is not None
    db = sqlite3.connect(one.last_report.bundle / "events.sqlite")
    kinds = {kind for (kind,) in db.execute("select kind from events")}
    db.close()
    assert not [kind for kind in kinds if "tick" in kind]


@pytest.mark.parametrize(
    ("tick", "shown"),
    [
        (TICK, SHOWN),
        (ProcedureTick(kind="lab.tune", state="done", elapsed_s=0), "lab.tune done"),
        ("half\nway", "half way"),
        ("x" * 1000, "x" * 160),
    ],
)
def test_whatever_is_published_fits_a_line(tick: object, shown: str) -> None:
    metadata: dict[str, Any] = {}
    sink = StatusSink(metadata)
    sink.publish("before")
    sink.publish(tick)
    assert metadata["status"] == shown


def test_a_procedures_own_words_stay() -> None:
    metadata: dict[str, Any] = {"status": "target 1/3"}
    StatusSink(metadata).publish(TICK)
    assert metadata["status"] == "target 1/3"


async def test_a_screen_without_an_operator_answers_no_prompt(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    ask = method({"kind": "prompt", "message": "Is it in?"})
    async with bench_rig() as (rig, _):
        report = await conductor(rig, tmp_path).run(request(ask))
    assert report.run_status == "crashed"
    assert report.exit_reason.startswith(MethodExecutorError.__name__)
