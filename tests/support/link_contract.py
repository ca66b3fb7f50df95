"""What every link promises, whatever it runs on; each transport's test file inherits this."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from capa.devices.link import Priority
from capa.errors import FrameError, LinkClosedError, LinkTimeoutError
from tests.support.bench_device import Bench, open_bench

__all__ = ["LinkContract"]


class LinkContract:
    transport: str

    @pytest.fixture
    def clock(self) -> MockClock | None:
        """Return the clock of virtual time; None where bytes take real time."""
        return None

    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        async with open_bench(self.transport, tmp_path) as bench:
            yield bench

    async def test_a_reply_is_stamped_between_its_request_and_its_arrival(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_reply_late(0.05)
        before_s = trio.current_time()
        answer = await bench.link.exchange(b"x", lambda chunk: chunk)
        assert answer.value == b"Rx"
        assert before_s <= answer.sent_at_s < answer.at_s < answer.received_at_s
        assert answer.received_at_s - answer.sent_at_s >= 0.05
        assert bench.link.stats.exchanges == 1

    async def test_a_reply_in_pieces_is_put_together(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_replies((0.0, b"R"), (0.03, b"pie"), (0.06, b"ces\n"))
        assert await bench.ask("x") == "pieces"

    async def test_a_late_reply_is_never_taken_for_the_next_ones(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_reply_late(0.3)
        with pytest.raises(LinkTimeoutError):
            await bench.ask("first")
        assert await bench.ask("second") == "second"
        assert bench.link.stats.drained_bytes == len(b"Rfirst\n")
        assert bench.link.stats.timeouts == 1

    async def test_a_silent_device_is_an_error_that_names_the_link_and_what_to_check(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_silent()
        with pytest.raises(LinkTimeoutError, match=r"link bench .*0\.1 s.*check power, address"):
            await bench.ask("anyone")
        assert await bench.ask("again") == "again"

    async def test_a_truncated_reply_is_an_error_that_counts_the_bytes(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_replies((0.0, b"Rhal"))
        with pytest.raises(LinkTimeoutError, match="4 bytes of one came"):
            await bench.ask("x")
        assert await bench.ask("whole") == "whole"

    async def test_bytes_that_do_not_fit_are_refused_and_their_rest_is_discarded(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_replies((0.0, b"garb"), (0.01, b"age\n"))
        with pytest.raises(FrameError):
            await bench.ask("first")
        assert await bench.ask("second") == "second"
        assert bench.link.stats.frame_errors == 1

    async def test_bytes_that_nobody_asked_for_are_discarded_and_counted(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_replies((0.0, b"Rfirst\n"), (0.01, b"Rstray\n"))
        assert await bench.ask("first") == "first"
        await trio.sleep(0.05)
        assert await bench.ask("second") == "second"
        assert bench.link.stats.drained_bytes == len(b"Rstray\n")

    async def test_a_babbling_device_is_an_error_that_names_the_link(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_replies(*((0.004 * index, b"!") for index in range(600)))
        with pytest.raises(FrameError):
            await bench.ask("first")
        # A busy machine makes pauses of its own, which are silence; virtual time makes none.
        never_silent = (LinkTimeoutError,) if clock else (LinkTimeoutError, FrameError)
        with pytest.raises(never_silent) as raised:
            await bench.ask("second")
        if isinstance(raised.value, LinkTimeoutError):
            assert "link bench" in str(raised.value)
            assert "does not fall silent" in str(raised.value)

    async def test_a_safe_write_goes_out_even_while_the_line_babbles(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_replies(*((0.01 * index, b"!") for index in range(60)))
        with pytest.raises(FrameError):
            await bench.ask("first")
        begun_s = trio.current_time()
        with pytest.raises((FrameError, LinkTimeoutError)):
            await bench.ask("close the valve", priority=Priority.SAFE)
        await trio.sleep(0.03)  # the refusal of the babble may be sooner than the device's ear
        heard_s, request = bench.device.heard[-1]
        assert request == b"close the valve\n"
        assert heard_s - begun_s < 0.2

    async def test_the_most_urgent_waiter_is_served_first_and_equals_in_order(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        await bench.ask("hello")  # a pipe just opened settles first
        bench.device.next_reply_late(0.06)
        async with trio.open_nursery() as nursery:
            for text, priority in (
                ("running", Priority.POLL),
                ("poll 1", Priority.POLL),
                ("poll 2", Priority.POLL),
                ("command", Priority.COMMAND),
                ("safe", Priority.SAFE),
            ):

                async def ask(text: str = text, priority: Priority = priority) -> None:
                    assert await bench.ask(text, priority=priority) == text

                nursery.start_soon(ask)
                await trio.sleep(0.005)
        wanted = [b"running\n", b"safe\n", b"command\n", b"poll 1\n", b"poll 2\n"]
        assert bench.device.requests[1:] == wanted

    async def test_a_poll_that_waits_for_a_late_reply_gives_way_to_a_safe_write(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_silent()
        with pytest.raises(LinkTimeoutError):
            await bench.ask("lost")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask, "poll")
            await trio.sleep(0.02)
            begun_s = trio.current_time()
            assert await bench.ask("safe", priority=Priority.SAFE) == "safe"
        assert bench.device.requests == [b"lost\n", b"safe\n", b"poll\n"]
        assert bench.device.heard[1][0] - begun_s < 0.2

    async def test_a_waiter_that_is_cancelled_leaves_the_queue_sane(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_reply_late(0.06)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask, "running")
            await trio.sleep(0.01)
            with trio.move_on_after(0.01):
                await bench.ask("given up")
            assert await bench.ask("next") == "next"
        assert bench.device.requests == [b"running\n", b"next\n"]

    async def test_an_exchange_that_is_cancelled_does_not_confuse_the_next(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_reply_late(0.05)
        with trio.move_on_after(0.02):
            await bench.ask("given up")
        assert await bench.ask("next") == "next"

    async def test_an_exchange_once_begun_is_finished_whoever_is_cancelled(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        await bench.ask("in step")
        bench.device.next_reply_late(0.05)
        heard = []
        with trio.move_on_after(0.02):
            heard.append(await bench.ask("begun"))
        assert heard == ["begun"]
        assert await bench.ask("next") == "next"
        assert bench.link.stats.drained_bytes == 0

    async def test_a_doubtful_exchange_is_heard_out_whoever_is_cancelled(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_silent()
        with pytest.raises(LinkTimeoutError):
            await bench.ask("lost")
        heard = []
        with trio.move_on_after(0.15):
            heard.append(await bench.ask("safe", priority=Priority.SAFE))
        assert heard == ["safe"]

    async def test_the_gap_before_a_request_is_kept(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        await bench.ask("first")
        after_s = trio.current_time()
        await bench.ask("second", gap_s=0.05)
        assert bench.device.heard[1][0] - after_s >= 0.045

    async def test_a_lost_port_fails_the_exchange_in_progress_and_every_other_at_once(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        bench.device.next_reply_late(0.09)
        async with trio.open_nursery() as nursery:
            for text in ("in progress", "queued"):

                async def fails(text: str = text) -> None:
                    with pytest.raises(LinkClosedError, match="link bench"):
                        await bench.ask(text)

                nursery.start_soon(fails)
                await trio.sleep(0.01)
            bench.port.switch(present=False)
        assert not bench.link.is_up
        with trio.fail_after(0.05), pytest.raises(LinkClosedError):
            await bench.ask("at once")

    async def test_a_port_that_returns_is_opened_again_by_itself(
        self, clock: MockClock | None, bench: Bench
    ) -> None:
        await bench.ask("before")
        bench.port.switch(present=False)
        await trio.sleep(0.15)
        assert not bench.link.is_up
        assert bench.link.why_down
        bench.port.switch(present=True)
        with trio.fail_after(2):
            await bench.link.up()
        assert await bench.ask("after") == "after"
        assert bench.changes == [True, False, True]
        assert bench.link.stats.reconnects == 1
