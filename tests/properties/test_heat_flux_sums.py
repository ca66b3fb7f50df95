"""The sums behind the heat-flux tune: steadiness, steps, limits; for any numbers."""

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from capa.channels.sample import Sample, Status
from capa.experiment.procedures.builtin.heat_flux_tune import HeatFluxTuneConfig
from capa.experiment.procedures.builtin.heat_flux_tune.guard import Guard
from capa.experiment.procedures.builtin.heat_flux_tune.secant import (
    Point,
    StepRules,
    deaf,
    first_setpoint,
    flux_at,
    next_setpoint,
    setpoint_for,
)
from capa.experiment.procedures.builtin.heat_flux_tune.steady import (
    SteadyRules,
    Window,
    stats_of,
    why_unsteady,
)
from capa.experiment.procedures.builtin.heat_flux_tune.stopwatch import Stopwatch

RULES = StepRules(
    t_min_c=100.0,
    t_max_c=900.0,
    max_step_c=100.0,
    damping=0.9,
    ambient_c=23.0,
    radiative_factor=0.8,
)
STEADY = SteadyRules(window_s=60.0, min_samples=10, max_noise=0.3, max_slope_per_s=0.005)

setpoints = st.floats(100.0, 900.0)
fluxes = st.floats(-1e6, 1e6)
points = st.lists(st.builds(Point, setpoints, fluxes), min_size=1, max_size=6)
rules = st.builds(
    StepRules,
    t_min_c=st.floats(-50.0, 400.0),
    t_max_c=st.floats(401.0, 1500.0),
    max_step_c=st.floats(0.1, 500.0),
    damping=st.floats(0.01, 1.0),
    ambient_c=st.floats(0.0, 50.0),
    radiative_factor=st.floats(0.01, 1.0),
)


# --- steps ----------------------------------------------------------------------------------------


@given(points, st.floats(0.1, 1e4), rules)
def test_a_step_leaves_neither_the_bounds_nor_the_largest_step(
    seen: list[Point], target: float, by: StepRules
) -> None:
    setpoint_c = next_setpoint(seen, target, by)
    assert by.t_min_c <= setpoint_c <= by.t_max_c
    inside = min(max(seen[-1].setpoint_c, by.t_min_c), by.t_max_c)
    slack = 1e-9 * max(abs(inside), by.max_step_c)
    beyond = abs(inside - seen[-1].setpoint_c)  # a point outside the bounds is first led back
    assert abs(setpoint_c - seen[-1].setpoint_c) <= max(by.max_step_c, beyond) + slack


@given(points, st.floats(0.1, 1e4), rules)
def test_a_step_goes_up_when_there_is_too_little_and_down_when_there_is_too_much(
    seen: list[Point], target: float, by: StepRules
) -> None:
    last = seen[-1]
    assume(by.t_min_c <= last.setpoint_c <= by.t_max_c)
    setpoint_c = next_setpoint(seen, target, by)
    if target > last.flux_kw_m2:
        assert setpoint_c >= last.setpoint_c
    else:
        assert setpoint_c <= last.setpoint_c


@given(
    points | st.just([]),
    st.floats(0.1, 1e4),
    rules,
)
def test_the_first_guess_is_within_the_bounds(
    seen: list[Point], target: float, by: StepRules
) -> None:
    assert by.t_min_c <= first_setpoint(seen, target, by) <= by.t_max_c


@given(st.floats(1.0, 300.0), st.floats(0.05, 1.0), st.floats(0.0, 50.0))
def test_the_radiative_law_and_its_inverse_agree(
    flux: float, factor: float, ambient_c: float
) -> None:
    back = flux_at(setpoint_for(flux, factor, ambient_c), factor, ambient_c)
    assert back == pytest.approx(flux, rel=1e-9)


@given(
    factor=st.floats(0.3, 1.0),
    offset=st.floats(-1.0, 1.0),
    start_c=st.floats(300.0, 900.0),
    target=st.floats(10.0, 60.0),
    damping=st.floats(0.6, 1.0),
)
def test_the_steps_find_the_setpoint_of_any_reasonable_heater(
    factor: float, offset: float, start_c: float, target: float, damping: float
) -> None:
    def heater(setpoint_c: float) -> float:
        return flux_at(setpoint_c, factor, 23.0) + offset + 0.002 * setpoint_c

    by = StepRules(20.0, 1200.0, 300.0, damping, 23.0, 0.8)
    seen = [Point(start_c, heater(start_c))]
    while abs(seen[-1].flux_kw_m2 - target) > 0.2:
        setpoint_c = next_setpoint(seen, target, by)
        seen.append(Point(setpoint_c, heater(setpoint_c)))
        assert len(seen) <= 12, seen


def test_the_second_target_starts_from_what_the_first_one_showed() -> None:
    shown = Point(600.0, flux_at(600.0, 0.5, 23.0))
    guess = first_setpoint([shown], 35.0, RULES)
    assert flux_at(guess, 0.5, 23.0) == pytest.approx(35.0)


def test_two_points_that_no_heater_gives_do_not_send_the_setpoint_astray() -> None:
    falling = [Point(600.0, 30.0), Point(610.0, 25.0)]
    assert 610.0 < next_setpoint(falling, 30.0, RULES) <= 680.0
    twins = [Point(600.0, 25.0), Point(600.1, 28.0)]
    assert 600.1 < next_setpoint(twins, 30.0, RULES) <= 640.0


def test_a_step_from_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a point"):
        next_setpoint([], 30.0, RULES)
    with pytest.raises(ValueError, match="no step from"):
        next_setpoint([Point(600.0, math.nan)], 30.0, RULES)


def test_a_flux_that_does_not_answer_a_clear_step_is_deaf() -> None:
    assert deaf([Point(500.0, 1.0), Point(600.0, 1.1)], RULES)
    assert deaf([Point(600.0, 1.0), Point(500.0, 1.1)], RULES)
    assert not deaf([Point(500.0, 14.0), Point(600.0, 25.0)], RULES)
    assert not deaf([Point(600.0, 25.0), Point(601.0, 25.0)], RULES)
    assert not deaf([Point(600.0, 25.0)], RULES)


# --- steadiness -----------------------------------------------------------------------------------


def line(
    mean: float, slope_per_s: float, *, count: int = 61, dt_s: float = 1.0
) -> list[tuple[float, float]]:
    middle = (count - 1) * dt_s / 2
    return [(1000.0 + k * dt_s, mean + slope_per_s * (k * dt_s - middle)) for k in range(count)]


@given(st.floats(-100.0, 100.0), st.floats(-1.0, 1.0), st.floats(0.0, 5.0))
def test_mean_noise_and_slope_are_told_apart(mean: float, slope: float, noise: float) -> None:
    zigzag = [(t, v + noise * (-1) ** k) for k, (t, v) in enumerate(line(mean, slope, count=60))]
    stats = stats_of(zigzag)
    assert stats is not None
    assert stats.mean == pytest.approx(mean, abs=1e-6)
    assert stats.noise == pytest.approx(noise, rel=0.05, abs=1e-6)
    assert stats.slope_per_s == pytest.approx(slope, abs=0.005 * noise + 1e-9)


@given(st.floats(-0.02, 0.02))
def test_a_drifting_flux_is_steady_only_within_the_slope_limit(slope: float) -> None:
    assume(abs(abs(slope) - STEADY.max_slope_per_s) > 1e-9)
    why = why_unsteady(stats_of(line(25.0, slope)), STEADY)
    assert (why == "") == (abs(slope) <= STEADY.max_slope_per_s)
    assert why == "" or why.startswith("slope")


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(-1e3, 1e3)), max_size=40))
def test_whatever_is_called_steady_keeps_to_every_rule(seen: list[tuple[float, float]]) -> None:
    window = Window(STEADY.window_s)
    for at_s, value in sorted(seen):
        window.add(at_s, value)
    stats = window.stats()
    if why_unsteady(stats, STEADY) == "":
        assert stats is not None
        assert stats.span_s >= 0.9 * STEADY.window_s
        assert stats.count >= STEADY.min_samples
        assert stats.noise <= STEADY.max_noise
        assert abs(stats.slope_per_s) <= STEADY.max_slope_per_s


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ([], "only 0 of 60 s are seen"),
        (line(25.0, 0.0, count=31), "only 30 of 60 s are seen"),
        (line(25.0, 0.0, count=5, dt_s=15.0), "only 5 of 10 samples"),
        ([(t, 25.0 + (k % 2)) for k, (t, _) in enumerate(line(25.0, 0.0))], "noise 0.5"),
        (line(25.0, 0.01), "slope 0.6 is beyond 0.3 kW/m^2 per min"),
    ],
)
def test_an_unsteady_flux_is_told_what_stands_against_it(
    seen: list[tuple[float, float]], says: str
) -> None:
    assert why_unsteady(stats_of(seen), STEADY).startswith(says)


def test_a_window_forgets_what_is_old_and_what_came_before_it_began() -> None:
    window = Window(10.0)
    window.begin(5.0)
    for second in range(30):
        window.add(float(second), 1.0)
        window.add(float(second), 99.0)  # the same instant twice
        stats = window.stats()
        assert (stats is None) == (second < 6)
    stats = window.stats()
    assert stats is not None
    assert (stats.span_s, stats.count, stats.mean) == (10.0, 11, 1.0)


# --- guard and stopwatch --------------------------------------------------------------------------


def guard(**config: Any) -> Guard:  # noqa: ANN401 - passed on
    settings = {"targets_kw_m2": [30.0], "t_set_max_c": 800.0, **config}
    return Guard(HeatFluxTuneConfig.model_validate(settings), 0.0)


def flux(value: float, at_s: float, status: Status = Status.OK) -> Sample:
    return Sample("flux.incident", value, at_s, status)


def pv(value: float, at_s: float) -> Sample:
    return Sample("heater.pv", value, at_s)


def test_either_of_the_two_channels_may_be_the_silent_one() -> None:
    one = guard(gauge_silence_s=5.0)
    one.see(flux(1.0, 4.0))
    assert one.trouble(4.9) == ""
    assert one.trouble(5.0).startswith("heater.pv: no usable sample for 5.0 s")
    one.see(pv(20.0, 6.0))
    one.see(flux(math.nan, 8.9, Status.SENSOR_FAIL))
    assert one.silent_at_s() == 9.0
    assert one.trouble(9.0).startswith("flux.incident: no usable sample for 5.0 s")


def test_a_lower_setpoint_may_be_followed_by_a_rise_only_for_a_while() -> None:
    one = guard(runaway_after_s=30.0, runaway_rise_kw_m2=3.0, gauge_silence_s=1e9)
    one.see(flux(20.0, 0.0))
    one.commanded(600.0, 0.0)
    one.commanded(580.0, 10.0)
    one.see(flux(24.0, 20.0))
    assert one.trouble(39.0) == ""
    assert "rose from 20.0 to 24.0 kW/m^2 in the 30 s after heater.setpoint" in one.trouble(40.0)
    one.commanded(650.0, 41.0)
    assert one.trouble(100.0) == ""


@given(st.lists(st.tuples(st.sampled_from(["pause", "resume", "wait"]), st.floats(0.0, 50.0))))
def test_a_stopwatch_counts_exactly_the_time_that_was_not_paused(
    story: list[tuple[str, float]],
) -> None:
    now_s, active_s, paused = 100.0, 0.0, False
    watch = Stopwatch(now_s)
    for what, wait_s in story:
        if what == "pause":
            assert watch.pause(now_s) is not paused
            paused = True
        elif what == "resume":
            assert watch.resume(now_s) is paused
            paused = False
        now_s += wait_s
        active_s += 0.0 if paused else wait_s
        assert watch.paused is paused
        assert watch.active_s(now_s) == pytest.approx(active_s, abs=1e-6)
