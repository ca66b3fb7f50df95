"""The examples of docs/bundles.md run as they stand."""

import re
from pathlib import Path

import pytest
import trio
import trio.testing

from capa.channels.sample import Sample
from capa.storage.seal import finalize_bundle
from capa.storage.views import ask
from tests.support.bundles import new_writer, say

PAGE = (Path(__file__).parents[2] / "docs" / "bundles.md").read_text()
RUN_ID = "20261120-131500-0001"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    async def run() -> Path:
        writer = new_writer(tmp_path, RUN_ID)
        writer.write_samples([Sample("a", 20.0 + s, at_s=float(s)) for s in range(10)])
        say(writer, "too hot", at_s=9.0, severity="warning")
        writer.flush()
        await writer.close(run_status="completed", exit_reason="done", extra={})
        return writer.path

    path = trio.run(run, clock=trio.testing.MockClock())
    assert finalize_bundle(path).sealed
    return path


def test_the_python_of_the_page_runs_on_a_bundle(
    sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    exec(compile("\n".join(blocks("python")), "docs/bundles.md", "exec"), {"path": sealed})  # noqa: S102 - our own page
    said = capsys.readouterr().out
    assert "completed done" in said
    assert "[2.0, 3.0, 4.0] [22.0, 23.0, 24.0]" in said
    assert "too hot" in said


def test_the_sql_of_the_page_is_answered(sealed: Path) -> None:
    pytest.importorskip("duckdb")
    (sql,) = blocks("sql")
    columns, rows = ask(sealed.parent, sql)
    assert columns == ["run_id", "sample", "hottest"]
    assert rows == []
    _, rows = ask(sealed.parent, sql.replace("heater.pv", "a"))
    assert rows == [(RUN_ID, None, 29.0)]
