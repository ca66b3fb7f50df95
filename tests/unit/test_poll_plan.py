"""Polls that a line can't carry are found when the profile is loaded, with the sum."""

from pathlib import Path

import pytest

from capa.config.load import inspect_profile
from capa.config.problems import Problem

PROFILE = """
name = "busy"
[[links]]
name = "bus"
port = "{port}"
transport = "{transport}"
baud = {baud}
[[devices]]
name = "inlet"
adapter = "alicat"
link = "bus"
address = "A"
poll_hz = {poll_hz}
[[devices]]
name = "outlet"
adapter = "alicat"
link = "bus"
address = "B"
poll_hz = 5
[[channels]]
name = "inlet.flow"
kind = "flow"
unit = "sccm"
device = "inlet"
field = "flow"
"""


def problems(
    tmp_path: Path,
    *,
    baud: int,
    poll_hz: float,
    port: str = "/dev/ttyS0",
    transport: str = "serial",
) -> list[Problem]:
    file = tmp_path / "busy.toml"
    text = PROFILE.format(baud=baud, poll_hz=poll_hz, port=port, transport=transport)
    file.write_text(text)
    found = inspect_profile(file)[1]
    return [each for each in found if each.code.startswith("profile.line_")]


def test_a_line_that_cannot_carry_its_polls_is_refused_with_the_sum_and_each_share(
    tmp_path: Path,
) -> None:
    (found,) = problems(tmp_path, baud=9600, poll_hz=20)
    assert found.blocking
    assert found.line == 3
    text = str(found)
    assert "ms of every 50 ms: inlet" in text
    assert "ms a poll at 20 Hz), outlet" in text
    assert "multiply every poll_hz on it by" in text


def test_the_sum_is_that_of_the_characters_at_the_lines_speed(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, baud=9600, poll_hz=20)
    per_poll_ms = float(str(found).partition("(")[2].partition(" ms a poll")[0])
    # Two characters ask; a 10v20's frame has 46 and a CR; 10 bits each.
    assert per_poll_ms == pytest.approx(49 * 10 / 9600 * 1000, rel=0.1)


def test_a_line_that_is_nearly_full_is_a_warning(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, baud=9600, poll_hz=13.5)
    assert not found.blocking


@pytest.mark.parametrize(
    ("port", "transport"), [("10.0.0.5:4001", "tcp"), ("socket://10.0.0.5:4001", "serial")]
)
def test_a_line_without_a_speed_of_its_own_is_not_judged(
    tmp_path: Path, port: str, transport: str
) -> None:
    assert problems(tmp_path, baud=9600, poll_hz=50, port=port, transport=transport) == []


def test_the_same_polls_on_a_faster_line_are_fine(tmp_path: Path) -> None:
    assert problems(tmp_path, baud=115200, poll_hz=20) == []
