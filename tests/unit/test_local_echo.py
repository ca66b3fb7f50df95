"""Adapters that hear themselves, and deadlines that know the line's speed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from adapters.links.echo import behind_echo
from capa.devices.spec import LinkSpec
from capa.devices.twin import TwinReply
from capa.errors import FrameError, LinkTimeoutError
from tests.support.bench_device import Bench, open_bench, whole_line


def echoing(request: bytes) -> Sequence[TwinReply]:
    return [TwinReply(request + b"R" + request)]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_echo_is_taken_off_however_the_bytes_are_chopped(size: int) -> None:
    feed = behind_echo(b"ask\n", whole_line())
    wire = b"ask\nRanswer\n"
    replies = [feed(wire[at : at + size]) for at in range(0, len(wire), size)]
    assert [reply for reply in replies if reply is not None] == [b"Ranswer\n"]


async def test_a_reply_behind_the_echo_of_its_request_is_understood(
    autojump_clock: MockClock,
) -> None:
    async with open_bench("memory", Path(), local_echo=True) as bench:
        bench.device.scripts.append(echoing)
        assert await bench.ask("x") == "x"


async def test_an_echo_alone_is_no_reply_even_where_the_two_are_the_same_bytes(
    autojump_clock: MockClock,
) -> None:
    async with open_bench("memory", Path(), local_echo=True) as bench:
        bench.device.next_replies((0.0, b"R6\n"))
        with pytest.raises(LinkTimeoutError):
            await bench.link.exchange(b"R6\n", whole_line())


async def test_an_echo_that_is_not_what_was_sent_is_a_collision(autojump_clock: MockClock) -> None:
    async with open_bench("memory", Path(), local_echo=True) as bench:
        bench.device.next_replies((0.0, b"y\nRx\n"))
        with pytest.raises(FrameError, match="two speak at once"):
            await bench.ask("x")


async def took_s(bench: Bench, request: str) -> float:
    begun_s = trio.current_time()
    with pytest.raises(LinkTimeoutError):
        await bench.ask(request)
    return trio.current_time() - begun_s


async def test_a_slow_line_gives_a_request_the_time_that_its_characters_need(
    autojump_clock: MockClock,
) -> None:
    for baud in (300, 9600):
        async with open_bench("memory", Path(), baud=baud) as bench:
            await bench.ask("settle")
            bench.device.next_silent()
            assert await took_s(bench, "x" * 29) == pytest.approx(0.1 + 30 * 10 / baud)


async def test_a_reply_under_way_at_the_deadline_is_heard_to_its_end(
    autojump_clock: MockClock,
) -> None:
    async with open_bench("memory", Path(), baud=1200) as bench:
        bench.device.next_replies((0.09, b"Rlong"), (0.13, b" long"), (0.17, b" way\n"))
        assert await bench.ask("x") == "long long way"


async def test_a_device_that_never_ends_its_reply_is_cut_off_after_the_longest_there_is(
    autojump_clock: MockClock,
) -> None:
    async with open_bench("memory", Path(), baud=9600) as bench:
        await bench.ask("settle")
        bench.device.next_replies(*((0.02 * index, b"R") for index in range(100)))
        assert 0.1 < await took_s(bench, "x") < 0.1 + 260 * 10 / 9600


def test_a_character_has_the_bits_that_the_profile_says() -> None:
    plain = LinkSpec(name="bus", port="x", baud=9600)
    odd = LinkSpec(name="bus", port="x", baud=9600, parity="O", bytesize=7, stopbits=2)
    assert plain.character_s == pytest.approx(10 / 9600)
    assert odd.character_s == pytest.approx(11 / 9600)
