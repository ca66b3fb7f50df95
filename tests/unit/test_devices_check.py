"""How ``capa devices check`` tells what it found."""

import json

import pytest

from capa.cli.devices_check import FAIL, WARN, CheckedDevice, tell_checked


def found() -> CheckedDevice:
    checked = CheckedDevice("furnace", "bus", "watlow")
    checked.note(WARN, "slow")
    checked.note(FAIL, "in manual mode")
    checked.note(WARN, "its alarm is in the way")
    return checked


def test_a_warning_beside_a_failure_is_marked_as_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not tell_checked([found()], as_json=False)
    *_, first, second, third, summary = capsys.readouterr().out.splitlines()
    assert [first[0], second[0], third[0]] == ["!", "✗", "!"]
    assert summary.startswith("0 of 1")


def test_programs_read_the_devices_worst_mark_and_the_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not tell_checked([found()], as_json=True)
    (device,) = json.loads(capsys.readouterr().out)["devices"]
    assert device["mark"] == "failed"
    assert device["notes"] == ["slow", "in manual mode", "its alarm is in the way"]
