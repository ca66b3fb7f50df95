"""Method against rig, before anything heats."""

from pathlib import Path

import pytest

from capa.config.check import check_method
from capa.config.hardware import HardwareProfile
from capa.config.load import parse_method
from capa.config.problems import Problem
from tests.support.files import PROFILE, profile_of


@pytest.fixture
def rig(tmp_path: Path) -> HardwareProfile:
    return profile_of(tmp_path)


@pytest.fixture
def unhurried_rig(tmp_path: Path) -> HardwareProfile:
    return profile_of(tmp_path, PROFILE.replace(", max_rate_per_s = 5.0", ""))


def hold(value: float, channel: str = "heater.setpoint", more: str = "") -> str:
    return (
        f'[[steps]]\nkind = "hold"\nvalue = {value}\nduration_s = 60.0\n{more}'
        f'[steps.target]\nname = "{channel}"\n'
    )


def ramp(*fields: str, channel: str = "heater.setpoint") -> str:
    return (
        '[[steps]]\nkind = "ramp"\n' + "\n".join(fields) + f'\n[steps.target]\nname = "{channel}"\n'
    )


def checked(
    rig: HardwareProfile, *steps: str, handlers: frozenset[str] | None = None
) -> list[Problem]:
    text = 'name = "m"\n' + "".join(steps)
    method = parse_method(text, file="m.method.toml")
    return check_method(method, rig, handlers=handlers, file="m.method.toml", text=text)


def only(rig: HardwareProfile, *steps: str) -> Problem:
    problems = checked(rig, *steps)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_method_that_fits_has_no_problems(unhurried_rig: HardwareProfile) -> None:
    assert checked(unhurried_rig, hold(600.0), ramp("end_value = 20.0", "duration_s = 9.0")) == []


def test_a_target_that_does_not_exist_is_named_with_its_line(rig: HardwareProfile) -> None:
    problem = only(rig, hold(20.0), hold(20.0, channel="heater_setpt"))
    assert str(problem) == (
        "m.method.toml:13: step 2 (hold), field target.name: no channel is called "
        '"heater_setpt"; did you mean `heater.setpoint`?'
    )
    assert problem.blocking


def test_a_target_that_can_t_be_commanded_is_refused(rig: HardwareProfile) -> None:
    problem = only(rig, hold(20.0, channel="heater.pv"))
    assert (problem.code, problem.blocking) == ("method.not_commandable", True)


@pytest.mark.parametrize("value", [-0.1, 500.1])
def test_a_value_outside_the_limits_is_refused(rig: HardwareProfile, value: float) -> None:
    problem = only(rig, hold(value, channel="purge.flow"))
    assert (problem.code, problem.where) == ("method.limit", "step 1 (hold), field value")
    assert "purge.flow" in problem.message


@pytest.mark.parametrize("value", [0.0, 500.0])
def test_the_limits_themselves_are_allowed(rig: HardwareProfile, value: float) -> None:
    assert checked(rig, hold(value, channel="purge.flow")) == []


def test_both_ends_of_a_ramp_lie_within_the_limits(unhurried_rig: HardwareProfile) -> None:
    step = ramp("start_value = -5.0", "end_value = 901.0", "duration_s = 60.0")
    wheres = [problem.where for problem in checked(unhurried_rig, step)]
    assert wheres == [f"step 1 (ramp), field {name}" for name in ("start_value", "end_value")]


def test_a_ramp_steeper_than_the_limit_is_refused(rig: HardwareProfile) -> None:
    by_rate = only(rig, ramp("end_value = 600.0", "rate_per_second = 5.1"))
    assert (by_rate.code, by_rate.where) == ("method.rate", "step 1 (ramp), field rate_per_second")
    by_time = only(rig, ramp("end_value = 600.0", "duration_s = 100.0"))
    assert by_time.where == "step 1 (ramp), field duration_s"


def test_a_ramp_as_steep_as_the_limit_is_allowed(rig: HardwareProfile) -> None:
    assert checked(rig, ramp("end_value = 620.0", "rate_per_second = 5.0")) == []
    assert checked(rig, ramp("end_value = 620.0", "duration_s = 120.0")) == []


def test_a_jump_counts_as_a_ramp_of_ten_seconds_from_the_safe_value(rig: HardwareProfile) -> None:
    assert only(rig, hold(70.1)).code == "method.rate"
    assert checked(rig, hold(70.0)) == []


def test_a_jump_back_to_the_safe_value_is_always_allowed(rig: HardwareProfile) -> None:
    up = ramp("end_value = 620.0", "duration_s = 200.0")
    down = '[[steps]]\nkind = "safe_shutdown"\ncool_target = { "heater.setpoint" = 20.0 }\n'
    assert checked(rig, up, down) == []
    assert only(rig, up, down.replace("20.0", "25.0")).code == "method.rate"


def test_a_ramp_with_a_rate_of_zero_is_named_before_it_runs(rig: HardwareProfile) -> None:
    assert only(rig, ramp("end_value = 30.0", "rate_per_second = 0.0")).code == "method.zero_rate"


def test_a_duration_makes_the_rate_of_a_ramp_irrelevant(rig: HardwareProfile) -> None:
    step = ramp("end_value = 30.0", "rate_per_second = 99.0", "duration_s = 60.0")
    assert checked(rig, step) == []


WHEN = 'end_condition = {{ channel = "{}", op = "{}", value = 1.0 }}\n'


def test_the_channel_of_an_end_condition_exists(rig: HardwareProfile) -> None:
    wait = '[[steps]]\nkind = "wait"\n' + WHEN.format("mass_loss", ">")
    problem = only(rig, wait)
    assert problem.hint == "did you mean `mass_loss_fraction`?"
    assert only(rig, hold(20.0, more=WHEN.format("x", ">"))).code == "method.unknown_channel"
    assert checked(rig, hold(20.0, more=WHEN.format("mass_loss_fraction", ">="))) == []


def test_asking_a_measured_value_to_be_equal_gives_a_warning(rig: HardwareProfile) -> None:
    problem = only(rig, hold(20.0, more=WHEN.format("heater.pv", "==")))
    assert (problem.code, problem.blocking) == ("method.equality", False)


def cool(channel: str, value: float) -> str:
    return f'[[steps]]\nkind = "safe_shutdown"\ncool_target = {{ "{channel}" = {value} }}\n'


def test_a_missing_cool_target_is_only_a_warning(rig: HardwareProfile) -> None:
    problem = only(rig, cool("purge.flwo", 0.0))
    assert (problem.blocking, problem.hint) == (False, "did you mean `purge.flow`?")
    assert problem.where == 'step 1 (safe_shutdown), field cool_target."purge.flwo"'


def test_a_cool_target_outside_the_limits_is_refused(rig: HardwareProfile) -> None:
    assert only(rig, cool("purge.flow", 501.0)).blocking


def test_a_cool_target_that_can_t_be_commanded_is_refused(rig: HardwareProfile) -> None:
    assert only(rig, cool("heater.pv", 20.0)).code == "method.not_commandable"


CUSTOM = '[[steps]]\nkind = "custom"\nhandler_id = "lab.purge"\n'


def test_a_custom_step_without_a_handler_is_refused_if_the_handlers_are_known(
    rig: HardwareProfile,
) -> None:
    (problem,) = checked(rig, CUSTOM, handlers=frozenset({"lab.purge_check"}))
    assert (problem.code, problem.blocking) == ("method.unknown_handler", True)
    assert checked(rig, CUSTOM, handlers=frozenset({"lab.purge"})) == []


def test_a_custom_step_gives_a_note_if_the_handlers_are_not_known(rig: HardwareProfile) -> None:
    assert not only(rig, CUSTOM).blocking


def test_after_a_custom_step_no_jump_is_guessed(rig: HardwareProfile) -> None:
    assert checked(rig, CUSTOM, hold(600.0), handlers=frozenset({"lab.purge"})) == []


def test_safety_overrides_name_alarms_that_exist(rig: HardwareProfile) -> None:
    more = 'safety_overrides = [{ alarm_id = "overtmp", threshold = 850.0 }]\n'
    problem = only(rig, hold(20.0, more=more))
    assert problem.hint == "did you mean `overtemp`?"
    assert checked(rig, hold(20.0, more=more.replace("overtmp", "overtemp"))) == []


def test_an_override_that_changes_nothing_gives_a_warning(rig: HardwareProfile) -> None:
    assert not only(
        rig, hold(20.0, more='safety_overrides = [{ alarm_id = "overtemp" }]\n')
    ).blocking
