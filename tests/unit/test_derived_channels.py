"""Channels computed from others, as their sources arrive."""

import math

import pytest

from capa.channels.derived import DerivedChannels, derivation
from capa.channels.sample import Sample, Status
from capa.channels.spec import ChannelSpec, DerivedSpec, Difference, LossFraction, RatePerS
from capa.units import UnitError

UNITS = {"m": "g", "t1": "degC", "t2": "degF", "loss": "1"}


def derived(name: str, unit: str, rule: DerivedSpec) -> ChannelSpec:
    return ChannelSpec(name=name, kind="other", unit=unit, derived=rule)


def channels(*specs: ChannelSpec) -> DerivedChannels:
    return DerivedChannels({spec.name: derivation(spec, UNITS) for spec in specs})


LOSS = derived("loss", "1", LossFraction(kind="loss_fraction", of="m"))
SLOPE = derived("slope", "g/s", RatePerS(kind="rate_per_s", of="m", window_s=10.0))
GAP = derived("gap", "degC", Difference(kind="difference", of="t1", minus="t2"))


def mass(value: float, at_s: float = 0.0, status: Status = Status.OK) -> Sample:
    return Sample("m", value, at_s, status)


def values(made: list[Sample]) -> list[float]:
    return [sample.value for sample in made]


def test_a_loss_counts_from_the_first_sample_of_the_run() -> None:
    each = channels(LOSS)
    each.feed([mass(100.0)])
    each.start_run()
    assert values(each.feed([mass(4.0), mass(3.0, 1.0)])) == [0.0, 0.25]


def test_a_loss_does_not_begin_at_a_sample_that_is_no_measurement() -> None:
    each = channels(LOSS)
    first, second, third = each.feed(
        [mass(math.nan, status=Status.COMM_ERROR), mass(2.0), mass(1.0)]
    )
    assert math.isnan(first.value)
    assert first.status is Status.COMM_ERROR
    assert (second.value, third.value) == (0.0, 0.5)


def test_a_nan_that_calls_itself_good_is_not_passed_on_as_good() -> None:
    (made,) = channels(LOSS).feed([mass(math.nan)])
    assert not made.usable


def test_a_settling_source_gives_a_settling_value() -> None:
    (made,) = channels(LOSS).feed([mass(2.0, status=Status.SETTLING)])
    assert made.status is Status.SETTLING


def test_an_empty_pan_loses_nothing_that_could_be_told() -> None:
    (made,) = channels(LOSS).feed([mass(0.0)])
    assert not made.usable


def test_a_loss_in_percent_is_a_hundred_times_as_much() -> None:
    in_percent = derived("loss", "%", LossFraction(kind="loss_fraction", of="m"))
    assert values(channels(in_percent).feed([mass(4.0), mass(3.0)])) == [0.0, 25.0]


def test_a_slope_is_that_of_the_line_of_least_squares() -> None:
    each = channels(SLOPE)
    made = each.feed([mass(5.0 - 0.5 * t + 0.01 * (-1) ** t, float(t)) for t in range(30)])
    assert made[-1].value == pytest.approx(-0.5, abs=0.002)


def test_a_slope_settles_until_its_window_is_full() -> None:
    made = channels(SLOPE).feed([mass(float(t), float(t)) for t in range(13)])
    assert made[0].at_s == 1.0
    assert [m.status for m in made] == [Status.SETTLING] * 9 + [Status.OK] * 3


def test_a_slope_forgets_what_is_older_than_its_window() -> None:
    points = [mass(0.0, float(t)) for t in range(20)] + [
        mass(t - 20.0, float(t)) for t in range(20, 40)
    ]
    assert channels(SLOPE).feed(points)[-1].value == pytest.approx(1.0)


def test_a_slope_of_samples_of_one_instant_is_none() -> None:
    assert channels(SLOPE).feed([mass(1.0, 5.0), mass(2.0, 5.0)]) == []


def test_a_difference_converts_and_is_as_old_as_the_older_part() -> None:
    each = channels(GAP)
    assert each.feed([Sample("t1", 110.0, 1.0)]) == []
    (made,) = each.feed([Sample("t2", 212.0, 3.0)])
    assert made.value == pytest.approx(10.0)
    assert made.at_s == 1.0


def test_a_difference_with_a_broken_part_is_broken() -> None:
    each = channels(GAP)
    each.feed([Sample("t1", 110.0, 1.0), Sample("t2", 212.0, 3.0)])
    (made,) = each.feed([Sample("t2", math.nan, 4.0, Status.SENSOR_FAIL)])
    assert made.status is Status.SENSOR_FAIL


def test_a_channel_may_be_derived_from_a_derived_one() -> None:
    rate = derived("rate", "1/s", RatePerS(kind="rate_per_s", of="loss", window_s=5.0))
    made = channels(rate, LOSS).feed([mass(4.0, 0.0), mass(3.0, 1.0)])
    assert [(m.channel, m.value) for m in made] == [("loss", 0.0), ("loss", 0.25), ("rate", 0.25)]


def test_channels_derived_from_each_other_are_refused() -> None:
    a = derived("a", "1", LossFraction(kind="loss_fraction", of="b"))
    b = derived("b", "1", LossFraction(kind="loss_fraction", of="a"))
    with pytest.raises(ValueError, match="a, b"):
        channels(a, b)


def test_a_unit_that_a_computation_can_t_have_is_refused() -> None:
    with pytest.raises(UnitError):
        derivation(derived("slope", "degC", RatePerS(kind="rate_per_s", of="m")), UNITS)


def test_other_channels_cause_nothing() -> None:
    assert channels(LOSS).feed([Sample("t1", 1.0, 0.0)]) == []
