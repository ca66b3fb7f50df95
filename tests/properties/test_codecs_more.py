"""Modbus TCP, tables and printed lines: any bytes, other requests' replies, chopped anyhow."""

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.alicat.codec import FrameReader
from adapters.alicat.firmware import FIRMWARES
from adapters.alicat.table import TableReply
from adapters.alicat.tables import column_rows
from adapters.modbus.codec import (
    BadRequest,
    Bits,
    Ear,
    Query,
    ReadBits,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    Speaker,
    TcpReplyCollector,
    TcpRequestCollector,
    WriteCoil,
    WriteRegister,
    WriteRegisters,
    Written,
    encode_reply,
    encode_request,
    encode_tcp_request,
)
from adapters.modbus.fields import RegisterField, decode, status_of
from adapters.sartorius.codec import Weight, encode_line
from adapters.sartorius.newest import NewestLine
from capa.errors import FrameError

words = st.integers(0, 0xFFFF)
units = st.integers(1, 247)
requests = st.one_of(
    st.builds(ReadRegisters, units, words, st.integers(1, 125), st.sampled_from([3, 4])),
    st.builds(ReadBits, units, words, st.integers(1, 300), st.sampled_from([1, 2])),
    st.builds(WriteRegister, units, words, words),
    st.builds(WriteCoil, units, words, st.booleans()),
    st.builds(WriteRegisters, units, words, st.lists(words, min_size=1, max_size=9).map(tuple)),
)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[Request, Reply]:
    request: Request = draw(requests)
    if draw(st.booleans()):
        return request, Refusal(request.function, draw(st.integers(1, 255)))
    match request:
        case ReadRegisters():
            size = 2 * request.count
            return request, Registers(draw(st.binary(min_size=size, max_size=size)))
        case ReadBits():
            size = (request.count + 7) // 8
            return request, Bits(draw(st.binary(min_size=size, max_size=size)))
        case _:
            return request, Written()


def chopped(data: bytes, cuts: set[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def fed(feed: Callable[[bytes], object], pieces: list[bytes]) -> object:
    """Return the first thing that comes of the pieces; FrameError as it comes."""
    return next((found for piece in pieces if (found := feed(piece)) is not None), None)


cuts = st.sets(st.integers(1, 40), max_size=6)
QUERY = Query(ReadRegisters(1, 360, 2))
FEEDS: dict[str, Callable[[], Callable[[bytes], object]]] = {
    "tcp reply": lambda: TcpReplyCollector(QUERY, 7).feed,
    "tcp requests": lambda: TcpRequestCollector().feed,
    "rtu ear": lambda: Ear("rtu").feed,
    "tcp ear": lambda: Ear("tcp").feed,
    "alicat table": lambda: TableReply("A").feed,
    "alicat acknowledgement": lambda: FrameReader("A", ("flow",)).decode_ack,
    "newest line": lambda: NewestLine().feed,
    "newest line, midstream": lambda: NewestLine(midstream=True).feed,
}
looks_right = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=40).map(lambda tail: b"\x00\x07\x00\x00\x00\x07\x01" + tail),
    st.from_regex(rb"A D\d\d [A-Z_ ]{0,30}(NAME_|Gas)?[ -~]{0,20}\r"),
    st.from_regex(rb"[NG ] {5}[+-] {1,8}[0-9.]{1,8} (g  |   )\r\n"),
)


@pytest.mark.parametrize("make", FEEDS.values(), ids=FEEDS.keys())
@given(data=looks_right, at=cuts)
def test_any_bytes_chopped_anyhow_are_a_value_or_the_one_error(
    make: Callable[[], Callable[[bytes], object]], data: bytes, at: set[int]
) -> None:
    with suppress(FrameError):
        fed(make(), chopped(data, at))


@given(exchanges(), st.sampled_from(["rtu", "tcp"]), cuts, cuts)
def test_an_exchange_survives_the_wire_in_either_framing_chopped_anyhow(
    exchange: tuple[Request, Reply], framing: str, there: set[int], back: set[int]
) -> None:
    request, reply = exchange
    assert framing in {"rtu", "tcp"}
    kind = "rtu" if framing == "rtu" else "tcp"
    speaker, ear = Speaker(kind), Ear(kind)  # type: ignore[arg-type] # one of the two, as drawn
    frame, feed = speaker.begin(Query(request))
    heard = [asked for piece in chopped(frame, there) for asked in ear.feed(piece)]
    assert [asked.request for asked in heard] == [request]
    assert fed(feed, chopped(heard[0].answer(reply), back)) == reply


@given(exchanges(), requests, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_a_tcp_reply_to_another_request_is_never_accepted(
    exchange: tuple[Request, Reply], asked: Request, number: int, other: int
) -> None:
    request, reply = exchange
    (heard,) = TcpRequestCollector().feed(encode_tcp_request(Query(request), other))
    answer = None
    with suppress(FrameError):
        answer = TcpReplyCollector(Query(asked), number).feed(heard.answer(reply))
    if answer is not None:
        assert (number, asked.unit, asked.function) == (other, request.unit, request.function)


@given(exchanges(), st.data())
def test_a_flipped_bit_in_a_reply_of_bits_or_registers_is_never_accepted(
    exchange: tuple[Request, Reply], data: st.DataObject
) -> None:
    request, reply = exchange
    frame = bytearray(encode_reply(request, reply))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    answer = None
    with suppress(FrameError):
        answer = Query(request).collector().feed(bytes(frame))
    assert answer is None


@given(requests, st.data())
def test_a_flipped_bit_in_any_request_is_never_obeyed(
    request: Request, data: st.DataObject
) -> None:
    frame = bytearray(encode_request(request))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    obeyed = [one.request for one in Ear("rtu").feed(bytes(frame))]
    assert all(isinstance(one, BadRequest) for one in obeyed)
    assert obeyed == []


@given(
    st.sampled_from(["int16", "uint16", "int32", "uint32", "float32", "bit"]),
    st.binary(min_size=4, max_size=4),
    st.sampled_from(["low_high", "high_low"]),
)
def test_any_registers_are_a_number_with_a_status(kind: str, data: bytes, order: str) -> None:
    field = RegisterField.model_validate(
        {"address": 0, "type": kind, "unit": "1", "valid_min": -1e6, "word_order": order}
    )
    value = decode(field, data, 0, "high_low")
    assert status_of(field, value).usable is (math.isfinite(value) and value >= -1e6)


@given(st.permutations(["pressure", "temperature", "flow", "setpoint", "total"]), st.booleans())
def test_a_table_of_columns_survives_the_wire_in_either_dialect(
    columns: list[str], legacy: bool
) -> None:
    ways = FIRMWARES["5v12" if legacy else "10v20"]
    rows = column_rows("A", columns, ways)  # type: ignore[arg-type] # names of columns
    found = TableReply("A").feed("".join(f"{row}\r" for row in rows).encode("ascii"))
    assert found is not None
    assert found.columns == tuple(columns)
    assert found.dialect == ("legacy" if legacy else "modern")


@given(
    st.lists(st.integers(-99999, 99999).map(lambda n: n / 100), min_size=1, max_size=5),
    st.sampled_from([16, 22]),
    cuts,
)
def test_the_last_of_any_lines_is_the_one_that_counts(
    numbers: list[float], width: int, at: set[int]
) -> None:
    encode = partial(encode_line, decimals=2, width=width)
    data = b"".join(encode(Weight(number, "g", "N")) for number in numbers)
    newest = NewestLine()
    answers = [newest.feed(piece) for piece in [data[:-1], data[-1:]]]
    assert answers[0] is None
    assert answers[1] is not None
    line = answers[1][0]
    assert isinstance(line, Weight)
    assert line.value == numbers[-1]
    assert newest.unasked == len(numbers) - 1
    with suppress(FrameError):
        fed(NewestLine(midstream=True).feed, chopped(data[3:], at))
