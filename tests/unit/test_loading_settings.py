"""``[devices.expect]`` and ``[devices.enforce]``: mistakes are named where they stand."""

from pathlib import Path

import pytest

from capa.config.load import inspect_profile
from capa.config.method_use import RAMP_TICK_HZ, uses_of
from capa.config.problems import Problem
from capa.devices.preflight import OutputUse
from capa.experiment.executor import DEFAULT_RAMP_TICK_HZ
from tests.support.engine import method

DEMO = (Path(__file__).parents[2] / "configs" / "hardware" / "demo.toml").read_text()
FURNACE, BALANCE = 'name = "furnace"\n', 'name = "balance"\n'


def problems(tmp_path: Path, tables: str, *, after: str = FURNACE) -> list[Problem]:
    """Load the demo rig with ``tables`` in the place of what it expects of a device itself."""
    head, rest = DEMO.split(after, 1)
    device, others = rest.split("\n[[", 1)
    kept = "\n".join(line for line in device.splitlines() if not line.startswith("[devices."))
    plain = "\n".join(line for line in kept.splitlines() if line.split(" ")[0] in KEYS)
    file = tmp_path / "rig.toml"
    file.write_text(f"{head}{after}{plain}\n{tables}\n\n[[{others}")
    return inspect_profile(file)[1]


KEYS = {"adapter", "link", "address", "poll_hz", "required"}


def test_settings_that_a_device_has_may_be_expected_and_enforced(tmp_path: Path) -> None:
    tables = """
[devices.expect]
thermocouple = "K"
alarm1_high = { value = 850.0, otherwise = "warn" }
[devices.enforce]
max_setpoint = 900
save_to_eeprom = false
"""
    assert problems(tmp_path, tables) == []


@pytest.mark.parametrize(
    ("tables", "code", "words"),
    [
        ("[devices.expect]\nmax_setpont = 1.0", "unknown_setting", "did you mean `max_setpoint`?"),
        ("[devices.enforce]\nsave = false", "unknown_setting", "did you mean `save_to_eeprom`?"),
        ('[devices.expect]\nthermocouple = "KK"', "bad_setting", "did you mean `K`?"),
        ("[devices.expect]\nmax_setpoint = true", "bad_setting", "must be a number, not true"),
        ('[devices.expect]\nsave_to_eeprom = "no"', "bad_setting", 'true or false, not "no"'),
        ("[devices.expect]\ncontrol_mode = 10", "bad_setting", "must be text in quotes, not 10"),
        ('[devices.enforce]\ncontrol_mode = "auto"', "not_enforceable", "[devices.expect]"),
        ('[devices.enforce]\nwire_units = "degC"', "not_enforceable", "only checked"),
        (
            "[devices.expect]\nmax_setpoint = 1.0\n[devices.enforce]\nmax_setpoint = 1.0",
            "setting_twice",
            "keep that one",
        ),
        ("[devices.expect]\nmax_setpoint = [1.0]", "incomplete", "a finite number, or text"),
        (
            '[devices.expect]\nthermocouple = { value = "K", otherwise = "wrn" }',
            "bad_value",
            "did you mean `warn`?",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_remedy(
    tmp_path: Path, tables: str, code: str, words: str
) -> None:
    found = problems(tmp_path, tables)
    assert [one.code for one in found] == [f"profile.{code}"], [str(one) for one in found]
    assert words in str(found[0])
    assert 'device "furnace"' in str(found[0])
    assert found[0].line


def test_a_balance_can_be_expected_to_be_set_and_not_be_told_to(tmp_path: Path) -> None:
    assert problems(tmp_path, "[devices.expect]\nauto_print = false", after=BALANCE) == []
    (one,) = problems(tmp_path, "[devices.enforce]\nauto_print = false", after=BALANCE)
    assert one.code == "profile.not_enforceable"


# --- what a method does with an output ----------------------------------------------------------

HEATER = {"name": "heater.setpoint"}


def test_a_ramp_is_counted_as_the_executor_walks_it() -> None:
    assert RAMP_TICK_HZ == DEFAULT_RAMP_TICK_HZ


def test_what_a_method_asks_of_an_output_is_counted() -> None:
    of = method(
        {"kind": "ramp", "target": HEATER, "end_value": 620.0, "rate_per_second": 1.0},
        {"kind": "hold", "target": HEATER, "value": 620.0, "duration_s": 60.0},
        {"kind": "setpoint", "target": HEATER, "value": 300.0},
        {"kind": "safe_shutdown", "cool_target": {"heater.setpoint": 20.0}},
    )
    use = uses_of(of, {"heater.setpoint": 20.0})["heater.setpoint"]
    assert use.asked() == (20.0, 620.0)
    output = OutputUse("heater.setpoint", "setpoint", "degC", sweeps=use.swept())
    assert output.changes() == 6000 + 2  # the hold changes nothing
    assert output.changes(every_s=5.0) == 121 + 2
    assert output.changes(step=10.0) == 61 + 2
    assert output.busiest_per_min(step=10.0) == pytest.approx(6.1)
