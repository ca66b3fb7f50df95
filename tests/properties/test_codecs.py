"""What holds for any bytes on the wire: a value or ``FrameError``, however they are chopped."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.alicat.codec import (
    DataFrame,
    FrameReader,
    SetpointReport,
    decode_command,
    decode_setpoint_report,
    encode_frame,
    encode_setpoint,
    encode_setpoint_report,
)
from adapters.modbus.codec import (
    BadRequest,
    Query,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    RequestCollector,
    WriteRegister,
    WriteRegisters,
    Written,
    encode_reply,
    encode_request,
)
from adapters.modbus.words import WordOrder, float_at, float_words
from adapters.sartorius.codec import (
    CommandCollector,
    Overload,
    StatusLine,
    Underload,
    Weight,
    decode_line,
    encode_line,
)
from capa.devices.lines import LineReply
from capa.errors import FrameError

READER = FrameReader("A", ("pressure", "temperature", "volumetric", "flow", "setpoint"))

words = st.integers(0, 0xFFFF)
units = st.integers(1, 247)
reads = st.builds(ReadRegisters, units, words, st.integers(1, 125), st.sampled_from([3, 4]))
writes = st.builds(WriteRegister, units, words, words)
multiple_writes = st.builds(
    WriteRegisters, units, words, st.lists(words, min_size=1, max_size=123).map(tuple)
)
requests = st.one_of(reads, writes, multiple_writes)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[Request, Reply]:
    request: Request = draw(requests)
    if draw(st.booleans()):
        return request, Refusal(request.function, draw(st.integers(1, 255)))
    if isinstance(request, ReadRegisters):
        size = 2 * request.count
        return request, Registers(draw(st.binary(min_size=size, max_size=size)))
    return request, Written()


def chopped(data: bytes, draw: Callable[..., Any]) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    edges = [0, *cuts, len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.binary(max_size=300), requests)
def test_any_bytes_are_a_modbus_reply_or_a_frame_error(data: bytes, request: Request) -> None:
    with suppress(FrameError):
        Query(request).collector().feed(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_modbus_requests_or_nothing(data: bytes) -> None:
    for request in RequestCollector().feed(data):
        assert isinstance(request, ReadRegisters | WriteRegister | WriteRegisters | BadRequest)


DECODERS: dict[str, Callable[[bytes], object]] = {
    "alicat frame": READER.decode,
    "alicat setpoint": partial(decode_setpoint_report, "A"),
    "alicat command": decode_command,
    "balance line": decode_line,
}
STREAMS: dict[str, Callable[[bytes], object]] = {
    "alicat stream": lambda data: LineReply(b"\r", READER.decode).feed(data),
    "balance stream": lambda data: LineReply(b"\r\n", decode_line).feed(data),
}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
@given(
    data=st.one_of(st.binary(max_size=300), st.from_regex(r"A [+\-0-9. A-Z]*\r?").map(str.encode))
)
def test_any_line_is_a_value_or_a_frame_error(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with suppress(FrameError):
        assert decode(data) is not None, "to a link, None says that more is to come"


@pytest.mark.parametrize("feed", STREAMS.values(), ids=STREAMS.keys())
@given(data=st.binary(max_size=300))
def test_any_stream_is_a_value_or_a_frame_error_or_goes_on(
    feed: Callable[[bytes], object], data: bytes
) -> None:
    with suppress(FrameError):
        if feed(data) is None:
            assert len(data.strip(b"\r\n")) <= 256, (
                "a line without an end would be awaited for ever"
            )


@given(st.binary(max_size=300))
def test_any_bytes_are_commands_to_a_balance_or_nothing(data: bytes) -> None:
    assert all(isinstance(command, str) for command in CommandCollector().feed(data))


@given(exchanges(), st.data())
def test_a_modbus_reply_survives_the_wire_chopped_anyhow(
    exchange: tuple[Request, Reply], data: st.DataObject
) -> None:
    request, reply = exchange
    collector = Query(request).collector()
    answers = [collector.feed(piece) for piece in chopped(encode_reply(*exchange), data.draw)]
    assert next(answer for answer in answers if answer is not None) == reply


@given(st.lists(requests, min_size=1, max_size=4), st.data())
def test_modbus_requests_survive_the_wire_chopped_anyhow(
    sent: list[Request], data: st.DataObject
) -> None:
    collector = RequestCollector()
    wire = b"".join(map(encode_request, sent))
    got = [request for piece in chopped(wire, data.draw) for request in collector.feed(piece)]
    assert got == sent


@given(exchanges(), st.data())
def test_a_flipped_bit_in_a_modbus_reply_is_never_accepted(
    exchange: tuple[Request, Reply], data: st.DataObject
) -> None:
    frame = bytearray(encode_reply(*exchange))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    answer = None
    with suppress(FrameError):
        answer = Query(exchange[0]).collector().feed(bytes(frame))
    assert answer is None


@given(st.data())
def test_a_flipped_bit_in_a_modbus_request_is_never_obeyed(data: st.DataObject) -> None:
    frame = bytearray(encode_request(data.draw(requests)))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    assert RequestCollector().feed(bytes(frame)) == []


@given(exchanges(), requests)
def test_a_reply_to_another_request_is_accepted_only_where_rtu_cannot_tell(
    exchange: tuple[Request, Reply], asked: Request
) -> None:
    other, reply = exchange
    answer = None
    with suppress(FrameError):
        answer = Query(asked).collector().feed(encode_reply(other, reply))
    if answer is not None:
        assert (asked.unit, asked.function) == (other.unit, other.function)
    if isinstance(answer, Registers):
        assert isinstance(asked, ReadRegisters)
        assert isinstance(other, ReadRegisters)
        assert asked.count == other.count


@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from(["low_high", "high_low"]),
)
def test_a_float_survives_either_word_order(value: float, order: WordOrder) -> None:
    data = b"".join(word.to_bytes(2, "big") for word in float_words(value, order))
    assert float_at(data, 0, order) == value


hundredths = st.integers(-99999, 99999).map(lambda number: number / 100)


@given(
    st.lists(hundredths, min_size=5, max_size=5).map(tuple),
    st.sampled_from(["N2", "Air", "C-25", "A1025", "P-5", "i-C4H1"]),
    st.frozensets(st.sampled_from(["HLD", "LCK", "MOV", "ADC", "P2O"])),
    st.data(),
)
def test_a_data_frame_survives_the_wire_chopped_anyhow(
    values: tuple[float, ...], gas: str, codes: frozenset[str], data: st.DataObject
) -> None:
    frame = DataFrame(values, gas, codes)
    reply = LineReply(b"\r", READER.decode)
    pieces = chopped(encode_frame("A", frame, ("+07.2f",) * 5), data.draw)
    answers = [reply.feed(piece) for piece in pieces]
    assert next(answer for answer in answers if answer is not None) == frame


@given(st.sampled_from("ABZ"), hundredths, st.sampled_from(["S", "LS"]))
def test_a_setpoint_survives_the_wire(unit: str, value: float, command: Literal["S", "LS"]) -> None:
    line = encode_setpoint(unit, value, command=command, decimals=2).rstrip(b"\r")
    decoded = decode_command(line)
    assert decoded.unit == unit
    assert decoded.setpoint == (command, value)


@given(hundredths, hundredths)
def test_a_setpoint_report_survives_the_wire(current: float, requested: float) -> None:
    report = SetpointReport(current, requested)
    assert decode_setpoint_report("A", encode_setpoint_report("A", report)[:-1]) == report


@given(
    st.one_of(
        st.builds(
            Weight,
            st.integers(-(10**7), 10**7).map(lambda number: number / 10**4),
            st.sampled_from([None, "g", "mg", "kg"]),
            st.just("N"),
        ).filter(lambda weight: abs(weight.value) < 1000),
        st.just(Overload()),
        st.just(Underload()),
        st.sampled_from(["OFF", "Cal.Int.", "Err 054", "APP.ERR"]).map(StatusLine),
    ),
    st.data(),
)
def test_a_long_balance_line_survives_the_wire_chopped_anyhow(
    line: Weight | Overload | Underload | StatusLine, data: st.DataObject
) -> None:
    reply = LineReply(b"\r\n", decode_line)
    pieces = chopped(encode_line(line, decimals=4, width=22), data.draw)
    answers = [reply.feed(piece) for piece in pieces]
    assert next(answer for answer in answers if answer is not None) == line


@given(st.lists(st.sampled_from(["P", "T", "V", "x1_", "f3_"]), max_size=6), st.data())
def test_balance_commands_survive_the_wire_chopped_anyhow(
    commands: list[str], data: st.DataObject
) -> None:
    end = data.draw(st.sampled_from([b"", b"\r\n"]))
    wire = b"".join(b"\x1b" + command.encode() + end for command in commands)
    collector = CommandCollector()
    got = [command for piece in chopped(wire, data.draw) for command in collector.feed(piece)]
    assert got == commands
