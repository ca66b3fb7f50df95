"""What a method may say: the method TOML page and the method step reference, by sentence."""

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from capa.experiment import method as model
from capa.experiment.method import (
    AcquireStep,
    AlarmOverride,
    ChannelRef,
    CustomStep,
    EndCondition,
    HoldStep,
    Method,
    PromptStep,
    RampStep,
    SafeShutdownStep,
    SetpointStep,
    Step,
    StepKind,
    WaitStep,
)

STEP: TypeAdapter[Step] = TypeAdapter(Step)
HEATER = {"name": "heater.setpoint"}
WHEN = {"channel": "mass_loss_fraction", "op": ">", "value": 0.1}

MINIMAL: dict[str, dict[str, Any]] = {
    "hold": {"target": HEATER, "value": 600.0, "duration_s": 600.0},
    "ramp": {"target": HEATER, "end_value": 600.0, "duration_s": 300.0},
    "setpoint": {"target": HEATER, "value": 100.0},
    "wait": {"duration_s": 30.0},
    "prompt": {"message": "Apply spark"},
    "acquire": {"duration_s": 600.0},
    "safe_shutdown": {},
    "custom": {"handler_id": "my_lab.purge_check"},
}
FIXED = ["hold", "ramp", "wait", "acquire"]


def step(kind: str, **changes: object) -> Any:  # noqa: ANN401 - any of eight models
    fields = {"kind": kind, **MINIMAL[kind], **changes}
    return STEP.validate_python({k: v for k, v in fields.items() if v is not ...})


def method(*steps: Step) -> Method:
    return Method(name="m", steps=steps)


def refusal(kind: str, **changes: object) -> str:
    with pytest.raises(ValidationError) as caught:
        step(kind, **changes)
    return str(caught.value)


def test_there_are_eight_step_kinds_and_the_models_know_them_all() -> None:
    assert set(get_args(StepKind)) == set(MINIMAL) == set(model.STEP_MODELS)


@pytest.mark.parametrize("kind", MINIMAL)
def test_the_kind_decides_which_step_a_table_is(kind: str) -> None:
    assert type(step(kind)) is model.STEP_MODELS[kind]
    assert step(kind).kind == kind


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="hold"):
        STEP.validate_python({"kind": "soak"})


def test_a_step_without_a_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        STEP.validate_python({"duration_s": 5.0})


@pytest.mark.parametrize("kind", MINIMAL)
def test_every_step_takes_notes_and_safety_overrides(kind: str) -> None:
    made = step(kind, notes="hot", safety_overrides=[{"alarm_id": "a"}])
    assert made.notes == "hot"
    assert made.safety_overrides == (AlarmOverride(alarm_id="a"),)


@pytest.mark.parametrize("kind", MINIMAL)
def test_every_step_refuses_a_field_it_does_not_know(kind: str) -> None:
    assert "surprise" in refusal(kind, surprise=1)


@pytest.mark.parametrize("kind", MINIMAL)
def test_a_step_never_changes(kind: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        step(kind).notes = "later"


@pytest.mark.parametrize("kind", [k for k, fields in MINIMAL.items() if fields])
def test_every_required_field_of_a_step_is_required(kind: str) -> None:
    for name in MINIMAL[kind]:
        refusal(kind, **{name: ...})


def test_a_method_needs_a_name_and_at_least_one_step() -> None:
    with pytest.raises(ValidationError):
        Method.model_validate({"steps": [{"kind": "wait", "duration_s": 1.0}]})
    with pytest.raises(ValidationError):
        Method(name="empty", steps=())


def test_a_method_without_a_description_has_an_empty_one() -> None:
    assert method(step("wait")).description == ""


def test_a_method_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        method(step("wait")).name = "other"  # type: ignore[misc]  # what the test is about


# hold


def test_a_hold_without_duration_and_condition_is_refused_in_these_words() -> None:
    message = "hold step needs either duration_s or end_condition"
    assert message in refusal("hold", duration_s=...)


def test_a_hold_may_have_a_condition_only_or_both() -> None:
    assert step("hold", duration_s=..., end_condition=WHEN).duration_s is None
    both = step("hold", end_condition=WHEN)
    assert (both.duration_s, both.end_condition) == (600.0, EndCondition(**WHEN))


def test_a_hold_may_last_no_time_but_not_less() -> None:
    assert step("hold", duration_s=0).duration_s == 0
    assert "greater than or equal to 0" in refusal("hold", duration_s=-1)


# ramp


def test_a_ramp_without_rate_and_duration_is_refused() -> None:
    message = "ramp step needs either rate_per_second or duration_s"
    assert message in refusal("ramp", duration_s=...)


def test_a_ramp_keeps_rate_and_duration_even_if_they_disagree() -> None:
    made = step("ramp", rate_per_second=0.5, duration_s=1.0)
    assert (made.rate_per_second, made.duration_s) == (0.5, 1.0)


def test_a_ramp_without_a_start_begins_at_the_current_setpoint() -> None:
    assert step("ramp").start_value is None


def test_a_ramp_takes_longer_than_no_time() -> None:
    assert "greater than 0" in refusal("ramp", duration_s=0)


def test_a_ramp_rate_of_zero_is_left_to_the_run() -> None:
    assert step("ramp", duration_s=..., rate_per_second=0.0).rate_per_second == 0


# wait


def test_a_wait_without_duration_and_condition_is_refused() -> None:
    message = "wait step needs either duration_s or end_condition"
    assert message in refusal("wait", duration_s=..., timeout_s=5.0)


def test_a_wait_warns_on_timeout_unless_told_otherwise() -> None:
    assert step("wait").on_timeout == "warn"
    for policy in ("warn", "abort", "safe_shutdown"):
        assert step("wait", on_timeout=policy).on_timeout == policy
    refusal("wait", on_timeout="ignore")


def test_a_wait_may_last_no_time_but_its_timeout_is_longer_than_none() -> None:
    assert step("wait", duration_s=0).duration_s == 0
    refusal("wait", duration_s=-0.1)
    refusal("wait", timeout_s=0)


# prompt, acquire, safe_shutdown, custom


def test_a_prompt_has_a_default_title() -> None:
    assert step("prompt").title == "Operator confirmation"


def test_a_prompt_timeout_is_optional_and_longer_than_none() -> None:
    assert step("prompt").timeout_s is None
    refusal("prompt", timeout_s=0)


def test_an_acquire_takes_longer_than_no_time() -> None:
    refusal("acquire", duration_s=0)


def test_a_safe_shutdown_needs_neither_targets_nor_a_dwell() -> None:
    made = step("safe_shutdown")
    assert (made.cool_target, made.duration_s) == ({}, None)


def test_a_safe_shutdown_dwell_may_be_no_time_but_not_less() -> None:
    assert step("safe_shutdown", duration_s=0.0).duration_s == 0
    refusal("safe_shutdown", duration_s=-1)


def test_a_safe_shutdown_maps_channels_to_setpoints() -> None:
    made = step("safe_shutdown", cool_target={"heater.setpoint": 25, "purge.flow": 0})
    assert made.cool_target == {"heater.setpoint": 25.0, "purge.flow": 0.0}


def test_the_params_of_a_custom_step_are_free() -> None:
    params = {"deep": {"list": [1, "two"]}, "flag": True}
    assert step("custom", params=params).params == params
    assert step("custom").params == {}


# supporting types


def test_a_channel_ref_is_a_name_and_nothing_else() -> None:
    with pytest.raises(ValidationError):
        ChannelRef.model_validate({"name": "a", "device": "b"})


@pytest.mark.parametrize("op", [">", ">=", "<", "<=", "=="])
def test_an_end_condition_compares_in_five_ways(op: str) -> None:
    assert EndCondition.model_validate({**WHEN, "op": op}).op == op


@pytest.mark.parametrize("op", ["!=", "=", "=>", ""])
def test_an_end_condition_compares_in_no_other_way(op: str) -> None:
    with pytest.raises(ValidationError):
        EndCondition.model_validate({**WHEN, "op": op})


def test_an_alarm_override_needs_an_alarm_and_disables_nothing_by_default() -> None:
    made = AlarmOverride(alarm_id="heater_high_temp")
    assert (made.threshold, made.disable) == (None, False)
    with pytest.raises(ValidationError):
        AlarmOverride.model_validate({"threshold": 850.0})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), "600", True, None])
def test_a_setpoint_is_a_finite_number_and_not_something_like_one(bad: object) -> None:
    refusal("setpoint", value=bad)


def test_a_whole_number_is_a_number() -> None:
    assert step("setpoint", value=600).value == 600.0


# total_duration_s


def test_the_total_duration_is_the_sum_when_every_step_has_one() -> None:
    steps = [step(kind) for kind in FIXED] + [step("safe_shutdown", duration_s=0.0)]
    assert method(*steps).total_duration_s() == 600.0 + 300.0 + 30.0 + 600.0


@pytest.mark.parametrize(
    "unbounded",
    [
        HoldStep(target=ChannelRef(**HEATER), value=1.0, end_condition=EndCondition(**WHEN)),
        WaitStep(end_condition=EndCondition(**WHEN), timeout_s=10.0),
        PromptStep(message="go on"),
        PromptStep(message="go on", timeout_s=60.0),
        SafeShutdownStep(),
        RampStep(target=ChannelRef(**HEATER), end_value=600.0, rate_per_second=0.1667),
        CustomStep(handler_id="x"),
        SetpointStep(target=ChannelRef(**HEATER), value=1.0),
    ],
    ids=lambda s: s.kind,
)
def test_the_total_duration_is_unknown_with_one_step_that_has_none(unbounded: Step) -> None:
    assert method(AcquireStep(duration_s=5.0), unbounded).total_duration_s() is None


def test_a_hold_with_both_counts_with_its_duration() -> None:
    assert method(step("hold", end_condition=WHEN)).total_duration_s() == 600.0
