"""The ``[safety]`` tables of a profile: defaults, and mistakes named where they stand."""

from pathlib import Path

import pytest

from tests.support.files import PROFILE, problems_of_profile, profile_of

GOOD = """
[safety.sensor]
channels = { "heater.pv" = "safe_shutdown" }

[[safety.thermal]]
setpoint = "heater.setpoint"
pv = "heater.pv"

[[safety.rate]]
channel = "heater.pv"
max_per_s = 5.0
"""


def said(tmp_path: Path, text: str) -> list[str]:
    return [str(problem) for problem in problems_of_profile(tmp_path, PROFILE + text)]


def test_a_profile_without_safety_tables_has_the_defaults(tmp_path: Path) -> None:
    safety = profile_of(tmp_path).safety
    assert (safety.stale.action, safety.sensor.action) == ("abort", "abort")
    assert (safety.thermal, safety.rate, safety.output) == ((), (), ())
    assert safety.disk.act_below_mb == 100.0


def test_safety_tables_that_fit_are_taken(tmp_path: Path) -> None:
    safety = profile_of(tmp_path, PROFILE + GOOD).safety
    assert safety.thermal[0].unasked_heat == "safe_shutdown"
    assert safety.sensor.channels == {"heater.pv": "safe_shutdown"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[safety.sensor]\nchannels = { "heater.pw" = "warn" }', "heater.pw"),
        ('[safety.stale]\nchannels = { "nobody" = "warn" }', "nobody"),
        ('[[safety.rate]]\nchannel = "heater.pw"\nmax_per_s = 1', "did you mean"),
        ('[[safety.rate]]\nchannel = "heater.pv"\nmax_per_s = 0', "greater than 0"),
        ('[[safety.output]]\nchannel = "heater.pv"', "can't be commanded"),
        ('[[safety.thermal]]\nsetpoint = "heater.pv"\npv = "heater.pv"', "can't be commanded"),
        ('[[safety.thermal]]\nsetpoint = "heater.setpoint"\npv = "none"', 'called "none"'),
        (
            '[[safety.thermal]]\nsetpoint = "heater.setpoint"\npv = "heater.pv"\n'
            'power = "heater.pv"',
            "of kind temperature, not power",
        ),
        ("[safety.disk]\nwarn_below_mb = 1\nact_below_mb = 2", "must not be less"),
        ('[safety.recorder]\naction = "panic"', "panic"),
        ("[safety]\nstall = 1", "stall"),
        ("[safety]\nthermal = 1", "thermal"),
    ],
)
def test_a_mistake_in_a_safety_table_is_named(tmp_path: Path, table: str, words: str) -> None:
    found = said(tmp_path, f"\n{table}\n")
    assert found
    assert any(words in problem for problem in found), found
