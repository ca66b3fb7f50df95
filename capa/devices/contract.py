# ruff: noqa: S101 - a test suite: assertions are what it is made of
"""What every adapter and its twin promise, as tests that anybody's can be put to.

Derive a class from ``AdapterContract``, give it a ``case``, and let pytest (or unittest, or a plain
call) run its ``test_...`` methods. They need no hardware, no plug-in of pytest and no time: link,
twin and clock are in this process, and the clock jumps over every wait::

    class TestMyFamily(AdapterContract):
        case = Case(
            family=FAMILY,
            device=DeviceSpec(name="meter", adapter="my_family", link="line"),
            link=LinkSpec(name="line", port="memory", baud=9600),
        )

What is checked: the family tells its fields without a link; ``open`` reads only and may be
repeated; readings are stamped within their exchange and keep what the device said; a value that is
written reads back; a line or device in trouble gives errors in time, never a wrong reading, and its
end is the end of it; a cancellation at any await leaves the next exchange right.
"""

import random
from collections.abc import Awaitable, Callable
from itertools import product
from typing import ClassVar

import trio
import trio.testing

from capa.devices.adapter import FieldWrite, Identity, Reading, WriteAck
from capa.devices.contract_bench import LONGEST_S, SETTLED_S, TRIES, Bench, Case, open_bench
from capa.devices.contract_tools import CancelAtStep, alike, in_time, raises, said
from capa.devices.link import Priority, unanswered_s
from capa.devices.poll_cost import TellsPollCost
from capa.devices.probing import OffersProbes
from capa.errors import CapaError, LinkClosedError, LinkError

__all__ = ["AdapterContract", "Bench", "Case"]

LINE_FAULTS = (
    "silence", "mute", "delay", "noise", "truncate", "crc", "wrong_address", "doubled", "echo"
)  # fmt: skip
DEVICE_FAULTS = ("exception", "frozen", "sensor_break")

_MOST_STEPS = 400
_GARBAGE = 200


class AdapterContract:
    """Derive from it; see the module."""

    case: ClassVar[Case]

    def _run(self, check: Callable[[Bench], Awaitable[None]], *, opened: bool = True) -> None:
        async def main() -> None:
            async with open_bench(self.case, opened=opened) as bench:
                await check(bench)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    # --- what needs no link ---------------------------------------------------------------------

    def test_the_family_tells_its_fields_without_a_link(self) -> None:
        """Names are the keys, units are given, and a command writes one field only."""
        case = self.case
        fields = case.family.fields(case.device)
        assert case.family.name == case.device.adapter
        assert case.family.title
        assert fields
        for name, info in fields.items():
            assert info.name == name
            assert info.unit, f"{name} has no unit"
        commands = [info.command for info in fields.values() if info.command is not None]
        assert len(commands) == len(set(commands)), f"a command is given to two fields: {commands}"

    def test_the_cost_of_a_poll_can_be_reckoned(self) -> None:
        """Skipped where the family does not tell."""
        family = self.case.family
        if isinstance(family, TellsPollCost):
            costs = family.poll_cost(self.case.device)
            assert costs
            assert all(cost.request > 0 and cost.reply > 0 for cost in costs)

    # --- the life of a device -------------------------------------------------------------------

    def test_opening_reads_only_and_may_be_repeated(self) -> None:
        """No output moves, and the same device is named each time."""

        async def check(bench: Bench) -> None:
            before = bench.twins.outputs()
            identities = [await bench.adapter.open() for _ in range(3)]
            assert all(isinstance(one, Identity) for one in identities)
            assert identities[0].family == bench.adapter.family == bench.case.family.name
            assert identities == [identities[0]] * 3
            assert bench.twins.outputs() == before
            assert bench.adapter.name == bench.case.device.name
            assert bench.adapter.resource_id == bench.case.link.name

        self._run(check, opened=False)

    def test_what_was_commanded_outlives_openings_and_polls(self) -> None:
        """A cable that was out for a moment, or a daemon that starts again, moves no output."""

        async def check(bench: Bench) -> None:
            if (write := bench.case.write) is None:
                return
            await bench.adapter.write(write, priority=Priority.COMMAND)
            commanded = bench.twins.outputs()
            for doing in (bench.poll, bench.adapter.open, bench.poll):
                await doing()
                assert bench.twins.outputs() == commanded, f"{doing.__name__} moved an output"

        self._run(check)

    def test_a_link_that_closes_and_opens_again_leaves_the_adapter_usable(self) -> None:
        """While the port is gone every call fails at once; twice, since once may be luck."""

        async def check(bench: Bench) -> None:
            for _ in range(2):
                bench.fault("port_gone", active=True)
                await trio.sleep(0.1)
                with trio.fail_after(0.5):
                    await raises(bench.adapter.poll(), LinkClosedError)
                    await raises(bench.adapter.open(), LinkClosedError)
                bench.fault("port_gone", active=False)
                await trio.sleep(2 * bench.case.link.reconnect_max_s)
                await bench.adapter.open()
                await bench.poll_until_right("after the port came back")

        self._run(check)

    # --- readings and writes --------------------------------------------------------------------

    def test_readings_are_of_known_fields_and_stamped_within_their_exchange(self) -> None:
        """With what the device said, as it said it."""

        async def check(bench: Bench) -> None:
            assert bench.truth, "no poll brought a reading"
            for _ in range(3):
                before_s = trio.current_time()
                readings = await bench.adapter.poll()
                after_s = trio.current_time()
                for reading in readings:
                    assert reading.field in bench.adapter.fields
                    assert before_s <= reading.at_s <= after_s
                await trio.sleep(0.2)
            assert any(reading.native for reading in bench.truth.values()), "nothing native is kept"
            told = {name for name, i in bench.adapter.fields.items() if i.command is None}
            unread = sorted(told - bench.truth.keys())
            assert not unread, f"fields that no poll reads: {', '.join(unread)}"

        self._run(check)

    def test_what_is_written_reads_back_and_moves_the_output(self) -> None:
        """Skipped for a device that takes no value."""

        async def check(bench: Bench) -> None:
            write = bench.case.write
            if write is None:
                return
            before = bench.twins.outputs()
            ack = await bench.adapter.write(write, priority=Priority.COMMAND)
            assert ack.accepted, ack.detail
            info = bench.adapter.fields[write.field]
            assert ack.readback is not None
            assert abs(ack.readback - write.value) <= max(info.resolution, 1e-6)
            assert bench.twins.outputs() != before

        self._run(check)

    def test_a_write_goes_with_the_priority_that_it_was_given(self) -> None:
        """All of it, its read-back too: else a safe write would stand behind the polls."""

        async def check(bench: Bench) -> None:
            write = bench.case.write
            if write is None:
                return
            for priority in (Priority.COMMAND, Priority.SAFE):
                bench.heard.priorities.clear()
                await bench.adapter.write(write, priority=priority)
                assert set(bench.heard.priorities) == {priority}, (
                    f"a write with {priority!r} asked with {bench.heard.priorities}"
                )

        self._run(check)

    def test_what_can_not_be_written_is_refused_in_words(self) -> None:
        """An unknown field, a field that is only read, and numbers that are none."""

        async def check(bench: Bench) -> None:
            before = bench.twins.outputs()
            bad = [FieldWrite("no_such_field", 1.0)]
            read_only = (i.name for i in bench.adapter.fields.values() if i.command is None)
            bad += [FieldWrite(name, 1.0) for name in read_only]
            if bench.case.write is not None:
                field_name = bench.case.write.field
                bad += [FieldWrite(field_name, x) for x in (float("nan"), float("inf"))]
            for write in bad:
                ack = await bench.adapter.write(write, priority=Priority.COMMAND)
                assert not ack.accepted, f"{write} was accepted"
                assert ack.detail, f"{write} was refused without a word"
            assert bench.twins.outputs() == before

        self._run(check)

    def test_polls_and_writes_at_once_do_not_mix(self) -> None:
        """Their exchanges take turns."""

        async def check(bench: Bench) -> None:
            async def polls() -> None:
                for _ in range(3):
                    await bench.poll()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(polls)
                nursery.start_soon(polls)
                if (write := bench.case.write) is not None:
                    ack = await bench.adapter.write(write, priority=Priority.SAFE)
                    assert ack.accepted, ack.detail

        self._run(check)

    # --- trouble --------------------------------------------------------------------------------

    def test_a_silent_device_is_an_error_in_time(self) -> None:
        """Within the time that one unanswered question may take, and a second for the rest."""

        async def check(bench: Bench) -> None:
            bench.fault("silence", active=True)
            begun_s = trio.current_time()
            await raises(bench.adapter.poll(), LinkError)
            assert trio.current_time() - begun_s <= unanswered_s(bench.case.link) + 1.0

        self._run(check)

    def test_what_nobody_answers_has_not_succeeded(self) -> None:
        """Neither an opening nor a write; whether the device hears it or not.

        Nor where the adapter hears itself: the echo of a command may look like its answer.
        """

        async def check(bench: Bench) -> None:
            for kind, echo in product(("silence", "mute"), (False, True)):
                bench.fault(kind, active=True)
                bench.fault("echo", active=echo)
                await raises(in_time(bench.adapter.open(), LONGEST_S, "an opening"), CapaError)
                if (write := bench.case.write) is not None:
                    words = f"{kind}{', and an echo' * echo}: the write was accepted"
                    assert not await self._taken(bench, write), words
                bench.fault("echo", active=False)
                bench.fault(kind, active=False)

        self._run(check)

    async def _taken(self, bench: Bench, write: FieldWrite) -> bool:
        doing = bench.adapter.write(write, priority=Priority.COMMAND)
        try:
            return (await in_time(doing, LONGEST_S, "a write")).accepted
        except CapaError:
            return False

    def test_a_fault_of_the_line_is_never_a_wrong_reading_and_ends_when_it_ends(self) -> None:
        """A reply lost, late, cut, doubled, with noise or a wrong sum or address; an echo."""

        async def check(bench: Bench) -> None:
            for kind in LINE_FAULTS:
                value = unanswered_s(bench.case.link) if kind == "delay" else None
                bench.fault(kind, active=True, value=value)
                for _ in range(2):
                    await self._error_or_truth(bench, kind)
                bench.fault(kind, active=False)
                await bench.poll_until_right(f"after {kind}")

        self._run(check)

    async def _error_or_truth(self, bench: Bench, kind: str) -> None:
        try:
            seen = await bench.poll()
        except CapaError:
            return
        assert seen, f"with the fault {kind}, a poll brought neither a reading nor an error"
        wrong = alike(bench.truth, seen, bench.case.slack, all_usable=False)
        assert not wrong, f"with the fault {kind}: {wrong}"

    def test_a_fault_of_the_device_is_told_and_ends_when_it_ends(self) -> None:
        """An error reply, a frozen value, a broken sensor; those that its twin has."""

        async def check(bench: Bench) -> None:
            for kind in DEVICE_FAULTS:
                if not bench.fault(kind, active=True):
                    continue
                trouble = await self._trouble(bench)
                if kind != "frozen":
                    assert trouble, f"{kind}: every reading is usable and no error is raised"
                if kind == "exception" and (write := bench.case.write) is not None:
                    assert not await self._taken(bench, write), "a refused write was accepted"
                bench.fault(kind, active=False)
                await bench.poll_until_right(f"after {kind}")

        self._run(check)

    async def _trouble(self, bench: Bench) -> bool:
        seen: dict[str, Reading] = {}
        try:
            for _ in range(TRIES):
                seen |= await bench.poll()
        except CapaError:
            return True
        return any(not reading.status.usable for reading in seen.values())

    def test_a_cancellation_at_any_await_leaves_the_next_exchange_right(self) -> None:
        """Of a poll, of an opening and of a write: at every step that its task takes."""

        async def check(bench: Bench) -> None:
            actions: list[Callable[[], Awaitable[object]]] = [
                bench.adapter.poll,
                bench.adapter.open,
            ]
            if (write := bench.case.write) is not None:
                actions.append(lambda: bench.adapter.write(write, priority=Priority.COMMAND))
            for action in actions:
                await self._cancelled_everywhere(bench, action)

        self._run(check)

    async def _cancelled_everywhere(
        self, bench: Bench, action: Callable[[], Awaitable[object]]
    ) -> None:
        for step in range(_MOST_STEPS):
            with trio.CancelScope() as scope, CancelAtStep(scope, step):
                await action()
            assert step or scope.cancelled_caught, "a cancellation before its start is not heeded"
            readings = await bench.poll()
            assert readings, f"cancelled at step {step}, the next poll brought nothing"
            again = await in_time(action(), LONGEST_S, f"after a cancellation at step {step}, it")
            refused = isinstance(again, WriteAck) and not again.accepted
            assert not refused, f"after a cancelled write at step {step}: {again}"
            if not scope.cancelled_caught:
                return
        raise AssertionError(f"still not done after {_MOST_STEPS} steps")

    # --- the twin -------------------------------------------------------------------------------

    def test_the_twin_takes_requests_chopped_anyhow_and_survives_garbage(self) -> None:
        """Byte by byte it answers as to the whole; what is no request does not deafen it.

        It answers at once, or, where it also speaks unasked, when it has come to rest.
        """

        async def check(bench: Bench) -> None:
            bench.heard.requests.clear()
            await bench.adapter.poll()
            twin, chopped = (
                bench.case.family.twin(bench.case.device, bench.twins.plant) for _ in range(2)
            )
            for request in bench.heard.requests:
                whole = await said(twin, [request], SETTLED_S)
                assert whole, f"a new twin does not answer {request!r}"
                bytewise = [request[at : at + 1] for at in range(len(request))]
                pieces = await said(chopped, bytewise, SETTLED_S)
                assert len(pieces) == len(whole), f"{request!r} is another, byte by byte"
            for seed in range(_GARBAGE):
                twin.receive(random.Random(seed).randbytes(1 + seed % 64))  # noqa: S311
                twin.line_idle()
            first = bench.heard.requests[0]
            await said(twin, [first], SETTLED_S)  # it may end a line of garbage
            twin.line_idle()
            assert await said(twin, [first], SETTLED_S), "garbage has deafened the twin"

        self._run(check)

    # --- being found ----------------------------------------------------------------------------

    def test_probes_change_nothing_and_one_of_them_finds_the_device(self) -> None:
        """Skipped where the family offers none."""

        async def check(bench: Bench) -> None:
            await trio.lowlevel.checkpoint()
            family = bench.case.family
            if not isinstance(family, OffersProbes):
                return
            twin = family.twin(bench.case.device, bench.twins.plant)
            before, found = twin.outputs(), []
            for probe in family.probes():
                twin.line_idle()
                found.append(probe.recognise(await said(twin, [probe.request], probe.reply_s)))
            assert twin.outputs() == before
            assert any(found), "no probe recognises the family's own twin"

        self._run(check, opened=False)
