"""The later stages of the safe state: each at its condition or at its time-out, never before."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from capa.channels.registry import ChannelRegistry
from capa.channels.sample import Status
from capa.runtime.safe_state import Verdict
from capa.runtime.stages import later_words
from tests.support.cooling import HEAT_OFF, PURGE_OFF, Cooling, cooling, outcome, stages_of
from tests.support.engine import FAMILIES, profile

STAGES = stages_of(HEAT_OFF, PURGE_OFF)
SOON = stages_of(HEAT_OFF, {**PURGE_OFF, "timeout_s": 60.0})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "safe_stages.json"


async def test_the_purge_is_taken_away_when_the_furnace_is_cool_and_no_sooner(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file)) as one:
        one.stage_one()
        await trio.sleep(1)
        for pv_degC in (600.0, 400.0, 200.0):
            one.publish(pv_degC)
            await trio.sleep(1)
        assert one.driven == []
        assert one.kept
        one.publish(199.9)
        await trio.sleep(1)
        assert one.driven == [(4.0, 1)]
        assert one.later.waiting == ""
        assert not one.kept


async def test_nothing_later_is_driven_before_stage_one_was(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        await trio.sleep(1)
        one.publish(20.0)
        await trio.sleep(600)
        assert one.driven == []


@pytest.mark.parametrize(
    ("value", "status", "age_s"),
    [
        (20.0, Status.COMM_ERROR, 0.0),
        (20.0, Status.SENSOR_FAIL, 0.0),
        (float("nan"), Status.OK, 0.0),
        (20.0, Status.OK, 3.5),
    ],
    ids=["no answer", "sensor broken", "not a number", "too old"],
)
async def test_a_reading_that_is_no_value_never_satisfies_and_the_time_out_decides(
    autojump_clock: MockClock, file: Path, value: float, status: Status, age_s: float
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.stage_one()
        for _ in range(59):
            one.publish(value, status, age_s=age_s)
            await trio.sleep(1)
        assert one.driven == []
        await trio.sleep(5)
        assert one.driven == [(60.0, 1)]


async def test_a_channel_that_fell_silent_below_the_threshold_satisfies_nothing(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.publish(150.0)  # before the wait began, and never again
        one.stage_one()
        await trio.sleep(59)
        assert one.driven == []
        await trio.sleep(2)
        assert one.driven == [(60.0, 1)]


async def test_no_time_counts_and_no_condition_holds_while_the_heater_is_not_known_to_be_off(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        for _ in range(50):
            one.stage_one(Verdict.UNREACHABLE)
            await trio.sleep(1)
            one.publish(20.0)
            await trio.sleep(1)
        assert one.driven == []
        assert not one.kept  # a restart must not count this time either
        assert "first the outputs before it have to be reached" in one.later.waiting
        one.stage_one()
        await trio.sleep(59)
        assert one.driven == []
        await trio.sleep(2)
        assert one.driven == [(160.0, 1)]


async def test_a_heater_that_was_lost_in_the_middle_starts_the_wait_anew(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.stage_one()
        await trio.sleep(50)
        one.stage_one(Verdict.UNREACHABLE)
        await trio.sleep(5)
        one.stage_one()
        await trio.sleep(59)
        assert one.driven == []
        await trio.sleep(2)
        assert one.driven == [(115.0, 1)]


async def test_stage_one_driven_again_neither_hurries_nor_delays_what_is_waited_for(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.stage_one()
        for _ in range(29):
            await trio.sleep(2)
            one.stage_one()
            assert one.driven == []
        await trio.sleep(5)
        assert one.driven == [(60.0, 1)]


async def test_a_stage_that_is_not_reached_is_driven_until_it_is_and_the_next_waits_for_it(
    autojump_clock: MockClock, file: Path
) -> None:
    third = {"set": {"heater.setpoint": 0.0}, "timeout_s": 30.0}
    bad = [Verdict.UNREACHABLE] * 20
    async with cooling(Cooling(stages_of(HEAT_OFF, PURGE_OFF, third), file, answers=bad)) as one:
        one.stage_one()
        await trio.sleep(1)
        one.publish(150.0)
        await trio.sleep(20)
        one.publish(300.0)  # there is no way back from a stage that was begun
        assert one.later.waiting.endswith("being driven")
        await trio.sleep(100)
        at_s = [at for at, stage in one.driven if stage == 1]
        assert at_s == [1.0 + 2 * k for k in range(21)]
        assert [(at, stage) for at, stage in one.driven if stage == 2] == [(at_s[-1] + 30, 2)]


async def test_one_that_can_only_be_commanded_is_enough_to_go_on(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file, answers=[Verdict.COMMANDED])) as one:
        one.stage_one()
        await trio.sleep(1)
        one.publish(150.0)
        await trio.sleep(1)
        assert one.later.waiting == ""


async def test_what_stage_one_takes_back_is_driven_again(
    autojump_clock: MockClock, file: Path
) -> None:
    stages = stages_of(
        {"set": {"heater.setpoint": 20.0, "purge.flow": 50.0}},
        {"set": {"purge.flow": 0.0}, "timeout_s": 10.0},
        {"set": {"heater.setpoint": 0.0}, "timeout_s": 1000.0},
    )
    async with cooling(Cooling(stages, file)) as one:
        one.stage_one()
        await trio.sleep(100)
        assert one.driven == [(10.0, 1)]
        one.stage_one()  # a trip: the purge is on again
        await trio.sleep(100)
        assert one.driven == [(10.0, 1), (110.0, 1)]


# --- a run comes in between ---------------------------------------------------------------------


async def test_a_run_calls_off_what_was_due_and_its_end_begins_anew(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.later.go_on("run-1", outcome(SOON[0]))
        await trio.sleep(50)
        assert await one.later.pause() == ""
        assert not one.kept  # before the run may command anything
        assert one.later.call_off() == (
            "called off, since a run begins: purge.flow to 0 when heater.pv < 200 degC, "
            "after 1 min at the latest (due after run run-1)",
        )
        one.publish(20.0)
        one.later.heard(outcome(SOON[0]))  # a trip in mid-run drives stage one
        assert one.later.due == ""
        await trio.sleep(100)
        one.publish(20.0)
        await trio.sleep(1)
        assert one.driven == []
        one.later.go_on("run-2", outcome(SOON[0]))
        await trio.sleep(59)
        assert one.driven == []
        await trio.sleep(2)
        assert one.driven == [(211.0, 1)]


async def test_an_output_reached_while_the_runs_bundle_was_sealed_is_not_waited_for_any_more(
    autojump_clock: MockClock, file: Path
) -> None:
    """The run's verdicts come last and are the older ones: the monitor had gone on trying."""
    async with cooling(Cooling(STAGES, file)) as one:
        await one.later.pause()
        of_the_run = outcome(one.stages[0], Verdict.UNREACHABLE)
        await trio.sleep(2)
        one.stage_one()
        await trio.sleep(3)
        one.later.go_on("20261121-080000-0001", of_the_run)
        await trio.sleep(1)
        one.publish(100.0)
        await trio.sleep(1)
        assert one.driven == [(6.0, 1)]


async def test_an_output_lost_while_the_runs_bundle_was_sealed_is_waited_for(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file)) as one:
        await one.later.pause()
        of_the_run = outcome(one.stages[0])
        await trio.sleep(2)
        one.stage_one(Verdict.UNREACHABLE)
        one.later.go_on("20261121-080000-0001", of_the_run)
        await trio.sleep(1)
        one.publish(100.0)
        await trio.sleep(1)
        assert one.driven == []


async def test_a_run_that_was_refused_has_cost_no_time(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.stage_one()
        await trio.sleep(50)
        await one.later.pause()
        await trio.sleep(4)
        one.publish(20.0)  # while the run is being checked nothing is driven
        await trio.sleep(1)
        assert one.driven == []
        one.later.go_on(None, {})
        await trio.sleep(1)
        assert one.kept
        await trio.sleep(10)
        assert one.driven == [(60.0, 1)]


async def test_a_heater_lost_while_a_run_was_refused_is_not_forgotten(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file)) as one:
        one.stage_one()
        await trio.sleep(1)
        await one.later.pause()
        one.stage_one(Verdict.UNREACHABLE)
        one.later.go_on(None, {})
        await trio.sleep(1)
        one.publish(20.0)
        await trio.sleep(1)
        assert one.driven == []


async def test_a_run_of_whose_safe_state_nothing_is_known_has_left_nothing_safe(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file)) as one:
        await one.later.pause()
        one.later.go_on("run-1", {})
        await trio.sleep(1)
        one.publish(20.0)
        await trio.sleep(1)
        assert one.driven == []


async def test_a_run_waits_for_the_end_of_a_stage_that_is_being_driven(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file, takes_s=3.0)) as one:
        one.stage_one()
        await trio.sleep(1)
        one.publish(150.0)
        await trio.sleep(1)
        await one.later.pause()
        assert trio.current_time() == pytest.approx(4.0)
        assert one.later.call_off() == ()


async def test_what_can_not_be_forgotten_on_disk_forbids_the_run_in_words(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file)) as one:
        one.stage_one()
        await trio.sleep(1)
        one.spoil_file()
        assert "safe_stages.json can't be changed" in await one.later.pause()


# --- restarts -----------------------------------------------------------------------------------


async def test_a_restart_counts_the_time_already_waited(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.later.go_on("run-1", outcome(SOON[0]))
        await trio.sleep(30)
    await trio.sleep(10)
    async with cooling(Cooling(SOON, file)) as two:
        await trio.sleep(1)
        two.stage_one()
        assert two.later.waiting == "purge.flow to 0 when heater.pv < 200 degC, 19 s left"
        await trio.sleep(30)
        assert two.driven == [(60.0, 1)]


async def test_a_time_out_that_ended_while_nobody_was_there_is_kept_once_stage_one_is_driven(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.stage_one()
        await trio.sleep(30)
    await trio.sleep(100)
    async with cooling(Cooling(SOON, file)) as two:
        await trio.sleep(5)
        assert two.driven == []
        two.stage_one()
        await trio.sleep(1)
        assert two.driven == [(135.0, 1)]


async def test_after_a_restart_a_condition_that_holds_waits_for_stage_one(
    autojump_clock: MockClock, file: Path
) -> None:
    stages = stages_of(HEAT_OFF, PURGE_OFF)
    async with cooling(Cooling(stages, file)) as one:
        one.stage_one()
        await trio.sleep(30)
    async with cooling(Cooling(stages, file)) as two:
        for _ in range(20):
            two.publish(100.0)
            await trio.sleep(0.5)
        assert two.driven == []
        two.stage_one()
        two.publish(100.0)
        await trio.sleep(0.5)
        two.publish(100.0)
        await trio.sleep(0.5)
        assert [stage for _, stage in two.driven] == [1]


@pytest.mark.parametrize(
    ("wall_off_s", "at_s"), [(0.0, 60.0), (-86_400.0, 100.0)], ids=["right", "a day back"]
)
async def test_over_a_reboot_the_wall_clock_counts_and_one_that_went_back_counts_nothing(
    autojump_clock: MockClock, file: Path, wall_off_s: float, at_s: float
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.stage_one()
        await trio.sleep(30)
    await trio.sleep(10)
    again = Cooling(SOON, file, boot="boot 2", wall_off_s=wall_off_s)
    async with cooling(again) as two:
        two.stage_one()
        await trio.sleep(100)
        assert two.driven == [(at_s, 1)]


async def test_within_one_boot_a_wall_clock_that_was_set_changes_nothing(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(SOON, file)) as one:
        one.stage_one()
        await trio.sleep(30)
    async with cooling(Cooling(SOON, file, wall_off_s=86_400.0)) as two:
        two.stage_one()
        await trio.sleep(100)
        assert two.driven == [(60.0, 1)]


@pytest.mark.parametrize("boot", ["boot 1", ""], ids=["known", "unknown"])
async def test_where_the_boot_has_no_name_a_clock_that_was_set_brings_no_stage_early(
    autojump_clock: MockClock, file: Path, boot: str
) -> None:
    async with cooling(Cooling(SOON, file, boot="")) as one:
        one.stage_one()
        await trio.sleep(10)
        one.wall_off_s = 86_400.0
        one.stage_one()
        await trio.sleep(20)
        assert one.driven == []
    async with cooling(Cooling(SOON, file, boot=boot, wall_off_s=86_400.0)) as two:
        two.stage_one()
        await trio.sleep(100)
        assert two.driven == [(60.0, 1)]


async def test_stages_that_are_through_are_not_begun_over_by_what_waits_still(
    autojump_clock: MockClock, file: Path
) -> None:
    stages = stages_of(HEAT_OFF, {**PURGE_OFF, "timeout_s": 10.0}, {**PURGE_OFF, "timeout_s": 100})
    async with cooling(Cooling(stages, file)) as one:
        one.stage_one()
        await trio.sleep(50)
        assert one.driven == [(10.0, 1)]
    async with cooling(Cooling(stages, file)) as two:
        two.stage_one()
        await trio.sleep(100)
        assert two.driven == [(110.0, 2)]


@pytest.mark.parametrize("left", ["", "{", '{"of": "x"}', "[]", "\x00\xff"])
async def test_a_file_that_can_not_be_read_begins_the_wait_anew(
    autojump_clock: MockClock, file: Path, left: str
) -> None:
    async with cooling(Cooling(SOON, file, left=left)) as one:
        one.stage_one()
        await trio.sleep(100)
        assert one.driven == [(60.0, 1)]


async def test_what_was_due_of_another_safe_state_is_not_taken_for_this_one(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file)) as one:
        one.stage_one()
        await trio.sleep(50)
    async with cooling(Cooling(SOON, file)) as two:
        two.stage_one()
        await trio.sleep(100)
        assert two.driven == [(110.0, 1)]


# --- words --------------------------------------------------------------------------------------


async def test_the_status_says_what_is_waited_for_and_for_how_long(
    autojump_clock: MockClock, file: Path
) -> None:
    async with cooling(Cooling(STAGES, file)) as one:
        assert one.later.waiting == ""
        one.stage_one()
        await trio.sleep(7200 - 43 * 60)
        assert one.later.waiting == "purge.flow to 0 when heater.pv < 200 degC, 43 min left"


def test_the_report_says_what_is_still_to_come() -> None:
    registry = ChannelRegistry.from_profile(profile(), FAMILIES)
    third = {"set": {"heater.setpoint": 0.0}, "timeout_s": 30.0}
    assert later_words(stages_of(HEAT_OFF, PURGE_OFF, third), registry) == (
        "purge.flow to 0 when heater.pv < 200 degC, after 2 h 0 min at the latest",
        "heater.setpoint to 0, after 30 s",
    )
