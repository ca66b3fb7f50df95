"""What the pages and plots of a run say of what is not known: nothing that nobody measured."""

import json
import math
from pathlib import Path

from capa.cli.bundle_pages import show_lines
from capa.storage import open_bundle
from capa.storage.plots import _with_breaks
from capa.storage.report_page import report_html
from tests.support.bundles import unsealed_bundle


def test_of_a_killed_run_the_page_says_what_is_not_known_and_what_the_guardian_did(
    tmp_path: Path,
) -> None:
    path = unsealed_bundle(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    step = {"index": 0, "kind": "hold", "entered_ns": 0, "outcome": "running"}
    manifest |= {"run_status": "crashed", "steps": [step]}
    (path / "manifest.json").write_text(json.dumps(manifest))
    page = "\n".join(show_lines(open_bundle(path)))
    assert "interrupted" in page
    assert "not recorded: how the rig was left" in page
    verdict = {"value": 20.0, "verdict": "proven", "readback": 20.0, "detail": "read back 20"}
    manifest["guard"] = {"verdicts": {"heater.setpoint": verdict}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    page = "\n".join(show_lines(open_bundle(path)))
    assert "heater.setpoint  20          proven   capad-guard  read back 20" in page
    assert "not recorded" not in page
    assert "capad-guard" in report_html(open_bundle(path))


def test_a_channel_that_fell_silent_is_not_drawn_on() -> None:
    at, seen = _with_breaks([0, 1, 2, 3, 60, 61], [5, 5, 5, 5, 9, 9])
    assert at == [0, 1, 2, 3, 60, 60, 61]
    assert [math.isnan(value) for value in seen].index(True) == 4
    assert _with_breaks([], []) == ([], [])
