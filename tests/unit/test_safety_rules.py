"""Every rule of the safety monitor, at its boundaries: pure state over samples and time."""

import math

import pytest

from capa.channels.registry import ChannelRegistry
from capa.channels.sample import Sample, Status
from capa.channels.spec import AlarmSpec, ChannelSpec
from capa.config.safety import RateWatch, ThermalWatch
from capa.experiment.method import AlarmOverride
from capa.runtime.safety_book import RECORDER_LAG, RUNS_FREE, SPOOL_FREE, RuleBook
from capa.runtime.safety_physics import NoRiseRule, RateRule, UnaskedPowerRule, UnaskedRiseRule
from capa.runtime.safety_rules import BandRule, Change, OutputRule, Rule, SensorRule, StaleRule
from tests.support.engine import FAMILIES, profile

PV = ChannelSpec(name="heater.pv", kind="temperature", unit="degC")
SETPOINT = ChannelSpec(name="heater.setpoint", kind="temperature", unit="degC")
HEATER = ThermalWatch(setpoint="heater.setpoint", pv="heater.pv", power="heater.power")


class Watch:
    """One rule under a clock that a test moves."""

    def __init__(self, rule: Rule) -> None:
        self.book = RuleBook([rule])
        self.changes: list[Change] = []

    def see(
        self,
        at_s: float,
        value: float,
        status: Status = Status.OK,
        *,
        channel: str = "heater.pv",
    ) -> bool:
        """Feed a sample and look; True while the rule is raised."""
        self.book.feed([Sample(channel, value, at_s, status)])
        return self.look(at_s)

    def look(self, at_s: float) -> bool:
        self.changes += self.book.look(at_s)
        return bool(self.book.raised())

    @property
    def words(self) -> str:
        return self.changes[-1].words


def band(op: str = ">", **alarm: object) -> Watch:
    table = {"id": "over", "op": op, "threshold": 820.0, "action": "safe_shutdown", **alarm}
    return Watch(BandRule(PV, AlarmSpec.model_validate(table)))


# --- alarm bands --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "at", "beyond"),
    [(">", False, 820.1), (">=", True, 820.1), ("<", False, 819.9), ("<=", True, 819.9)],
)
def test_a_value_on_the_threshold_is_judged_by_the_operator(
    op: str, at: bool, beyond: float
) -> None:
    assert band(op).see(0, 820.0) is at
    assert band(op).see(0, beyond)


def test_an_alarm_is_raised_when_the_debounce_time_is_full_and_not_before() -> None:
    watch = band(debounce_s=1.0)
    assert not watch.see(10.0, 821.0)
    assert not watch.see(10.999, 821.0)
    assert watch.see(11.0, 821.0)
    assert watch.words == "heater.pv = 821 degC: alarm at > 820 degC"


def test_one_good_value_starts_the_debounce_anew() -> None:
    watch = band(debounce_s=1.0)
    watch.see(0.0, 821.0)
    watch.book.feed([Sample("heater.pv", 819.0, 0.5), Sample("heater.pv", 821.0, 0.6)])
    assert not watch.look(1.5)
    assert watch.look(1.6)


def test_an_alarm_clears_only_when_the_hysteresis_is_left_behind() -> None:
    watch = band(hysteresis=5.0)
    assert watch.see(0, 820.1)
    assert watch.see(1, 815.1)
    assert not watch.see(2, 815.0)
    assert watch.changes[-1].kind == "cleared"
    assert not watch.see(3, 819.9)


def test_a_low_alarm_has_its_hysteresis_above() -> None:
    watch = band("<", threshold=100.0, hysteresis=5.0)
    assert watch.see(0, 99.9)
    assert watch.see(1, 104.9)
    assert not watch.see(2, 105.0)


def test_an_alarm_at_one_value_clears_when_it_is_left_by_the_hysteresis_either_way() -> None:
    for far in (-2.1, 2.1):
        watch = band("==", threshold=3.0, hysteresis=2.0)
        assert watch.see(0, 3.0)
        assert watch.see(1, 3.0 + far / 1.1)
        assert not watch.see(2, 3.0 + far)


def test_nan_and_error_samples_neither_raise_nor_clear_an_alarm() -> None:
    watch = band()
    assert not watch.see(0, math.nan, Status.SENSOR_FAIL)
    assert watch.see(1, 821.0)
    assert watch.see(2, math.nan)
    assert watch.see(3, math.nan, Status.COMM_ERROR)
    assert watch.see(4, 20.0, Status.SENSOR_FAIL)


def test_a_value_beyond_calls_for_a_look_at_once_and_a_value_within_does_not() -> None:
    book = band().book
    assert not book.feed([Sample("heater.pv", 819.0, 0)])
    assert book.feed([Sample("heater.pv", 821.0, 1)])


def test_an_override_moves_the_threshold_for_its_block_only() -> None:
    watch = band()
    with watch.book.overridden([AlarmOverride(alarm_id="over", threshold=850.0)]):
        assert not watch.see(0, 840.0)
        assert watch.book.in_force("over") == "at 850"
    assert watch.look(1)
    assert "> 820" in watch.words


def test_an_override_can_switch_an_alarm_off_and_the_inner_of_two_wins() -> None:
    watch = band()
    with watch.book.overridden([AlarmOverride(alarm_id="over", threshold=900.0)]):
        with watch.book.overridden([AlarmOverride(alarm_id="over", disable=True)]):
            assert not watch.see(0, 950.0)
            assert watch.book.in_force("over") == "off"
        assert watch.look(1)
        assert watch.book.in_force("over") == "at 900"


def test_overrides_are_restored_when_the_block_is_left_by_an_exception() -> None:
    watch = band()
    with (
        pytest.raises(ValueError, match="boom"),
        watch.book.overridden([AlarmOverride(alarm_id="over", disable=True)]),
    ):
        raise ValueError("boom")
    assert watch.see(0, 821.0)


def test_whether_an_alarm_still_holds_is_unknown_without_a_fresh_value() -> None:
    book = band().book
    assert "no usable reading since start-up" in book.holding(["alarm over"], 0)["alarm over"]
    book.feed([Sample("heater.pv", 20.0, 0)])
    assert book.holding(["alarm over"], 10.0) == {}
    assert "for 11 s" in book.holding(["alarm over"], 11.0)["alarm over"]


@pytest.mark.parametrize(
    "rule",
    [
        StaleRule("heater.pv", after_s=60.0, action="abort", device="furnace", started_s=0.0),
        SensorRule("heater.pv", action="abort", debounce_s=1.0, device="furnace"),
    ],
)
def test_nothing_is_cleared_before_the_device_was_heard_at_all(
    rule: StaleRule | SensorRule,
) -> None:
    book = RuleBook([rule])
    assert (
        "nothing heard since start-up; check furnace" in book.holding([rule.name], 1.0)[rule.name]
    )
    book.feed([Sample("heater.pv", math.nan, 1.0, Status.COMM_ERROR)])
    assert rule.name in book.holding([rule.name], 1.0)
    book.feed([Sample("heater.pv", 20.0, 2.0)])
    assert book.holding([rule.name], 2.0) == {}


# --- silence and broken sensors -----------------------------------------------------------------


def stale() -> Watch:
    return Watch(
        StaleRule("heater.pv", after_s=2.0, action="abort", device="furnace", started_s=0.0)
    )


def test_a_channel_is_stale_once_its_age_is_past_the_limit_without_any_sample() -> None:
    watch = stale()
    assert not watch.look(2.0)
    assert watch.look(2.01)
    assert "nothing heard for 2.0 s (stale_after_s = 2); check furnace" in watch.words


def test_a_report_that_the_device_did_not_answer_is_no_sign_of_life() -> None:
    watch = stale()
    watch.see(1.0, 100.0)
    assert not watch.see(3.0, math.nan, Status.COMM_ERROR)
    assert watch.see(3.1, math.nan, Status.COMM_ERROR)
    assert not watch.see(3.2, 100.0)
    assert watch.changes[-1].kind == "cleared"


def test_a_broken_sensor_is_not_silence() -> None:
    watch = stale()
    for tick in range(50):
        assert not watch.see(tick, math.nan, Status.SENSOR_FAIL)


def sensor() -> Watch:
    return Watch(SensorRule("heater.pv", action="abort", debounce_s=1.0, device="furnace"))


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [
        (math.nan, Status.OK, "NaN"),
        (math.nan, Status.SENSOR_FAIL, "sensor_fail"),
        (math.nan, Status.OVERLOAD, "overload"),
        (math.nan, Status.UNDERRANGE, "underrange"),
    ],
)
def test_a_reading_that_is_no_value_is_raised_in_the_devices_word(
    value: float, status: Status, said: str
) -> None:
    watch = sensor()
    assert not watch.see(0, value, status)
    assert not watch.see(0.99, value, status)
    assert watch.see(1.0, value, status)
    assert f"furnace says {said}" in watch.words
    assert not watch.see(2.0, 21.0)


def test_silence_says_nothing_about_a_sensor() -> None:
    watch = sensor()
    for tick in range(50):
        assert not watch.see(tick, math.nan, Status.COMM_ERROR)
    watch.see(50, math.nan, Status.SENSOR_FAIL)
    assert watch.see(51, math.nan, Status.COMM_ERROR)


# --- outputs ------------------------------------------------------------------------------------


def output(commands: list[tuple[float, float]]) -> Watch:
    rule = OutputRule(
        SETPOINT, tolerance=0.1, settle_s=5.0, action="abort", commanded=lambda _: commands
    )
    return Watch(rule)


def test_a_turned_knob_is_raised_after_the_settle_time() -> None:
    watch = output([(20.0, math.inf)])
    assert not watch.see(10.0, 20.1, channel=SETPOINT.name)
    assert not watch.see(11.0, 300.0, channel=SETPOINT.name)
    assert not watch.look(15.9)
    assert watch.look(16.0)
    assert "reads 300 degC, commanded was 20" in watch.words
    assert not watch.see(17.0, 20.0, channel=SETPOINT.name)


def test_an_output_may_read_what_was_commanded_within_the_settle_time() -> None:
    watch = output([(20.0, 10.0), (400.0, math.inf)])
    for at_s in (10.5, 12.0, 14.9):
        assert not watch.see(at_s, 20.0, channel="heater.setpoint")
    for at_s in (15.1, 20.0):
        assert not watch.see(at_s, 20.0, channel="heater.setpoint")
    assert watch.look(20.1)


def test_an_output_may_read_either_value_while_nobody_knows_whether_the_new_one_arrived() -> None:
    watch = output([(20.0, math.inf), (400.0, math.inf)])
    for at_s, value in ((10.0, 20.0), (30.0, 400.0), (50.0, 20.0), (60.0, 500.0)):
        assert not watch.see(at_s, value, channel=SETPOINT.name)
    assert watch.look(65.0)
    assert "commanded was 20 or, not for certain, 400 (within 0.1)" in watch.words


def test_an_output_that_was_never_commanded_is_not_judged() -> None:
    watch = output([])
    assert not watch.see(0, 300.0, channel="heater.setpoint")
    assert not watch.look(100)


def test_a_reading_that_is_no_value_neither_begins_nor_ends_a_disagreement() -> None:
    watch = output([(20.0, math.inf)])
    for at_s in (10.0, 16.0, 30.0):
        assert not watch.see(at_s, math.nan, Status.SENSOR_FAIL, channel=SETPOINT.name)
    watch.see(31.0, 300.0, channel=SETPOINT.name)
    assert watch.see(36.0, math.nan, Status.SENSOR_FAIL, channel=SETPOINT.name)


# --- physics ------------------------------------------------------------------------------------


def rate(**changes: object) -> Watch:
    table = {"channel": "heater.pv", "max_per_s": 2.0, "window_s": 10.0, **changes}
    return Watch(RateRule(PV, RateWatch.model_validate(table)))


def ramp(watch: Watch, slope: float, until_s: float = 10.0) -> bool:
    seen = [watch.see(tick / 10, slope * tick / 10) for tick in range(int(until_s * 10) + 1)]
    return seen[-1]


def test_a_rate_at_the_limit_is_good_and_one_above_is_not() -> None:
    assert not ramp(rate(), 1.999)
    assert ramp(rate(), 2.01)
    assert ramp(rate(), -2.01)


def test_a_rate_is_not_judged_before_most_of_its_window_was_seen() -> None:
    assert not ramp(rate(), 50.0, until_s=7.5)
    assert ramp(rate(), 50.0, until_s=8.5)


def test_a_rate_may_be_watched_in_one_direction_only() -> None:
    assert not ramp(rate(direction="rise"), -50.0)
    assert ramp(rate(direction="fall"), -50.0)


def test_one_outlier_is_no_rate() -> None:
    watch = rate()
    for tick in range(100):
        assert not watch.see(tick / 10, 35.0 if tick == 50 else 20.0)


def test_a_reading_that_is_no_value_neither_begins_a_rate_nor_ends_one() -> None:
    watch = rate()
    for tick in range(400):
        at_s = tick / 10
        if tick % 7 == 3:
            watch.see(at_s, math.nan, Status.SENSOR_FAIL)
        else:
            watch.see(at_s, 20.0 + max(0, tick - 200))
        assert tick >= 200 or not watch.changes
    assert [change.kind for change in watch.changes] == ["raised"]
    assert "nan" not in watch.words


class Furnace:
    """Readings of a heater, one set a second."""

    def __init__(self, rule: Rule) -> None:
        self.watch = Watch(rule)
        self.now_s = 0.0

    def run(self, seconds: int, setpoint: float, pv: float, power: float, rise: float = 0) -> bool:
        for _ in range(seconds):
            self.now_s += 1
            pv += rise
            values = {"heater.setpoint": setpoint, "heater.power": power, "heater.pv": pv}
            self.watch.book.feed([Sample(n, v, self.now_s) for n, v in values.items()])
            self.watch.look(self.now_s)
        return bool(self.watch.book.raised())


def test_no_rise_although_asked_to_heat_is_raised_when_the_time_is_over() -> None:
    furnace = Furnace(NoRiseRule(HEATER, "degC", action="abort"))
    assert not furnace.run(300, 600.0, 25.0, 100.0)
    assert furnace.run(2, 600.0, 25.0, 100.0)
    assert "although heater.setpoint = 600 at 100 % power" in furnace.watch.words
    assert "check heater, fuse and thermocouple" in furnace.watch.words


def test_a_furnace_that_rises_slowly_but_enough_is_good() -> None:
    furnace = Furnace(NoRiseRule(HEATER, "degC", action="abort"))
    assert not furnace.run(2000, 600.0, 25.0, 100.0, rise=0.01)


def test_no_rise_is_expected_near_the_setpoint_or_at_little_power() -> None:
    furnace = Furnace(NoRiseRule(HEATER, "degC", action="abort"))
    assert not furnace.run(1000, 600.0, 585.0, 100.0)
    assert not furnace.run(1000, 600.0, 25.0, 40.0)


def test_power_although_asked_not_to_heat_is_raised_also_at_setpoint_zero() -> None:
    furnace = Furnace(UnaskedPowerRule(HEATER, "degC", action="safe_shutdown"))
    assert not furnace.run(30, 0.0, 25.0, 40.0)
    assert furnace.run(1, 0.0, 25.0, 40.0)
    assert "heater.power = 40 % although heater.setpoint = 0" in furnace.watch.words
    assert not furnace.run(1, 0.0, 25.0, 5.0)


def test_power_at_a_setpoint_that_asks_for_it_is_good() -> None:
    furnace = Furnace(UnaskedPowerRule(HEATER, "degC", action="safe_shutdown"))
    assert not furnace.run(500, 600.0, 610.0, 40.0)


def test_a_rise_without_any_power_is_a_welded_relay() -> None:
    furnace = Furnace(UnaskedRiseRule(HEATER, "degC", action="safe_shutdown"))
    assert not furnace.run(120, 0.0, 25.0, 0.0)
    assert not furnace.run(40, 0.0, 25.0, 0.0, rise=0.1)
    assert furnace.run(20, 0.0, 29.0, 0.0, rise=0.1)
    assert "cut the heater's supply" in furnace.watch.words


def test_heat_under_way_may_arrive_after_the_demand_has_ended() -> None:
    furnace = Furnace(UnaskedRiseRule(HEATER, "degC", action="safe_shutdown"))
    furnace.run(100, 600.0, 500.0, 100.0, rise=1.0)
    assert not furnace.run(50, 20.0, 600.0, 0.0, rise=0.5)
    assert not furnace.run(300, 20.0, 625.0, 0.0, rise=-0.5)


def test_an_unasked_rise_holds_until_cooling_is_seen() -> None:
    furnace = Furnace(UnaskedRiseRule(HEATER, "degC", action="safe_shutdown"))
    furnace.run(70, 0.0, 100.0, 0.0)
    assert furnace.run(60, 0.0, 100.0, 0.0, rise=1.0)
    assert furnace.run(600, 0.0, 160.0, 0.0)  # in balance: no rise any more, and no good sign
    assert furnace.run(1, 0.0, 155.5, 0.0)
    assert not furnace.run(1, 0.0, 154.9, 0.0)


def test_the_time_to_rise_begins_anew_when_the_furnace_is_asked_again() -> None:
    furnace = Furnace(NoRiseRule(HEATER, "degC", action="abort"))
    assert not furnace.run(200, 600.0, 25.0, 100.0)
    assert not furnace.run(10, 20.0, 25.0, 0.0)
    assert not furnace.run(200, 600.0, 25.0, 100.0)
    assert furnace.run(110, 600.0, 25.0, 100.0)


def test_a_broken_sensor_does_not_end_an_unasked_rise() -> None:
    furnace = Furnace(UnaskedRiseRule(HEATER, "degC", action="safe_shutdown"))
    furnace.run(70, 0.0, 100.0, 0.0)
    assert furnace.run(60, 0.0, 100.0, 0.0, rise=1.0)
    assert furnace.run(5, 0.0, math.nan, 0.0)
    assert furnace.run(60, 0.0, 160.0, 0.0)


# --- the box itself, and which rules a profile makes ----------------------------------------------


def book(**changes: object) -> RuleBook:
    of = profile(**changes)
    registry = ChannelRegistry.from_profile(of, FAMILIES)
    return RuleBook.of(of, registry, commanded=lambda _: [], now_s=0.0)


def raised_by(channel: str, value: float, **safety: object) -> dict[str, str]:
    rules = book(safety=safety)
    rules.feed([Sample(channel, value, 0.0)])
    return {change.rule: change.action for change in rules.look(0.0)}


def test_little_disk_warns_and_less_aborts_but_the_spools_disk_only_warns() -> None:
    assert raised_by(RUNS_FREE, 1000.0) == {}
    assert list(raised_by(RUNS_FREE, 999.0).values()) == ["warn"]
    assert sorted(raised_by(RUNS_FREE, 99.0).values()) == ["abort", "warn"]
    assert list(raised_by(SPOOL_FREE, 0.0).values()) == ["warn"]


def test_a_recorder_that_lags_is_said_and_may_be_acted_upon() -> None:
    assert raised_by(RECORDER_LAG, 5.0) == {}
    assert list(raised_by(RECORDER_LAG, 5.1).values()) == ["warn"]
    strict = {"max_lag_s": 1.0, "action": "abort"}
    assert list(raised_by(RECORDER_LAG, 1.1, recorder=strict).values()) == ["abort"]


def test_a_step_cannot_override_what_watches_the_box() -> None:
    rules = book()
    name = f"{RUNS_FREE} below 100 MB"
    assert rules.in_force(name) == "no such alarm"


def test_single_channels_may_have_actions_of_their_own_or_none() -> None:
    broken = {"channels": {"heater.pv": "safe_shutdown", "purge.flow": "off"}, "debounce_s": 0}
    rules = book(safety={"sensor": broken})
    for channel in ("heater.pv", "purge.flow", "balance.mass"):
        rules.feed([Sample(channel, math.nan, 0.0, Status.SENSOR_FAIL)])
    assert {change.rule: change.action for change in rules.look(0.0)} == {
        "sensor heater.pv": "safe_shutdown",
        "sensor balance.mass": "abort",
    }


def test_a_device_that_may_be_missing_only_warns() -> None:
    devices = profile().model_dump()["devices"]
    devices[0]["required"] = False
    rules = book(devices=devices)
    changes = {change.rule: change.action for change in rules.look(10.0)}
    assert changes == {"stale heater.pv": "warn"}
    for at_s in (20.0, 30.0):
        rules.feed([Sample("heater.pv", math.nan, at_s, Status.SENSOR_FAIL)])
        changes |= {change.rule: change.action for change in rules.look(at_s)}
    assert changes["sensor heater.pv"] == "warn"
