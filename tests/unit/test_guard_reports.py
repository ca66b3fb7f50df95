"""What the guardian left is taken up if it can be read, and ends nothing if it can't."""

import json
from pathlib import Path
from typing import Any

import pytest

from capad.aftermath import rungs_after
from capad.guarding import guard_report

GOOD: dict[str, Any] = {
    "started_utc": "2026-11-21T11:00:00Z",
    "exit_code": 4,
    "error": "no plan",
    "verdicts": {},
}


def test_what_the_guardian_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "guard_verdicts.json").write_text(json.dumps(GOOD))
    report, unread = guard_report(tmp_path)
    assert unread == ""
    assert report is not None
    assert "no plan" in rungs_after(tmp_path, report)[-1].words


@pytest.mark.parametrize(
    "change",
    [
        {"started_utc": "2026-11-21T11:00:00"},
        {"started_utc": "0001-01-01T00:00:00+14:00"},
        {"exit_code": float("inf")},
        {"verdicts": None},
        {"verdicts": ["heater.setpoint"]},
        {"verdicts": {"heater.setpoint": {"value": "20", "verdict": "proven"}}},
        {"service": "watchdog"},
    ],
    ids=str,
)
def test_a_damaged_record_is_none_and_raises_nothing(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "guard_verdicts.json").write_text(json.dumps({**GOOD, **change}))
    report, unread = guard_report(tmp_path)
    assert report is None
    assert unread.startswith("damaged: ")


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[1]", "{}"], ids=["empty", "deep", "list", "bare"]
)
def test_what_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "guard_verdicts.json").write_text(text)
    report, unread = guard_report(tmp_path)
    assert report is None
    assert unread.startswith("damaged: ")


def test_a_guardian_that_left_nothing_has_left_nothing_unread(tmp_path: Path) -> None:
    assert guard_report(tmp_path) == (None, "")
