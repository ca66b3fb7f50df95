"""The second look: one glitch is never believed, and what is really there always is."""

from hypothesis import assume, given
from hypothesis import strategies as st

from capa.devices.plausible import Look, SecondLook, Verdict, look_at_number

STEP = 1.0
numbers = st.floats(-1e4, 1e4).map(lambda value: round(value, 2))
calm = st.floats(-STEP, STEP).map(lambda value: round(value, 2))


def looked(at: float) -> SecondLook:
    look = SecondLook((STEP,))
    look.judge(Look((at,)), Look((at,)))
    return look


@given(numbers, calm)
def test_what_moves_within_the_step_is_not_asked_for_again(at: float, by: float) -> None:
    assume(abs(by) < STEP)
    assert not looked(at).doubts(Look((at + by,)))


@given(numbers, numbers, calm)
def test_one_glitch_is_told_by_what_was_before_and_what_came_after(
    at: float, glitch: float, by: float
) -> None:
    assume(abs(glitch - at) > 2 * STEP)
    assume(abs(by) < STEP)
    look = looked(at)
    assert look.doubts(Look((glitch,)))
    assert look.judge(Look((glitch,)), Look((at + by,))) is Verdict.GLITCH
    assert not look.doubts(Look((at + by,)))


@given(numbers, numbers, calm)
def test_a_jump_that_is_seen_twice_is_believed(at: float, to: float, by: float) -> None:
    assume(abs(to - at) > 2 * STEP)
    assume(abs(by) < STEP)
    look = looked(at)
    assert look.doubts(Look((to,)))
    assert look.judge(Look((to,)), Look((to + by,))) is Verdict.CHANGED


@given(numbers, numbers, numbers)
def test_nothing_is_vouched_for_that_was_not_seen_twice(
    before: float, first: float, second: float
) -> None:
    assume(abs(second - first) > STEP)
    assume(abs(second - before) > STEP)
    assume(abs(first - before) > STEP)
    verdict = looked(before).judge(Look((first,)), Look((second,)))
    assert verdict.settles


@given(numbers)
def test_after_forgetting_everything_is_asked_for_twice(at: float) -> None:
    look = looked(at)
    look.forget()
    assert look.doubts(Look((at,)))


def test_what_can_only_be_the_same_or_not_is_doubted_when_it_changes() -> None:
    look = SecondLook((STEP,))
    look.judge(Look((1.0,), "N2"), Look((1.0,), "N2"))
    assert look.doubts(Look((1.0,), "Ar"))
    assert look.judge(Look((1.0,), "Ar"), Look((1.0,), "N2")) is Verdict.GLITCH
    assert look.judge(Look((1.0,), "Ar"), Look((1.0,), "Ar")) is Verdict.CHANGED


def test_a_number_is_counted_in_steps_of_its_last_place() -> None:
    assert look_at_number("  -0.0123") == Look((-123.0,), 4)
    assert look_at_number("12,5") == Look((125.0,), 1)
    assert look_at_number("7") == Look((7.0,), 0)
