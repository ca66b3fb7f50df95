"""The ports of a twin whose devices speak unasked, while nobody listens."""

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from adapters.twin import ports
from adapters.twin.line import TwinLine
from adapters.twin.plant import TwinSettings
from adapters.twin.ports import PtyPort, _carry
from adapters.twin.wirelog import WireLog
from capa.devices.spec import LinkSpec
from capa.devices.twin import TwinReply
from tests.support.bench_device import BenchDevice

REQUEST, REPLY = b"now\n", b"Rnow\n"


class Chatterer(BenchDevice):
    """Says what time it is at every look, and answers as any device of the bench."""

    def unasked(self) -> Sequence[TwinReply]:
        return [TwinReply(b"%019.2f\n" % trio.current_time())]


class VirtualTimer:
    """Stands in for the fine timer, whose time is real."""

    async def sleep(self, for_s: float) -> None:
        await trio.sleep(max(for_s, 0.0))

    def close(self) -> None:
        return


class Stream(BenchDevice):
    """Says a line at every look."""

    def unasked(self) -> Sequence[TwinReply]:
        return [TwinReply(b"0123456789012345678\n")]


class Greeter(BenchDevice):
    """Says one thing, a second after the start."""

    def __init__(self) -> None:
        super().__init__()
        self._at_s = trio.current_time() + 1.0

    def unasked(self) -> Sequence[TwinReply]:
        if trio.current_time() < self._at_s:
            return []
        self._at_s = math.inf
        return [TwinReply(b"hello\n")]


def chatting_line(device: BenchDevice | None = None, *, wire_timing: bool = False) -> TwinLine:
    return TwinLine(
        LinkSpec(name="com", port="x"),
        [Chatterer() if device is None else device],
        log=WireLog(lambda _: None, lambda: 0),
        settings=TwinSettings(wire_timing=wire_timing),
    )


async def until_replied(stream: trio.abc.ReceiveStream) -> bytes:
    heard = b""
    with trio.fail_after(60.0):
        while REPLY not in heard:
            heard += await stream.receive_some()
    return heard


async def test_a_port_that_nobody_had_open_keeps_nothing_for_who_opens_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    port = PtyPort(chatting_line(), tmp_path / "com.tty")
    async with trio.open_nursery() as nursery:
        await nursery.start(port.run)
        await trio.sleep(30.0)  # fifteen hundred lines
        opened_at_s = trio.current_time()
        host = trio.lowlevel.FdStream(os.open(port.address, os.O_RDWR | os.O_NOCTTY))
        async with host:
            await host.send_all(REQUEST)
            heard = await until_replied(host)
        nursery.cancel_scope.cancel()
    said_at_s = float(heard.partition(b"\n")[2].partition(b"\n")[0])  # the first may be cut
    assert said_at_s > opened_at_s - 5.0


async def test_the_last_thing_that_was_said_does_not_wait_for_hours_either(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    port = PtyPort(chatting_line(Greeter()), tmp_path / "com.tty")
    async with trio.open_nursery() as nursery:
        await nursery.start(port.run)
        await trio.sleep(30.0)
        host = trio.lowlevel.FdStream(os.open(port.address, os.O_RDWR | os.O_NOCTTY))
        async with host:
            await host.send_all(REQUEST)
            assert await until_replied(host) == REPLY
        nursery.cancel_scope.cancel()


async def test_a_reply_waits_for_a_host_that_is_slow(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    port = PtyPort(chatting_line(Greeter()), tmp_path / "com.tty")
    async with trio.open_nursery() as nursery:
        await nursery.start(port.run)
        host = trio.lowlevel.FdStream(os.open(port.address, os.O_RDWR | os.O_NOCTTY))
        async with host:
            await trio.sleep(2.0)
            await host.send_all(REQUEST)
            await trio.sleep(5.0)
            assert await until_replied(host) == b"hello\n" + REPLY
        nursery.cancel_scope.cancel()


async def test_what_nobody_takes_is_not_kept_for_later_and_the_reply_does_not_stand_behind_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "FineTimer", VirtualTimer)
    near, far = lockstep_stream_pair()  # takes nothing while nobody reads
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry, chatting_line(wire_timing=True), far)
        await trio.sleep(30.0)
        await near.send_all(REQUEST)
        heard = await until_replied(near)
        nursery.cancel_scope.cancel()
    assert heard.count(b"\n") < 10


async def test_a_host_that_listens_now_and_then_loses_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    port = PtyPort(chatting_line(), tmp_path / "com.tty")
    async with trio.open_nursery() as nursery:
        await nursery.start(port.run)
        host = trio.lowlevel.FdStream(os.open(port.address, os.O_RDWR | os.O_NOCTTY))
        heard = b""
        async with host:
            while heard.count(b"\n") < 200:
                await trio.sleep(0.3)
                heard += await host.receive_some()
        nursery.cancel_scope.cancel()
    times_s = [float(line) for line in heard.splitlines()[:200]]
    steps_s = [later - sooner for sooner, later in itertools.pairwise(times_s)]
    assert max(steps_s) < 0.03


def test_a_stream_is_held_to_what_its_line_can_carry() -> None:
    line = chatting_line(Stream(), wire_timing=True)
    character_s = line.spec.character_s
    dues = [due for look in range(1000) for due in line.unasked(look * 0.005)]
    ends_s = [due.at_s for due in dues]
    assert all(
        later.at_s - sooner.at_s >= len(later.data) * character_s - 1e-9
        for sooner, later in itertools.pairwise(dues)
    )
    assert 4.9 < ends_s[-1] < 5.2  # it has lost lines, and is not behind
    assert len(dues) == pytest.approx(5.0 / (20 * character_s), rel=0.03)


async def test_a_reply_begins_when_the_request_has_ended_and_the_line_is_free(
    autojump_clock: MockClock,
) -> None:
    line = chatting_line(Stream(), wire_timing=True)
    character_s = line.spec.character_s
    (said,) = line.unasked(0.0)
    *_, reply = line.accept(REQUEST, 0.0)
    assert reply.data == REPLY
    assert reply.at_s >= 2 * said.at_s + len(REPLY) * character_s - 1e-9
    quiet = chatting_line(BenchDevice(), wire_timing=True)
    (reply,) = quiet.accept(REQUEST, 0.0)
    assert reply.at_s == pytest.approx((len(REQUEST) + len(REPLY)) * character_s)
