"""A hardware profile that does not hang together does not load, and says why in every place."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from capa.config.load import load_profile
from capa.config.problems import Problem, ProblemsError
from tests.support.files import FAMILIES, PROFILE, bent, problems_of_profile, profile_of


def coded(problems: Sequence[Problem]) -> list[str]:
    return [problem.code.removeprefix("profile.") for problem in problems]


def only(tmp_path: Path, old: str, new: str) -> Problem:
    problems = problems_of_profile(tmp_path, bent(old, new))
    assert len(problems) == 1, problems
    return problems[0]


def test_a_profile_that_hangs_together_loads(tmp_path: Path) -> None:
    assert profile_of(tmp_path).name == "bench"


MISTAKES = {
    "unknown_link": ('link = "bus"', 'link = "buss"', 'device "oven", field link', "`bus`"),
    "unknown_device": (
        'device = "oven"\nfield = "pv"',
        'device = "ovn"\nfield = "pv"',
        'channel "heater.pv", field device',
        "`oven`",
    ),
    "unknown_field": (
        'field = "pv"',
        'field = "pvv"',
        'channel "heater.pv", field field',
        "`pv`",
    ),
    "unknown_command": (
        'command = "set_flow"',
        'command = "set_flw"',
        'channel "purge.flow", field command',
        "`set_flow`",
    ),
    "unknown_adapter": ('adapter = "box"', 'adapter = "bx"', 'device "oven", field adapter', "box"),
    "unknown_transport": (
        'transport = "serial"',
        'transport = "serail"',
        'link "bus", field transport',
        "`serial`",
    ),
    "unit": (
        'unit = "g"',
        'unit = "degC"',
        'channel "balance.mass", field unit',
        'unit = "g"',
    ),
    "limits": (
        "min = 0.0, max = 500.0",
        "min = 500.0, max = -1.0",
        'channel "purge.flow", field limits',
        "swap",
    ),
    "unknown_channel": (
        'of = "balance.mass"',
        'of = "balance.mas"',
        'channel "mass_loss_fraction", field derived.of',
        "`balance.mass`",
    ),
    "bad_option": (
        "address = 1",
        "address = 1\noptions = { broken = true }",
        'device "oven"',
        "",
    ),
    "no_safe_value": (
        'set = { "purge.flow" = 0.0 }',
        'set = { "heater.setpoint" = 20.0 }',
        'channel "purge.flow"',
        'safe = "leave"',
    ),
    "not_commandable": (
        'set = { "heater.setpoint" = 20.0 }',
        'set = { "heater.setpoint" = 20.0, "heater.pv" = 20.0 }',
        'safe_state stage 1, field set."heater.pv"',
        "command",
    ),
    "safe_value": (
        '"heater.setpoint" = 20.0',
        '"heater.setpoint" = 2000.0',
        'safe_state stage 1, field set."heater.setpoint"',
        "within the limits",
    ),
    "first_stage": (
        'set = { "heater.setpoint" = 20.0 }',
        'timeout_s = 5.0\nset = { "heater.setpoint" = 20.0 }',
        "safe_state stage 1",
        "immediate",
    ),
}


@pytest.mark.parametrize("code", [c for c in MISTAKES if c != "limits"])
def test_each_mistake_is_named_with_its_place_and_its_remedy(tmp_path: Path, code: str) -> None:
    old, new, where, hint = MISTAKES[code]
    problem = only(tmp_path, old, new)
    assert problem.code == f"profile.{code}"
    assert problem.where == where
    assert hint in (problem.hint or "")
    assert problem.line is not None


def test_limits_the_wrong_way_round_are_named(tmp_path: Path) -> None:
    old, new, where, _ = MISTAKES["limits"]
    problems = problems_of_profile(tmp_path, bent(old, new))
    assert ("profile.limits", where) in [(p.code, p.where) for p in problems]


def test_a_profile_that_forgets_an_output_does_not_load(tmp_path: Path) -> None:
    file = tmp_path / "rig.toml"
    file.write_text(PROFILE[: PROFILE.index("[[safe_state]]")], encoding="utf-8")
    with pytest.raises(ProblemsError, match="nothing says what is safe") as caught:
        load_profile(file, FAMILIES)
    assert len(caught.value.problems) == 2


def test_an_output_may_say_that_it_is_left_as_it_is(tmp_path: Path) -> None:
    text = bent('command = "set_flow"', 'command = "set_flow"\nsafe = "leave"')
    stage = text.rindex("[[safe_state]]")
    assert profile_of(tmp_path, text[:stage]).channels[2].safe == "leave"


def test_an_output_that_is_left_has_no_value_in_a_stage(tmp_path: Path) -> None:
    problem = only(tmp_path, 'command = "set_flow"', 'command = "set_flow"\nsafe = "leave"')
    assert (problem.code, problem.hint) == ("profile.safe", "keep one of the two")


def test_what_nothing_commands_does_not_say_what_is_safe(tmp_path: Path) -> None:
    problem = only(tmp_path, 'field = "mass"', 'field = "mass"\nsafe = "leave"')
    assert problem.code == "profile.safe"


def test_a_condition_of_a_stage_names_a_channel_that_exists(tmp_path: Path) -> None:
    problem = only(tmp_path, 'channel = "heater.pv"', 'channel = "heater.tc"')
    assert problem.where == "safe_state stage 2, field when.channel"


def test_a_condition_that_may_never_come_true_gives_a_warning(tmp_path: Path) -> None:
    problem = only(tmp_path, "timeout_s = 60.0\n", "")
    assert (problem.code, problem.blocking) == ("profile.no_timeout", False)


def test_an_output_without_limits_gives_a_warning(tmp_path: Path) -> None:
    problem = only(tmp_path, "limits = { min = 0.0, max = 500.0 }\n", "")
    assert (problem.code, problem.blocking) == ("profile.no_limits", False)


def test_a_warning_does_not_keep_a_profile_from_loading(tmp_path: Path) -> None:
    file = tmp_path / "rig.toml"
    file.write_text(bent("timeout_s = 60.0\n", ""), encoding="utf-8")
    assert load_profile(file, FAMILIES).safe_state[1].timeout_s is None


@pytest.mark.parametrize(
    ("copied", "code"),
    [
        ('[[links]]\nname = "bus"\nport = "/dev/ttyS1"\n', "duplicate_name"),
        ('[[links]]\nname = "bus2"\nport = "/dev/ttyS0"\n', "duplicate_port"),
        (
            '[[devices]]\nname = "oven"\nadapter = "box"\nlink = "bus"\naddress = 2\n',
            "duplicate_name",
        ),
        (
            '[[devices]]\nname = "oven2"\nadapter = "box"\nlink = "bus"\naddress = 1\n',
            "duplicate_address",
        ),
        (
            '[[channels]]\nname = "heater.pv"\nkind = "other"\nunit = "%"\n'
            'device = "oven"\nfield = "power"\n',
            "duplicate_name",
        ),
        (
            '[[channels]]\nname = "p"\nkind = "power"\nunit = "%"\ndevice = "oven"\n'
            'field = "power"\nstale_after_s = 2\n'
            'alarms = [{ id = "overtemp", op = ">", threshold = 1 }]\n',
            "duplicate_name",
        ),
        (
            '[[channels]]\nname = "again"\nkind = "flow"\nunit = "sccm"\ndevice = "oven"\n'
            'field = "flow"\ncommand = "set_flow"\nsafe = "leave"\nlimits = { min = 0, max = 1 }\n',
            "duplicate_command",
        ),
    ],
)
def test_what_must_be_there_once_is_there_once(tmp_path: Path, copied: str, code: str) -> None:
    problems = problems_of_profile(tmp_path, copied + PROFILE.partition("\n")[2])
    name = 'name = "bench"\n'
    problems = problems_of_profile(tmp_path, name + PROFILE.partition("\n")[2] + copied)
    assert coded(problems) == [code]


def test_a_channel_is_bound_or_derived_and_not_both(tmp_path: Path) -> None:
    both = only(tmp_path, 'unit = "1"\n', 'unit = "1"\ndevice = "oven"\n')
    assert both.hint == "leave one of them out"
    neither = only(tmp_path, 'device = "oven"\nfield = "mass"\n', "")
    assert "say how it is derived" in (neither.hint or "")


def test_a_unit_that_converts_is_as_good(tmp_path: Path) -> None:
    assert profile_of(tmp_path, bent('unit = "g"', 'unit = "mg"')).channels[3].unit == "mg"


def test_a_linear_calibration_may_be_the_conversion_itself(tmp_path: Path) -> None:
    text = bent(
        'unit = "g"\ndevice = "oven"\nfield = "mass"',
        'unit = "g"\ndevice = "oven"\nfield = "volts"\n'
        'calibration = { kind = "linear", gain = 44.0 }',
    )
    assert profile_of(tmp_path, text).channels[3].field == "volts"


def test_a_gain_of_zero_is_refused(tmp_path: Path) -> None:
    new = 'field = "mass"\ncalibration = { kind = "linear", gain = 0.0 }'
    assert only(tmp_path, 'field = "mass"', new).code == "profile.calibration"


def test_a_derived_channel_has_the_unit_of_what_it_computes(tmp_path: Path) -> None:
    problem = only(tmp_path, 'unit = "1"\nderived', 'unit = "degC"\nderived')
    assert problem.code == "profile.unit"


def test_channels_derived_from_each_other_are_refused(tmp_path: Path) -> None:
    loop = (
        '[[channels]]\nname = "a"\nkind = "other"\nunit = "1"\n'
        'derived = { kind = "difference", of = "b", minus = "b" }\n'
        '[[channels]]\nname = "b"\nkind = "other"\nunit = "1"\n'
        'derived = { kind = "difference", of = "a", minus = "a" }\n'
    )
    assert coded(problems_of_profile(tmp_path, PROFILE + loop)) == ["derived_loop"] * 2


def test_data_can_t_be_fresher_than_it_is_polled(tmp_path: Path) -> None:
    problem = only(tmp_path, 'field = "mass"', 'field = "mass"\nstale_after_s = 0.1')
    assert problem.hint == "allow at least 0.2 s"


def test_an_age_that_one_lost_reply_on_a_shared_line_exceeds_gives_a_warning_with_the_sum(
    tmp_path: Path,
) -> None:
    text = bent("stale_after_s = 2.0", "stale_after_s = 1.3")
    kiln = '[[devices]]\nname = "kiln"\nadapter = "box"\nlink = "bus"\naddress = 2\n'
    (problem,) = problems_of_profile(tmp_path, text + kiln)
    assert (problem.code, problem.blocking) == ("profile.stale_by_one_reply", False)
    assert "after 1.3 s, and one lost reply makes it up to 1.4 s old: polled" in problem.message
    hint = str(problem.hint)
    assert hint.startswith("allow 3 s (1 s for each of the 2 devices on bus and one more)")
    assert not problems_of_profile(tmp_path, text)  # alone on its line
    slow = kiln + "poll_hz = 2\n"
    (problem,) = problems_of_profile(tmp_path, text.replace("= 1.3", "= 1.7") + slow)
    assert "up to 1.8 s old" in problem.message
    quick = text.replace('name = "bus"', 'name = "bus"\nreply_timeout_s = 0.3')
    assert not problems_of_profile(tmp_path, quick + kiln)


@pytest.mark.parametrize(("rate_hz", "after_s", "aged"), [(10, 1.1, "1.2 s"), (1, 2.0, "2.1 s")])
def test_an_age_that_one_lost_reply_exceeds_gives_a_warning_on_a_line_of_its_own_too(
    tmp_path: Path, rate_hz: int, after_s: float, aged: str
) -> None:
    text = bent("stale_after_s = 2.0", f"stale_after_s = {after_s}")
    text = text.replace("address = 1\n", f"address = 1\npoll_hz = {rate_hz}\n")
    (problem,) = problems_of_profile(tmp_path, text)
    assert (problem.code, problem.blocking) == ("profile.stale_by_one_reply", False)
    assert f"up to {aged} old" in problem.message


def test_an_alarm_on_a_channel_that_never_counts_as_silent_gives_a_warning(tmp_path: Path) -> None:
    alarm = 'alarms = [{ id = "heavy", op = ">", threshold = 50.0 }]'
    problem = only(tmp_path, 'field = "mass"', f'field = "mass"\n{alarm}')
    assert (problem.code, problem.blocking) == ("profile.no_stale_after", False)
    assert "when it falls silent, nothing is raised" in problem.message


def test_problems_of_every_sort_come_at_once(tmp_path: Path) -> None:
    text = bent('name = "bus"', 'name = "bus"\nbawd = 9600').replace('link = "bus"', 'link = "bsu"')
    text = text.replace('field = "pv"', "field = 7").replace('"purge.flow" = 0.0', '"x" = 0.0')
    problems = problems_of_profile(tmp_path, text)
    assert {p.where for p in problems} == {
        'link "bus", field bawd',
        'device "oven", field link',
        'channel "heater.pv", field field',
        'channel "purge.flow"',
        "safe_state stage 2, field set.x",
    }
    assert all(problem.line for problem in problems)


def test_one_bad_entry_hides_no_problem_of_another_and_raises_no_false_one(tmp_path: Path) -> None:
    problem = only(tmp_path, 'name = "bus"', 'name = "bus"\nbaud = "fast"')
    assert problem.where == 'link "bus", field baud'
    assert problem.message == 'must be a whole number, not "fast"'


def test_a_profile_without_its_tables_says_which_are_missing(tmp_path: Path) -> None:
    problems = problems_of_profile(tmp_path, 'name = "bench"\n')
    assert {p.where for p in problems} == {"field links", "field devices", "field channels"}
