"""The method step reference, sentence by sentence, in virtual time."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from capa.channels.sample import Status
from capa.experiment import executor as executor_module
from capa.experiment.authorization import Authorization
from capa.experiment.executor import MethodExecutor, MethodExecutorError
from capa.experiment.method import CustomStep, SafeShutdownStep
from capa.experiment.procedures.base import ProcedureContext
from tests.support.engine import Bench, bench, method

HEATER = {"name": "heater.setpoint"}
LOSS = {"channel": "loss", "op": ">", "value": 0.1}


def hold(value: float = 600.0, **more: object) -> dict[str, Any]:
    return {"kind": "hold", "target": HEATER, "value": value, **more}


def ramp(end: float = 600.0, **more: object) -> dict[str, Any]:
    return {"kind": "ramp", "target": HEATER, "end_value": end, **more}


def setpoint(value: float = 1.0) -> dict[str, Any]:
    return {"kind": "setpoint", "target": HEATER, "value": value}


def wait(**more: object) -> dict[str, Any]:
    return {"kind": "wait", **more}


async def walk(rig: Bench, *steps: Mapping[str, Any]) -> float:
    """Run a method to its end; return how long it took."""
    began_s = trio.current_time()
    await rig.executor.run_to_completion(method(*steps))
    return trio.current_time() - began_s


async def feed(rig: Bench, channel: str, values: dict[float, float]) -> None:
    """Publish values at seconds from now."""
    began_s = trio.current_time()
    for at_s, value in values.items():
        await trio.sleep_until(began_s + at_s)
        rig.publish(channel, value)


# --- every step ---------------------------------------------------------------------------------


async def test_a_step_is_bracketed_by_entered_and_exited(autojump_clock: MockClock) -> None:
    rig = bench()
    override = {"alarm_id": "hot", "threshold": 850.0}
    await walk(rig, {**hold(duration_s=1), "notes": "soak", "safety_overrides": [override]})
    assert rig.kinds() == ["method.step.entered", "method.command.issued", "method.step.exited"]
    entered = rig.bundle.events[0]
    facts = {"step_index": 0, "step_kind": "hold", "target": "heater.setpoint"}
    assert facts.items() <= entered.metadata.items()
    assert entered.metadata["notes"] == "soak"
    assert entered.metadata["safety_overrides"] == [{**override, "disable": False}]
    assert facts.items() <= rig.bundle.events[-1].metadata.items()
    assert {event.severity for event in rig.bundle.events} == {"info"}


async def test_a_step_that_raises_leaves_a_failed_event_and_the_error_as_it_was(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    rig.dispatcher.explode["heater.setpoint"] = OSError("cable")
    with pytest.raises(OSError, match=r"^cable$"):
        await walk(rig, setpoint())
    failed = rig.bundle.of_kind("method.step.failed")[0]
    assert failed.severity == "error"
    assert failed.metadata["error_type"] == "OSError"
    assert failed.metadata["error"] == "cable"
    assert "method.step.exited" not in rig.kinds()


async def test_every_setpoint_written_is_attributed(autojump_clock: MockClock) -> None:
    rig = bench()
    await walk(rig, setpoint(7.0))
    issued = rig.bundle.of_kind("method.command.issued")[0].metadata
    assert issued == {
        "channel": "heater.setpoint",
        "device": "furnace",
        "value": 7.0,
        "step_kind": "setpoint",
        "accepted": True,
        "issued_by": "maria",
        "authorization_id": rig.ctx.authorization.id,
    }
    assert rig.dispatcher.commands[0].kind == "set_setpoint"
    assert isinstance(rig.ctx.authorization, Authorization)
    assert rig.ctx.authorization.issued(rig.dispatcher.commands[0])


async def test_a_refused_setpoint_fails_its_step(autojump_clock: MockClock) -> None:
    rig = bench()
    rig.dispatcher.refuse["heater.setpoint"] = "above limits.max"
    with pytest.raises(
        MethodExecutorError, match=r"heater\.setpoint = 1 refused: above limits\.max"
    ):
        await walk(rig, setpoint(), wait(duration_s=1))
    assert rig.bundle.of_kind("method.command.issued")[0].metadata["accepted"] is False
    assert rig.kinds()[-1] == "method.step.failed"


@pytest.mark.parametrize(
    ("channel", "says"), [("heater.setpt", "did you mean"), ("loss", "derived")]
)
async def test_a_target_that_cannot_be_commanded_fails_its_step(
    autojump_clock: MockClock, channel: str, says: str
) -> None:
    with pytest.raises(MethodExecutorError, match=says):
        await walk(bench(), {"kind": "setpoint", "target": {"name": channel}, "value": 1.0})


# --- hold ---------------------------------------------------------------------------------------


async def test_a_hold_writes_first_and_waits_then(autojump_clock: MockClock) -> None:
    rig = bench()
    assert await walk(rig, hold(600.0, duration_s=14_400)) == 14_400
    assert rig.dispatcher.sent == [(rig.dispatcher.sent[0][0], "heater.setpoint", 600.0)]


async def test_a_hold_of_no_duration_is_a_setpoint(autojump_clock: MockClock) -> None:
    rig = bench()
    assert await walk(rig, hold(5.0, duration_s=0)) == 0
    assert rig.dispatcher.values == [5.0]


@pytest.mark.parametrize(("fires_at_s", "ends_at_s"), [(5.0, 5.0), (25.0, 20.0)])
async def test_a_hold_with_both_ends_at_whichever_comes_first(
    autojump_clock: MockClock, fires_at_s: float, ends_at_s: float
) -> None:
    rig = bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, rig, "loss", {1.0: 0.0, fires_at_s: 0.2})
        took_s = await walk(rig, hold(duration_s=20, end_condition=LOSS))
    assert took_s == pytest.approx(ends_at_s)


# --- ramp ---------------------------------------------------------------------------------------


async def test_a_ramp_ticks_at_ten_hertz_and_ends_exactly_on_its_end_value(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    took_s = await walk(rig, ramp(600.0, start_value=0.1, duration_s=1.03))
    assert took_s == pytest.approx(1.03)
    began_s = rig.dispatcher.sent[0][0]
    ticks = [round(at_s - began_s, 6) for at_s, _, _ in rig.dispatcher.sent]
    assert ticks == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.03]
    assert rig.dispatcher.values[0] == 0.1
    assert rig.dispatcher.values[-1] == 600.0


async def test_a_slow_bus_skips_ticks_and_never_sends_a_stale_setpoint(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    rig.dispatcher.latency_s = 0.25
    await walk(rig, ramp(10.0, start_value=0.0, duration_s=1.0))
    began_s = rig.dispatcher.sent[0][0]
    for at_s, _, value in rig.dispatcher.sent[:-1]:
        assert value == pytest.approx((at_s - began_s) * 10.0)
    assert rig.dispatcher.values == pytest.approx([0, 3, 6, 9, 10])


async def test_a_ramp_does_not_drift_on_a_bus_that_takes_time(autojump_clock: MockClock) -> None:
    rig = bench()
    rig.dispatcher.latency_s = 0.03
    await walk(rig, ramp(10.0, start_value=0.0, duration_s=100.0))
    began_s = rig.dispatcher.sent[0][0]
    late_s = [(at - began_s) * 10 - k for k, (at, _, _) in enumerate(rig.dispatcher.sent)]
    assert max(map(abs, late_s)) < 1e-6
    assert len(rig.dispatcher.sent) == 1001


async def test_a_ramp_without_a_start_begins_at_the_latest_sample(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    rig.publish("heater.setpoint", 100.0)
    await walk(rig, ramp(110.0, duration_s=1.0))
    assert rig.dispatcher.values == pytest.approx(range(101, 111))


@pytest.mark.parametrize("status", [None, Status.COMM_ERROR])
async def test_a_ramp_from_nowhere_warns_and_jumps_to_its_end(
    autojump_clock: MockClock, status: Status | None
) -> None:
    rig = bench()
    if status is not None:
        rig.publish("heater.setpoint", math.nan, status)
    assert await walk(rig, ramp(110.0, rate_per_second=0.5)) == 0
    assert rig.dispatcher.values == [110.0]
    assert rig.bundle.of_kind("method.ramp.no_start")[0].severity == "warning"


@pytest.mark.parametrize(("start", "rate"), [(0.0, 2.0), (1200.0, 2.0), (1200.0, -2.0)])
async def test_a_ramp_by_rate_lasts_as_long_as_the_way_takes(
    autojump_clock: MockClock, start: float, rate: float
) -> None:
    assert await walk(bench(), ramp(600.0, start_value=start, rate_per_second=rate)) == 300


async def test_where_both_are_given_the_duration_rules(autojump_clock: MockClock) -> None:
    step = ramp(600.0, start_value=0.0, rate_per_second=0.0, duration_s=5)
    assert await walk(bench(), step) == 5


async def test_a_ramp_of_rate_zero_is_refused_at_run_time(autojump_clock: MockClock) -> None:
    rig = bench()
    with pytest.raises(MethodExecutorError, match="rate_per_second is 0"):
        await walk(rig, ramp(600.0, rate_per_second=0.0))
    assert rig.dispatcher.sent == []


async def test_an_abort_interrupts_a_ramp_within_a_tick(autojump_clock: MockClock) -> None:
    rig = bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_after, rig, 4.05)
        took_s = await walk(rig, ramp(600.0, start_value=0.0, duration_s=600), setpoint())
    assert took_s == pytest.approx(4.05)
    assert len(rig.dispatcher.sent) == 41


async def stop_after(rig: Bench, seconds: float) -> None:
    await trio.sleep(seconds)
    rig.stop.set("the operator said so")


# --- setpoint, acquire --------------------------------------------------------------------------


async def test_a_setpoint_does_not_wait(autojump_clock: MockClock) -> None:
    rig = bench()
    assert await walk(rig, setpoint(1.0), setpoint(2.0)) == 0
    assert rig.dispatcher.values == [1.0, 2.0]


async def test_acquire_sleeps_and_commands_nothing(autojump_clock: MockClock) -> None:
    rig = bench()
    assert await walk(rig, {"kind": "acquire", "duration_s": 60.0}) == 60
    assert rig.dispatcher.sent == []
    assert rig.kinds() == ["method.step.entered", "method.step.exited"]


# --- wait ---------------------------------------------------------------------------------------


async def test_a_wait_ends_with_the_sample_that_satisfies_it(autojump_clock: MockClock) -> None:
    rig = bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, rig, "loss", {1.0: 0.05, 2.0: 0.1, 3.777: 0.11, 4.0: 0.5})
        took_s = await walk(rig, wait(end_condition=LOSS))
    assert took_s == pytest.approx(3.777)


@pytest.mark.parametrize(
    ("op", "meets"), [(">", [3]), (">=", [2, 3]), ("<", [1]), ("<=", [1, 2]), ("==", [2])]
)
async def test_each_operator_compares_as_it_is_written(
    autojump_clock: MockClock, op: str, meets: list[int]
) -> None:
    for value in (1, 2, 3):
        rig = bench()
        condition = {"channel": "loss", "op": op, "value": 2.0}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed, rig, "loss", {1.0: float(value)})
            took_s = await walk(rig, wait(end_condition=condition, duration_s=5))
        assert took_s == (1 if value in meets else 5)


async def test_nothing_unusable_ends_a_wait(autojump_clock: MockClock) -> None:
    rig = bench()

    async def broken_sensor() -> None:
        rig.publish("loss", math.nan)
        await trio.sleep(1)
        rig.publish("loss", 0.5, Status.SENSOR_FAIL)
        await trio.sleep(1)
        rig.publish("loss", 0.5, Status.SETTLING)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(broken_sensor)
        assert await walk(rig, wait(end_condition=LOSS)) == 2


async def test_a_channel_that_stops_delivering_fails_the_step(autojump_clock: MockClock) -> None:
    rig = bench()
    condition = {"channel": "heater.pv", "op": ">", "value": 500.0}
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, rig, "heater.pv", {1.0: 20.0, 2.0: 20.0, 4.0: 20.0})
        with pytest.raises(MethodExecutorError, match=r"heater.pv: no usable sample for 3 s"):
            await walk(rig, hold(end_condition=condition, duration_s=600))
    assert trio.current_time() - began_s == pytest.approx(7)


async def test_error_samples_of_a_dead_device_are_no_sign_of_life(
    autojump_clock: MockClock,
) -> None:
    rig = bench()

    async def dead_device() -> None:
        while True:
            rig.publish("loss", math.nan, Status.COMM_ERROR)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dead_device)
        began_s = trio.current_time()
        with pytest.raises(MethodExecutorError, match="no usable sample for 30 s"):
            await walk(rig, wait(end_condition=LOSS))
        assert trio.current_time() - began_s == executor_module.DEFAULT_STALE_AFTER_S
        nursery.cancel_scope.cancel()


async def test_the_end_of_its_duration_is_a_normal_end_of_a_wait(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    assert await walk(rig, wait(duration_s=30, timeout_s=30, on_timeout="abort")) == 30
    assert "method.wait.timeout" not in rig.kinds()


@pytest.mark.parametrize(
    ("policy", "severity"), [("warn", "warning"), ("safe_shutdown", "warning"), ("abort", "error")]
)
async def test_what_follows_a_timeout_is_the_steps_policy(
    autojump_clock: MockClock, policy: str, severity: str
) -> None:
    rig = bench()
    steps = (wait(duration_s=99, timeout_s=5, on_timeout=policy), setpoint())
    began_s = trio.current_time()
    if policy == "abort":
        with pytest.raises(MethodExecutorError, match="timeout_s = 5 s"):
            await walk(rig, *steps)
    else:
        await walk(rig, *steps)
    assert trio.current_time() - began_s == 5
    assert rig.bundle.of_kind("method.wait.timeout")[0].severity == severity
    assert rig.stop.is_set() is (policy == "safe_shutdown")
    assert len(rig.dispatcher.sent) == (policy == "warn")


async def test_a_timeout_can_stop_a_run_that_has_only_a_bare_event(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    rig.ctx.external_stop = event = trio.Event()
    await walk(rig, wait(duration_s=9, timeout_s=5, on_timeout="safe_shutdown"))
    assert event.is_set()


# --- prompt -------------------------------------------------------------------------------------

PROMPT = {"kind": "prompt", "title": "Insert sample", "message": "Close the door."}


async def confirm_after(rig: Bench, seconds: float) -> None:
    await trio.sleep(seconds)
    rig.ctx.metadata["_prompt_confirmed"] = True


async def test_a_prompt_waits_for_its_confirmation(autojump_clock: MockClock) -> None:
    rig = bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(confirm_after, rig, 3.05)
        took_s = await walk(rig, {**PROMPT, "timeout_s": 600.0})
    assert took_s == pytest.approx(3.1)
    assert rig.kinds("method.prompt") == ["method.prompt.shown", "method.prompt.acknowledged"]
    assert rig.bundle.of_kind("method.prompt.shown")[0].metadata == {
        "title": "Insert sample",
        "message": "Close the door.",
        "timeout_s": 600.0,
    }


async def test_an_old_confirmation_does_not_answer_the_next_prompt(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    rig.ctx.metadata["_prompt_confirmed"] = True
    with pytest.raises(MethodExecutorError):
        await walk(rig, {**PROMPT, "timeout_s": 5.0})


@pytest.mark.parametrize(("timeout_s", "ends_at_s"), [(7.0, 7.0), (None, 30.0)])
async def test_a_prompt_that_nobody_answers_raises(
    autojump_clock: MockClock, timeout_s: float | None, ends_at_s: float
) -> None:
    rig = bench()
    began_s = trio.current_time()
    step = PROMPT if timeout_s is None else {**PROMPT, "timeout_s": timeout_s}
    with pytest.raises(MethodExecutorError, match="nobody confirmed"):
        await walk(rig, step)
    assert trio.current_time() - began_s == pytest.approx(ends_at_s)
    assert rig.bundle.of_kind("method.prompt.unanswered")[0].metadata["reason"] == "timeout"


async def test_with_an_operator_there_a_prompt_without_a_deadline_waits(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    rig.ctx.ui_sink = object()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(confirm_after, rig, 4000)
        assert await walk(rig, PROMPT) == pytest.approx(4000, abs=0.11)


async def test_a_stop_leaves_a_prompt_unanswered_without_raising(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_after, rig, 1.0)
        await walk(rig, {**PROMPT, "timeout_s": 600.0})
    assert rig.bundle.of_kind("method.prompt.unanswered")[0].metadata["reason"] == "external_stop"
    assert rig.kinds()[-2:] == ["method.step.exited", "method.executor.stopped"]


async def test_prompts_acknowledge_themselves_where_that_is_asked_for(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    rig.executor.auto_acknowledge_prompts = True
    assert await walk(rig, PROMPT) == 0
    acknowledged = rig.bundle.of_kind("method.prompt.acknowledged")[0]
    assert acknowledged.metadata["by"] == "auto_acknowledge"


# --- safe_shutdown ------------------------------------------------------------------------------


def shutdown(duration_s: float | None = None, **targets: float) -> dict[str, Any]:
    named = {name.replace("_", "."): value for name, value in targets.items()}
    more = {} if duration_s is None else {"duration_s": duration_s}
    return {"kind": "safe_shutdown", "cool_target": named, **more}


async def test_a_shutdown_commands_every_target_and_dwells(autojump_clock: MockClock) -> None:
    rig = bench()
    assert await walk(rig, shutdown(30, heater_setpoint=25.0, purge_flow=0.0)) == 30
    assert rig.dispatcher.values == [25.0, 0.0]
    assert len(rig.bundle.of_kind("method.command.issued")) == 2


async def test_a_shutdown_without_a_duration_does_not_wait(autojump_clock: MockClock) -> None:
    assert await walk(bench(), shutdown(heater_setpoint=25.0)) == 0


async def test_a_missing_channel_is_a_warning_and_the_others_are_cooled(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    await walk(rig, shutdown(nothing_there=1.0, purge_flow=0.0))
    assert rig.dispatcher.values == [0.0]
    assert rig.bundle.of_kind("method.safe_shutdown.missing_channel")[0].severity == "warning"


@pytest.mark.parametrize("trouble", [OSError("cable"), KeyError("bug"), None])
async def test_the_other_targets_are_cooled_whatever_the_first_one_raised(
    autojump_clock: MockClock, trouble: Exception | None
) -> None:
    rig = bench()
    if trouble is None:
        rig.dispatcher.refuse["heater.setpoint"] = "device says no"
    else:
        rig.dispatcher.explode["heater.setpoint"] = trouble
    with pytest.raises(MethodExecutorError, match=r"safe_shutdown: heater\.setpoint"):
        await walk(rig, shutdown(30, heater_setpoint=25.0, purge_flow=0.0))
    assert rig.dispatcher.values == [25.0, 0.0]


async def test_a_stop_during_the_dwell_ends_it(autojump_clock: MockClock) -> None:
    rig = bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_after, rig, 10)
        assert await walk(rig, shutdown(3600, heater_setpoint=25.0)) == 10


async def test_after_a_stop_only_the_next_stop_ends_the_dwell(autojump_clock: MockClock) -> None:
    rig = bench()
    rig.stop.set("first")
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def second_stop() -> None:
            await trio.sleep(12)
            rig.executor.cooldown_stop.set()

        nursery.start_soon(second_stop)
        step = SafeShutdownStep.model_validate(shutdown(3600, heater_setpoint=25.0))
        await rig.executor.run_segment(step)
    assert trio.current_time() - began_s == 12
    assert rig.dispatcher.values == [25.0]


# --- custom -------------------------------------------------------------------------------------

CUSTOM = {"kind": "custom", "handler_id": "my.zero", "params": {"window_s": 30, "x": [1, {}]}}


async def test_a_custom_step_gets_its_handler_its_step_and_the_context(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    seen: list[tuple[MethodExecutor, CustomStep, ProcedureContext]] = []

    async def handler(executor: MethodExecutor, step: CustomStep, ctx: ProcedureContext) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((executor, step, ctx))

    rig.executor.custom_handlers["my.zero"] = handler
    await walk(rig, CUSTOM, setpoint())
    assert seen[0][0] is rig.executor
    assert seen[0][1].params == CUSTOM["params"]
    assert seen[0][2] is rig.ctx
    assert rig.kinds()[:2] == ["method.step.entered", "method.step.exited"]
    assert rig.dispatcher.values == [1.0]


async def test_an_unknown_handler_fails_at_its_step_and_not_before(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    with pytest.raises(MethodExecutorError) as caught:
        await walk(rig, setpoint(), CUSTOM)
    assert str(caught.value) == (
        "custom step references unknown handler_id 'my.zero'; "
        "loading procedure must register it before run"
    )
    assert rig.dispatcher.values == [1.0]


async def test_a_handler_that_raises_fails_the_step_with_its_own_error(
    autojump_clock: MockClock,
) -> None:
    rig = bench()

    async def handler(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("drift")

    rig.executor.custom_handlers["my.zero"] = handler
    with pytest.raises(ZeroDivisionError, match="drift"):
        await walk(rig, CUSTOM)
    assert rig.kinds()[-1] == "method.step.failed"


# --- walking ------------------------------------------------------------------------------------


async def test_a_stop_is_noticed_at_the_boundary_and_the_walk_returns(
    autojump_clock: MockClock,
) -> None:
    rig = bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_after, rig, 5)
        took_s = await walk(rig, setpoint(), hold(duration_s=14_400), setpoint(9.0))
    assert took_s == 5
    stopped = rig.bundle.of_kind("method.executor.stopped")[0]
    assert stopped.metadata["step_index"] == 1
    assert stopped.metadata["reason"] == "the operator said so"
    assert 9.0 not in rig.dispatcher.values


async def test_a_stop_before_the_first_step_runs_none(autojump_clock: MockClock) -> None:
    rig = bench()
    rig.stop.set("early")
    await walk(rig, setpoint())
    assert rig.kinds() == ["method.executor.stopped"]


async def test_the_current_step_index_follows_the_walk(autojump_clock: MockClock) -> None:
    rig = bench()
    seen: list[int | None] = [rig.executor.current_step_index]
    rig.executor.on_step = lambda: seen.append(rig.executor.current_step_index)
    await walk(rig, setpoint(), setpoint())
    assert sorted(set(seen), key=lambda index: -1 if index is None else index) == [None, 0, 1]


async def test_advance_until_goes_on_from_where_it_was(autojump_clock: MockClock) -> None:
    rig = bench()
    of = method(*(setpoint(float(n)) for n in range(5)))
    await rig.executor.advance_until(of, 2)
    assert rig.dispatcher.values == [0.0, 1.0]
    assert rig.executor.current_step_index == 2
    await rig.executor.advance_until(of, 3)
    assert rig.dispatcher.values == [0.0, 1.0, 2.0]
    await rig.executor.run_to_completion(of)
    assert rig.dispatcher.values == [0.0, 1.0, 2.0, 3.0, 4.0]


async def test_a_segment_does_not_move_the_walk(autojump_clock: MockClock) -> None:
    rig = bench()
    of = method(setpoint(0.0), setpoint(1.0))
    await rig.executor.advance_until(of, 1)
    await rig.executor.run_segment(method(setpoint(7.0), setpoint(8.0)).steps)
    await rig.executor.run_to_completion(of)
    assert rig.dispatcher.values == [0.0, 7.0, 8.0, 1.0]


async def test_after_a_stop_a_segment_only_cools(autojump_clock: MockClock) -> None:
    rig = bench()
    rig.stop.set("over")
    await rig.executor.run_segment(method(setpoint(600.0), shutdown(heater_setpoint=25.0)))
    assert rig.dispatcher.values == [25.0]


def test_the_named_constants_are_the_specifications() -> None:
    assert executor_module.DEFAULT_RAMP_TICK_HZ == 10.0
    assert executor_module.DEFAULT_WAIT_POLL_HZ == 20.0
    assert executor_module.PROMPT_HEADLESS_DEFAULT_TIMEOUT_S == 30.0
