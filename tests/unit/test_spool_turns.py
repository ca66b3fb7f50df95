"""Whose turn it is: priorities, times to wait for, and a clock that jumps by a year."""

from datetime import UTC, datetime, timedelta

from capad.jobs import Job, JobState
from capad.turns import ClockWatch, first_ready, waits_text

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def job(number: int, *, priority: int = 0, wait_s: float | None = None) -> Job:
    not_before = None if wait_s is None else (NOW + timedelta(seconds=wait_s)).isoformat()
    return Job(
        id=f"{number:06d}-20261121-120000-x",
        name=f"{number}.experiment.toml",
        kept="x",
        owner="maria",
        uid=1000,
        state=JobState.QUEUED,
        priority=priority,
        not_before=not_before,
    )


def test_without_priorities_jobs_start_in_the_order_of_their_numbers() -> None:
    assert first_ready([job(2), job(1), job(3)], NOW) == 1


def test_a_higher_priority_goes_first_and_equal_ones_keep_their_order() -> None:
    assert first_ready([job(1), job(3, priority=5), job(2, priority=5)], NOW) == 2


def test_a_job_that_waits_for_its_time_holds_up_nobody_else() -> None:
    queue = [job(1, priority=9, wait_s=60), job(2)]
    assert first_ready(queue, NOW) == 1
    assert first_ready(queue, NOW + timedelta(seconds=60)) == 0


def test_nothing_is_ready_while_everything_waits() -> None:
    assert first_ready([job(1, wait_s=1)], NOW) is None
    assert first_ready([], NOW) is None


def test_the_status_tells_what_waits_until_when() -> None:
    text = waits_text([job(1, wait_s=7200), job(2, wait_s=3600), job(3)], NOW)
    local = (NOW + timedelta(hours=1)).astimezone()
    assert text == f"2.experiment.toml waits until {local:%Y-%m-%d %H:%M} (and 1 more)"
    assert waits_text([job(3)], NOW) == ""


def test_a_clock_that_runs_with_the_other_one_has_not_jumped() -> None:
    watch = ClockWatch()
    assert not watch.jumped(NOW, 100.0)
    assert not watch.jumped(NOW + timedelta(days=1, seconds=30), 100.0 + 86400)


def test_a_year_forward_and_back_is_told_by_how_much() -> None:
    watch = ClockWatch()
    watch.jumped(NOW, 0.0)
    year = timedelta(days=365)
    assert watch.jumped(NOW + year + timedelta(seconds=5), 5.0) == year
    assert watch.jumped(NOW + timedelta(seconds=10), 10.0) == -year
    assert not watch.jumped(NOW + timedelta(seconds=15), 15.0)
