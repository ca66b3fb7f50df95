"""The gate: what it refuses, in which words, and what it leaves on record."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import MockClock

from capa.channels.registry import Binding, ChannelRegistry, ResolvedChannel
from capa.channels.sample import Sample
from capa.clock import RunClock
from capa.devices.adapter import CommandResult, DeviceCommand, WriteAck
from capa.devices.link import Priority
from capa.errors import BundleError, LinkTimeoutError
from capa.experiment.authorization import Authorization, AuthorizationError
from capa.runtime.databus import DataBus
from capa.runtime.gate import Gate
from capa.storage.memory import MemoryBundleWriter
from tests.support.engine import PROFILE_FILE, bench_rig, profile, quiet_log

if TYPE_CHECKING:
    from capa.runtime.rig import Rig

HEATER, PURGE = "heater.setpoint", "purge.flow"
DEVICES = {HEATER: "furnace", PURGE: "mfc", "heater.pv": "furnace"}


@dataclass
class FakeRig:
    """A registry, a bus and a list of what was written."""

    profile: Any = field(default_factory=profile)
    profile_file: str = PROFILE_FILE
    bus: DataBus = field(default_factory=DataBus)
    written: list[tuple[str, float]] = field(default_factory=list)
    answer: WriteAck | Exception | None = None
    latency_s: float = 0.01

    @property
    def registry(self) -> ChannelRegistry:
        bound = [
            ResolvedChannel(s.name, s, Binding(s.device, s.field, s.command, "setpoint"))
            if s.device and s.field
            else ResolvedChannel(s.name, s)
            for s in self.profile.channels
        ]
        return ChannelRegistry(bound)

    def tolerance(self, _channel: str) -> float:
        return 0.1

    def hush(self, _for_s: float) -> None:
        """Polls do not get in the way here."""

    async def write(self, channel: str, value: float, *, priority: Priority) -> WriteAck:
        assert priority is Priority.COMMAND
        await trio.sleep(self.latency_s)
        self.written.append((channel, value))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or WriteAck(True, readback=value)


@dataclass
class Setup:
    gate: Gate
    rig: FakeRig
    authorization: Authorization
    bundle: MemoryBundleWriter

    def command(self, channel: str, value: object, **payload: object) -> DeviceCommand:
        return self.authorization.issue(
            kind="set_setpoint",
            target=channel,
            payload={"value": value, "channel": channel, **payload},
        )

    async def send(self, channel: str, value: object) -> CommandResult:
        return await self.gate.dispatch(DEVICES[channel], self.command(channel, value))


def armed(bundle: MemoryBundleWriter | None = None) -> Setup:
    rig = FakeRig()
    gate = Gate(cast("Rig", rig), log=quiet_log())
    setup = Setup(gate, rig, Authorization.mint("maria"), bundle or MemoryBundleWriter())
    gate.begin_run(setup.authorization, setup.bundle, RunClock.start())
    return setup


def test_an_authorization_has_eight_random_bytes() -> None:
    first, second = Authorization.mint("maria"), Authorization.mint("maria")
    assert len(bytes.fromhex(first.id)) == 8
    assert first.id != second.id


def test_nothing_is_issued_after_the_end() -> None:
    authorization = Authorization.mint("maria")
    authorization.disarm()
    with pytest.raises(AuthorizationError, match="the run is over"):
        authorization.issue(kind="set_setpoint", target=HEATER, payload={})


@pytest.mark.parametrize(("by", "confirmed"), [("", "jo"), ("maria", " ")])
def test_a_manual_command_needs_both_names(by: str, confirmed: str) -> None:
    with pytest.raises(AuthorizationError, match="give both names"):
        Authorization.mint("x").issue_manual(
            kind="set_setpoint", target=HEATER, payload={}, issued_by=by, confirmed_by=confirmed
        )


def test_the_payload_of_an_issued_command_cannot_be_changed() -> None:
    payload = {"value": 20.0}
    command = Authorization.mint("maria").issue(kind="k", target=HEATER, payload=payload)
    payload["value"] = 900.0
    assert command.payload["value"] == 20.0
    with pytest.raises(TypeError):
        command.payload["value"] = 900.0  # type: ignore[index]  # that it fails is the point


async def test_a_good_command_passes_and_is_recorded_before_and_after(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    result = await setup.send(HEATER, 600)
    assert result.accepted
    assert result.readback == 600.0
    assert setup.bundle.kinds == ["command.intent", "command.result"]
    intent, outcome = setup.bundle.events
    assert intent.metadata["authorization_id"] == setup.authorization.id
    assert intent.metadata["issued_by"] == "maria"
    assert outcome.metadata["readback"] == 600.0
    assert intent.t_mono_ns < outcome.t_mono_ns


REFUSALS = [
    (HEATER, 700.5, "above limits.max = 700 in bench.toml"),
    (HEATER, -0.5, "below limits.min = 0 in bench.toml"),
    (HEATER, math.nan, "not a finite number"),
    (HEATER, math.inf, "not a finite number"),
    (HEATER, "600", "not a number"),
    (HEATER, None, "not a number"),
    (HEATER, True, "not a number"),
    ("heater.pv", 20.0, "bench.toml gives it no command"),
]


@pytest.mark.parametrize(("channel", "value", "says"), REFUSALS)
async def test_a_bad_value_is_refused_in_words_that_name_the_limit_and_the_file(
    autojump_clock: MockClock, channel: str, value: object, says: str
) -> None:
    setup = armed()
    result = await setup.send(channel, value)
    assert not result.accepted
    assert says in result.detail
    assert setup.rig.written == []
    assert setup.bundle.kinds == ["command.refused"]
    assert setup.bundle.events[0].severity == "warning"


async def test_a_channel_of_another_device_is_refused(autojump_clock: MockClock) -> None:
    setup = armed()
    result = await setup.gate.dispatch("mfc", setup.command(HEATER, 20.0))
    assert "bound to furnace" in result.detail
    result = await setup.gate.dispatch("furnace", setup.command(HEATER, 20.0, device="mfc"))
    assert "bound to furnace" in result.detail
    assert setup.rig.written == []


async def test_an_unknown_channel_and_another_command_are_refused(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    result = await setup.gate.dispatch("furnace", setup.command("heater.setpt", 20.0))
    assert "no channel heater.setpt" in result.detail
    tare = setup.authorization.issue(kind="tare", target=HEATER, payload={"value": 1.0})
    assert "'set_setpoint', not 'tare'" in (await setup.gate.dispatch("furnace", tare)).detail


async def test_a_command_that_nobody_issued_is_refused(autojump_clock: MockClock) -> None:
    setup = armed()
    genuine = setup.command(HEATER, 20.0)
    forged = replace(genuine, payload={**genuine.payload, "value": 699.0})
    foreign = Authorization.mint("mallory").issue(
        kind="set_setpoint", target=HEATER, payload={"value": 1.0}
    )
    for command in (forged, foreign, replace(forged, confirmed_by="maria")):
        result = await setup.gate.dispatch("furnace", command)
        assert "no authorization in force" in result.detail
    assert setup.rig.written == []


async def test_what_was_issued_in_the_run_is_refused_after_it(autojump_clock: MockClock) -> None:
    setup = armed()
    command = setup.command(HEATER, 600.0)
    setup.gate.end_run()
    assert not setup.authorization.armed
    result = await setup.gate.dispatch("furnace", command)
    assert not result.accepted
    assert setup.rig.written == []


async def test_a_disarmed_authorization_is_refused_by_its_id(autojump_clock: MockClock) -> None:
    setup = armed()
    command = setup.command(HEATER, 600.0)
    setup.authorization.disarm()
    result = await setup.gate.dispatch("furnace", command)
    assert f"{setup.authorization.id} is disarmed" in result.detail


async def test_a_manual_command_passes_between_runs_with_both_names(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.end_run()
    manual = Authorization.mint("panel")
    setup.gate.admit_manual(manual)
    command = manual.issue_manual(
        kind="set_setpoint",
        target=HEATER,
        payload={"value": 30.0},
        issued_by="maria",
        confirmed_by="jo",
    )
    assert (await setup.gate.dispatch("furnace", command)).accepted
    plain = manual.issue(kind="set_setpoint", target=HEATER, payload={"value": 30.0})
    assert not (await setup.gate.dispatch("furnace", plain)).accepted


# --- rate ---------------------------------------------------------------------------------------


async def test_a_jump_counts_as_a_steep_ramp(autojump_clock: MockClock) -> None:
    setup = armed()
    setup.gate.note(PURGE, 0.0)
    assert (await setup.send(PURGE, 200.0)).accepted
    result = await setup.send(PURGE, 210.0)
    assert "limits.max_rate_per_s = 20 in bench.toml allows 200" in result.detail
    await trio.sleep(10.1)
    assert (await setup.send(PURGE, 390.0)).accepted


async def test_a_slow_ramp_at_the_very_rate_passes_with_late_ticks(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.note(PURGE, 0.0)
    began_s = trio.current_time()
    for tick in range(200):
        await trio.sleep_until(began_s + tick / 10 + 0.03 * (tick % 3 == 0))
        assert (await setup.send(PURGE, 2.0 * tick)).accepted


async def test_up_and_down_within_the_window_is_still_a_change(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.note(PURGE, 300.0)
    assert (await setup.send(PURGE, 150.0)).accepted
    assert not (await setup.send(PURGE, 50.0)).accepted


@pytest.mark.parametrize("end", ["no reply", "called back"])
@pytest.mark.parametrize(("value", "change"), [(380.0, 370), (20.0, 0), (5.0, 205)])
async def test_a_setpoint_that_may_have_arrived_counts_for_the_rate_and_so_does_the_one_before(
    autojump_clock: MockClock, end: str, value: float, change: float
) -> None:
    setup = armed()
    setup.gate.note(PURGE, 210.0)
    setup.rig.latency_s = 1.0
    async with trio.open_nursery() as nursery:
        setup.rig.answer = LinkTimeoutError(end)
        nursery.start_soon(setup.send, PURGE, 10.0)
        await trio.sleep(0.5)
        if end == "called back":
            setup.gate.recall("the run was asked to stop")
    setup.rig.answer = None
    await trio.sleep(10.5)
    result = await setup.send(PURGE, value)
    assert f"would change it by {change:g} " in result.detail if change else result.accepted


async def test_the_safe_value_is_exempt_from_the_rate(autojump_clock: MockClock) -> None:
    setup = armed()
    setup.gate.note(PURGE, 400.0)
    assert (await setup.send(PURGE, 0.0)).accepted


async def test_an_output_never_commanded_is_judged_by_what_the_bus_last_said(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    assert "unknown value" in (await setup.send(PURGE, 10.0)).detail
    setup.rig.bus.publish([Sample(PURGE, 50.0, trio.current_time())])
    assert (await setup.send(PURGE, 240.0)).accepted


# --- trip, record, exchange ---------------------------------------------------------------------


async def test_a_trip_refuses_everything_until_released(autojump_clock: MockClock) -> None:
    setup = armed()
    setup.gate.latch("over-temperature")
    setup.gate.latch("a later one")
    assert "over-temperature" in (await setup.send(HEATER, 20.0)).detail
    setup.gate.release()
    assert (await setup.send(HEATER, 20.0)).accepted


async def test_a_command_of_a_tripped_rig_is_refused_before_it_is_intended(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.latch("over-temperature")
    await setup.send(HEATER, 600.0)
    assert setup.bundle.kinds == ["command.refused"]
    assert setup.rig.written == []


class SlowBundle(MemoryBundleWriter):
    """A recorder on a slow disk."""

    def __init__(self, seconds: float, error: BundleError | None = None) -> None:
        super().__init__()
        self.seconds, self.error = seconds, error
        self.committed_kinds: list[str] = []

    async def committed(self) -> None:
        kinds = self.kinds
        await trio.sleep(self.seconds)
        if self.error:
            raise self.error
        self.committed_kinds = kinds


async def test_the_intent_is_in_the_file_before_the_first_byte_leaves(
    autojump_clock: MockClock,
) -> None:
    bundle = SlowBundle(3.0)
    setup = armed(bundle)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.send, HEATER, 600.0)
        await trio.sleep(2.9)
        assert setup.rig.written == []
    assert bundle.committed_kinds == ["command.intent"]
    assert setup.rig.written == [(HEATER, 600.0)]


async def test_what_cannot_be_recorded_is_not_sent(autojump_clock: MockClock) -> None:
    setup = armed(SlowBundle(0.1, BundleError("disk full")))
    result = await setup.send(HEATER, 600.0)
    assert "could not be put on record: disk full" in result.detail
    assert setup.rig.written == []


@pytest.mark.parametrize(
    "end",
    [
        Gate.end_run,
        lambda gate: gate.latch("over-temperature"),
        lambda gate: gate.recall("the run was asked to stop"),
    ],
    ids=["the run ends", "a trip latches", "a stop recalls it"],
)
async def test_what_is_taken_back_during_the_commit_is_never_sent(
    autojump_clock: MockClock, end: Callable[[Gate], None]
) -> None:
    setup = armed(SlowBundle(1.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.send, HEATER, 600.0)
        await trio.sleep(0.5)
        end(setup.gate)
    assert setup.rig.written == []


async def test_a_recall_takes_back_what_waits_and_nothing_later(autojump_clock: MockClock) -> None:
    setup = armed()
    setup.gate.recall("the run was asked to stop")
    assert (await setup.send(HEATER, 20.0)).accepted


@pytest.mark.parametrize("end", [Gate.end_run, lambda gate: gate.latch("smoke")])
async def test_what_waits_for_the_wire_is_called_back(
    autojump_clock: MockClock, end: Callable[[Gate], None]
) -> None:
    setup = armed()
    setup.rig.latency_s = 10.0
    results: list[CommandResult] = []

    async def send() -> None:
        results.append(await setup.send(HEATER, 600.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(1)
        end(setup.gate)
    assert setup.rig.written == []
    assert not results[0].accepted
    assert trio.current_time() < 2


async def test_a_command_whose_answer_nobody_waits_for_is_on_record_and_counts_as_given(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.note(HEATER, 20.0)
    setup.rig.latency_s = 1.0
    with trio.move_on_after(0.5):
        await setup.send(HEATER, 600.0)
    assert_nobody_knows(setup, "nobody waited for the answer (Cancelled")


async def test_a_command_on_which_its_driver_breaks_is_on_record_and_counts_as_given(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.note(HEATER, 20.0)
    setup.rig.answer = ZeroDivisionError("a bug of the driver")
    with pytest.raises(ZeroDivisionError):
        await setup.send(HEATER, 600.0)
    assert_nobody_knows(setup, "its driver failed (ZeroDivisionError: a bug of the driver)")
    assert "nobody waited" not in setup.bundle.of_kind("command.result")[0].message


def assert_nobody_knows(setup: Setup, why: str) -> None:
    (result,) = setup.bundle.of_kind("command.result")
    assert result.severity == "error"
    assert why in result.message
    assert setup.gate.commanded(HEATER) == [(20.0, math.inf), (600.0, math.inf)]


async def test_of_many_values_that_may_have_arrived_the_outermost_count_until_one_does(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.note(HEATER, 20.0)
    setup.rig.answer = LinkTimeoutError("no reply")
    for value in (100.0, 60.0, 80.0, 40.0):
        await setup.send(HEATER, value)
    assert setup.gate.commanded(HEATER) == [(v, math.inf) for v in (20.0, 40.0, 100.0)]
    setup.rig.answer = None
    await setup.send(HEATER, 70.0)
    now_s = trio.current_time()
    before = [(v, now_s) for v in (20.0, 40.0, 100.0)]
    assert setup.gate.commanded(HEATER) == [*before, (70.0, math.inf)]


async def test_the_first_command_of_an_output_may_have_left_it_as_it_was_read_before(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.rig.bus.publish([Sample(HEATER, 35.0, trio.current_time())])
    setup.rig.bus.publish([Sample(PURGE, 50.0, trio.current_time())])
    setup.rig.answer = LinkTimeoutError("no reply")
    await setup.send(HEATER, 600.0)
    assert setup.gate.commanded(HEATER) == [(35.0, math.inf), (600.0, math.inf)]
    await setup.send(PURGE, 60.0)
    assert setup.gate.commanded(PURGE) == [], "a flow is not the setpoint that it follows"


@pytest.mark.parametrize("before", [20.0, None])
@pytest.mark.parametrize(
    ("readings", "settled"),
    [
        ([600.0] * 13, [600.0]),
        ([600.05] * 13, [600.0]),
        ([600.0] * 10, None),
        ([600.0] * 5 + [math.nan] * 3 + [600.0] * 5, [600.0]),
        ([600.0] * 8 + [300.0] + [600.0] * 8, None),
        ([300.0] * 30, None),
    ],
)
async def test_a_value_that_may_have_arrived_has_once_it_is_read_back_for_long_enough(
    autojump_clock: MockClock,
    before: float | None,
    readings: list[float],
    settled: list[float] | None,
) -> None:
    setup = armed()
    if before is not None:
        setup.gate.note(HEATER, before)
    setup.rig.answer = LinkTimeoutError("no reply")
    await setup.send(HEATER, 600.0)
    doubtful = [] if before is None else [before, 600.0]
    await reads(setup, readings)
    told = setup.gate.commanded(HEATER)
    assert [v for v, until_s in told if until_s == math.inf] == (settled or doubtful)


async def test_a_value_that_may_have_arrived_has_not_if_the_one_before_is_read_back(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.gate.note(HEATER, 20.0)
    setup.rig.answer = LinkTimeoutError("no reply")
    await setup.send(HEATER, 600.0)
    await reads(setup, [20.0] * 9)
    await setup.send(HEATER, 600.0)
    await reads(setup, [20.0] * 9)
    assert len(setup.gate.commanded(HEATER)) == 2, "each command may arrive"
    await reads(setup, [20.0] * 5)
    assert setup.gate.commanded(HEATER) == [(20.0, math.inf)]


async def reads(setup: Setup, values: list[float]) -> None:
    """Have the heater's setpoint read so, once a second, as the rule that watches it sees it."""
    for value in values:
        await trio.sleep(1)
        setup.rig.bus.publish([Sample(HEATER, value, trio.current_time())])
        setup.gate.commanded(HEATER)


async def test_an_output_of_unknown_value_stays_unknown_by_a_command_that_may_not_have_arrived(
    autojump_clock: MockClock,
) -> None:
    setup = armed()
    setup.rig.answer = LinkTimeoutError("no reply")
    await setup.send(HEATER, 600.0)
    assert setup.gate.commanded(HEATER) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (WriteAck(False, "key locked"), "key locked"),
        (WriteAck(True, readback=590.0), "reads back 590"),
        (WriteAck(True, readback=math.nan), "reads back nan"),
        (LinkTimeoutError("no reply"), "no reply"),
    ],
)
async def test_only_what_the_device_took_is_accepted(
    autojump_clock: MockClock, answer: WriteAck | Exception, says: str
) -> None:
    setup = armed()
    setup.rig.answer = answer
    result = await setup.send(HEATER, 600.0)
    assert not result.accepted
    assert says in result.detail
    assert setup.bundle.of_kind("command.result")[0].severity == "error"


async def test_a_readback_within_the_tolerance_is_accepted(autojump_clock: MockClock) -> None:
    setup = armed()
    setup.rig.answer = WriteAck(True, readback=600.05)
    assert (await setup.send(HEATER, 600.0)).accepted


# --- on the twins -------------------------------------------------------------------------------


@asynccontextmanager
async def gate_on_twins() -> AsyncIterator[tuple[Gate, Authorization, Any]]:
    async with bench_rig() as (rig, twins):
        gate, authorization = Gate(rig, log=quiet_log()), Authorization.mint("maria")
        gate.begin_run(authorization, MemoryBundleWriter(), RunClock.start())
        yield gate, authorization, twins


async def test_a_setpoint_reaches_the_furnace_and_comes_back(autojump_clock: MockClock) -> None:
    async with gate_on_twins() as (gate, authorization, twins):
        command = authorization.issue(kind="set_setpoint", target=HEATER, payload={"value": 412.5})
        result = await gate.dispatch("furnace", command)
        assert result.accepted
        assert result.readback == pytest.approx(412.5, abs=0.1)
        assert twins.outputs()["furnace.setpoint"] == pytest.approx(412.5, abs=0.1)
