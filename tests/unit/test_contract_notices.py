"""Adapters that break a promise, each in one way: the contract's tests must notice."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio

from adapters.alicat import FAMILY as ALICAT
from adapters.alicat.adapter import AlicatAdapter
from adapters.alicat.family import AlicatFamily
from adapters.alicat.twin import AlicatTwin
from capa.channels.sample import Status
from capa.devices.adapter import (
    DeviceAdapter,
    FieldInfo,
    FieldWrite,
    Identity,
    Reading,
    WriteAck,
)
from capa.devices.contract import AdapterContract, Case
from capa.devices.link import Link, Priority
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.devices.twin import PlantPort, TwinDevice, TwinReply
from capa.errors import CapaError, DeviceError, FrameError, LinkTimeoutError

LINE = LinkSpec(name="line", port="memory", reply_timeout_s=0.3, reconnect_max_s=1.0)
PURGE = DeviceSpec(name="purge", adapter="alicat", link="line")


class RepeatsOldValues(AlicatAdapter):
    """The classic: no answer, so it says again what it said last."""

    _last: Sequence[Reading] = ()

    async def poll(self) -> Sequence[Reading]:
        try:
            self._last = await super().poll()
        except CapaError:
            if not self._last:
                raise
        return self._last


class SwallowsSensorFaults(AlicatAdapter):
    async def poll(self) -> Sequence[Reading]:
        return [
            Reading(one.field, 0.0 if math.isnan(one.value) else one.value, one.at_s)
            for one in await super().poll()
        ]


class OpensByWriting(AlicatAdapter):
    async def open(self) -> Identity:
        await self.write(FieldWrite("setpoint", 1.0), priority=Priority.COMMAND)
        return await super().open()


class BelievesWhatItSent(AlicatAdapter):
    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        await trio.lowlevel.checkpoint()
        return WriteAck(True, readback=write.value)


class StampsWithTheFuture(AlicatAdapter):
    async def poll(self) -> Sequence[Reading]:
        return [
            Reading(one.field, one.value, one.at_s + 60.0, one.status, one.native)
            for one in await super().poll()
        ]


class TrustsAnyLine(AlicatAdapter):
    """No unit letter, no form, no end of line: whatever numbers came are good."""

    async def poll(self) -> Sequence[Reading]:
        answer = await self._exchange(b"A\r", _first_line, priority=Priority.POLL)
        words = [word for word in answer.value.split() if word[:1] in b"+-0123456789"]
        value = float(len(words))
        return [Reading("pressure", value, answer.at_s, Status.OK, answer.value.decode("latin-1"))]


class CannotBeReopened(AlicatAdapter):
    _opened = 0

    async def open(self) -> Identity:
        self._opened += 1
        identity = await super().open()
        return Identity(identity.family, serial=str(self._opened))


class KeepsItselfBusyWhenCancelled(AlicatAdapter):
    """What it took at the start is given back at the end, and a cancellation has no end."""

    _busy = False

    async def poll(self) -> Sequence[Reading]:
        while self._busy:  # noqa: ASYNC110 - as badly as such a driver does it
            await trio.sleep(0.1)
        self._busy = True
        readings = await super().poll()
        self._busy = False
        return readings


class StaysBusyWithACancelledWrite(AlicatAdapter):
    _busy = False

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        if self._busy:
            return WriteAck(False, "busy")
        self._busy = True
        ack = await super().write(write, priority=priority)
        self._busy = False
        return ack


class SwallowsGarbage(AlicatAdapter):
    async def poll(self) -> Sequence[Reading]:
        try:
            return await super().poll()
        except FrameError:
            return []


class AsksForEver(AlicatAdapter):
    async def poll(self) -> Sequence[Reading]:
        for _ in range(20):
            try:
                return await super().poll()
            except LinkTimeoutError:
                continue
        return await super().poll()


class SaysDoneWhileMute(AlicatAdapter):
    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        try:
            return await super().write(write, priority=priority)
        except LinkTimeoutError:
            return WriteAck(True, readback=write.value)


class OpensWhateverIsThere(AlicatAdapter):
    async def open(self) -> Identity:
        try:
            return await super().open()
        except LinkTimeoutError:
            return Identity(self.family)


class WritesBehindThePolls(AlicatAdapter):
    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        return await super().write(write, priority=Priority.POLL)


class CannotBeCancelled(AlicatAdapter):
    async def poll(self) -> Sequence[Reading]:
        with trio.CancelScope(shield=True):
            readings = await super().poll()
        return readings  # noqa: RET504 - mypy: a scope may end without it


class ZeroesWhenOpened(AlicatAdapter):
    """No output moves at the first opening, where all is zero yet."""

    async def open(self) -> Identity:
        await self.write(FieldWrite("setpoint", 0.0), priority=Priority.COMMAND)
        return await super().open()


class KeepsItsOwnSetpointAlive(AlicatAdapter):
    async def poll(self) -> Sequence[Reading]:
        await self.write(FieldWrite("setpoint", 0.0), priority=Priority.POLL)
        return await super().poll()


class BelievesItsOwnEcho(AlicatAdapter):
    """What is heard after a command is its answer, and no read-back is asked for."""

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        if write.field != "setpoint" or not math.isfinite(write.value):
            return WriteAck(False, "no")
        await self._exchange(f"AS{write.value:.2f}\r".encode(), _first_line, priority=priority)
        return WriteAck(True, readback=write.value)


class DoesNotHearRefusals(AlicatAdapter):
    """Something of this unit's came, so all is well."""

    async def write(self, write: FieldWrite, *, priority: Priority) -> WriteAck:
        with contextlib.suppress(DeviceError, FrameError):
            await super().write(write, priority=priority)
        return WriteAck(True, readback=write.value)


class PromisesMoreThanItReads(AlicatAdapter):
    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        return {**super().fields, "humidity": FieldInfo("humidity", "%")}


class WantsWholeRequests(AlicatTwin):
    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        return super().receive(chunk) if chunk.endswith(b"\r") else ()


class FailsForGarbage(AlicatTwin):
    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        chunk.decode("ascii")
        return super().receive(chunk)


class IsDeafenedByGarbage(AlicatTwin):
    _deaf = False

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        self._deaf = self._deaf or not chunk.isascii()
        return () if self._deaf else super().receive(chunk)


class AnswersWhenAtRest(AlicatTwin):
    """A balance, say, that prints when the pan is at rest, and says its name when switched on."""

    REST_S = 0.1

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        super().__init__(spec, plant)
        self._now_s = plant.now_s
        self._due = [(0.0, TwinReply(b"HELLO\r"))]

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        at_s = self._now_s() + self.REST_S
        self._due += [(at_s, reply) for reply in super().receive(chunk)]
        return ()

    def unasked(self) -> Sequence[TwinReply]:
        now_s = self._now_s()
        said = [reply for at_s, reply in self._due if at_s <= now_s]
        self._due = [(at_s, reply) for at_s, reply in self._due if at_s > now_s]
        return said


class AnswersAtRestUntilThereIsGarbage(AnswersWhenAtRest, IsDeafenedByGarbage):
    pass


class AnswersWholeRequestsAtRest(AnswersWhenAtRest, WantsWholeRequests):
    pass


def _first_line(chunk: bytes) -> bytes | None:
    return chunk


BROKEN: list[tuple[type[AlicatAdapter], str]] = [
    (RepeatsOldValues, "test_a_silent_device_is_an_error_in_time"),
    (SwallowsSensorFaults, "test_a_fault_of_the_device_is_told_and_ends_when_it_ends"),
    (OpensByWriting, "test_opening_reads_only_and_may_be_repeated"),
    (CannotBeReopened, "test_opening_reads_only_and_may_be_repeated"),
    (BelievesWhatItSent, "test_what_is_written_reads_back_and_moves_the_output"),
    (BelievesWhatItSent, "test_what_can_not_be_written_is_refused_in_words"),
    (
        StampsWithTheFuture,
        "test_readings_are_of_known_fields_and_stamped_within_their_exchange",
    ),
    (
        TrustsAnyLine,
        "test_a_fault_of_the_line_is_never_a_wrong_reading_and_ends_when_it_ends",
    ),
    (
        SwallowsGarbage,
        "test_a_fault_of_the_line_is_never_a_wrong_reading_and_ends_when_it_ends",
    ),
    (AsksForEver, "test_a_silent_device_is_an_error_in_time"),
    (SaysDoneWhileMute, "test_what_nobody_answers_has_not_succeeded"),
    (OpensWhateverIsThere, "test_what_nobody_answers_has_not_succeeded"),
    (WritesBehindThePolls, "test_a_write_goes_with_the_priority_that_it_was_given"),
    (
        KeepsItselfBusyWhenCancelled,
        "test_a_cancellation_at_any_await_leaves_the_next_exchange_right",
    ),
    (
        StaysBusyWithACancelledWrite,
        "test_a_cancellation_at_any_await_leaves_the_next_exchange_right",
    ),
    (ZeroesWhenOpened, "test_what_was_commanded_outlives_openings_and_polls"),
    (KeepsItsOwnSetpointAlive, "test_what_was_commanded_outlives_openings_and_polls"),
    (BelievesItsOwnEcho, "test_what_nobody_answers_has_not_succeeded"),
    (DoesNotHearRefusals, "test_a_fault_of_the_device_is_told_and_ends_when_it_ends"),
    (
        PromisesMoreThanItReads,
        "test_readings_are_of_known_fields_and_stamped_within_their_exchange",
    ),
    (CannotBeCancelled, "test_a_cancellation_at_any_await_leaves_the_next_exchange_right"),
]


def contract_of(adapter: type[AlicatAdapter] | None, twin: type[AlicatTwin] = AlicatTwin) -> Any:  # noqa: ANN401 - any test, by name
    class Family(AlicatFamily):
        def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
            return ALICAT.create(spec, link) if adapter is None else adapter(spec, link)

        def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
            return twin(spec, plant)

    class Contract(AdapterContract):
        case = Case(family=Family(), device=PURGE, link=LINE, write=FieldWrite("setpoint", 30.0))

    return Contract()


@pytest.mark.parametrize(
    ("adapter", "test"), BROKEN, ids=[f"{one.__name__}-{test[5:25]}" for one, test in BROKEN]
)
def test_an_adapter_that_breaks_a_promise_does_not_pass(
    adapter: type[AlicatAdapter], test: str
) -> None:
    getattr(contract_of(None), test)()
    with pytest.RaisesGroup(
        pytest.RaisesExc((AssertionError, ValueError)), allow_unwrapped=True, flatten_subgroups=True
    ):
        getattr(contract_of(adapter), test)()


@pytest.mark.parametrize(
    "test",
    [
        "test_the_twin_takes_requests_chopped_anyhow_and_survives_garbage",
        "test_probes_change_nothing_and_one_of_them_finds_the_device",
        "test_readings_are_of_known_fields_and_stamped_within_their_exchange",
    ],
)
def test_a_twin_that_answers_when_it_is_at_rest_passes(test: str) -> None:
    getattr(contract_of(None, AnswersWhenAtRest), test)()


@pytest.mark.parametrize(
    "twin",
    [
        WantsWholeRequests,
        FailsForGarbage,
        IsDeafenedByGarbage,
        AnswersAtRestUntilThereIsGarbage,
        AnswersWholeRequestsAtRest,
    ],
)
def test_a_twin_that_does_not_hear_as_a_device_does_does_not_pass(twin: type[AlicatTwin]) -> None:
    test = "test_the_twin_takes_requests_chopped_anyhow_and_survives_garbage"
    getattr(contract_of(None), test)()
    with pytest.RaisesGroup(
        pytest.RaisesExc((AssertionError, ValueError)), allow_unwrapped=True, flatten_subgroups=True
    ):
        getattr(contract_of(None, twin), test)()
