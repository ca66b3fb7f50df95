"""Frames with their published or computed CRCs, in both directions."""

import pytest
from pymodbus.framer.rtu import FramerRTU
from pymodbus.pdu.decoders import DecodePDU

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
    crc_ok,
    encode_reply,
    encode_request,
)
from adapters.modbus.words import float_at, float_words, uint32_at, uint32_words
from capa.errors import FrameError

PV = ReadRegisters(1, 360, 2)
SETPOINT_662 = WriteRegisters(1, 2160, (0x8000, 0x4425))

REQUESTS: list[tuple[Request, str]] = [
    (PV, "01 03 01 68 00 02 44 2B"),
    (ReadRegisters(1, 360, 4), "01 03 01 68 00 04 C4 29"),
    (ReadRegisters(1, 362, 1), "01 03 01 6A 00 01 A5 EA"),
    (WriteRegisters(1, 2160, (0, 0x4296)), "01 10 08 70 00 02 04 00 00 42 96 23 85"),
    (SETPOINT_662, "01 10 08 70 00 02 04 80 00 44 25 48 50"),
    (ReadRegisters(1, 2160, 2), "01 03 08 70 00 02 C7 B0"),
    (ReadRegisters(1, 2172, 2), "01 03 08 7C 00 02 07 B3"),
    (ReadRegisters(1, 1904, 2), "01 03 07 70 00 02 C4 A4"),
    (ReadRegisters(1, 1906, 2), "01 03 07 72 00 02 65 64"),
    (WriteRegister(1, 1880, 62), "01 06 07 58 00 3E 88 BD"),
    (WriteRegister(1, 1880, 10), "01 06 07 58 00 0A 89 6A"),
    (WriteRegister(1, 1880, 54), "01 06 07 58 00 36 89 7B"),
    (ReadRegisters(1, 1880, 2), "01 03 07 58 00 02 44 AC"),
    (ReadRegisters(1, 1890, 10), "01 03 07 62 00 0A 65 67"),
    (ReadRegisters(1, 1496, 2), "01 03 05 D8 00 02 44 FC"),
    (ReadRegisters(1, 2490, 2), "01 03 09 BA 00 02 E6 72"),
    (WriteRegisters(1, 2162, (0, 0x41C8)), "01 10 08 72 00 02 04 00 00 41 C8 23 54"),
    (WriteRegisters(1, 382, (0, 0xBFC0)), "01 10 01 7E 00 02 04 00 00 BF C0 08 F7"),
    (WriteRegister(1, 1920, 106), "01 06 07 80 00 6A 09 79"),
    (WriteRegister(1, 2494, 59), "01 06 09 BE 00 3B AB A1"),
    (ReadRegisters(17, 0x6B, 3), "11 03 00 6B 00 03 76 87"),
    (WriteRegister(17, 1, 3), "11 06 00 01 00 03 9A 9B"),
    (WriteRegisters(17, 1, (0x0A, 0x0102)), "11 10 00 01 00 02 04 00 0A 01 02 C6 F0"),
]

REPLIES: list[tuple[Request, Reply, str]] = [
    (PV, Registers(bytes.fromhex("00004290")), "01 03 04 00 00 42 90 CA FF"),
    (PV, Registers(bytes.fromhex("42900000")), "01 03 04 42 90 00 00 EE 66"),
    (PV, Registers(bytes.fromhex("977D429C")), "01 03 04 97 7D 42 9C 76 96"),
    (ReadRegisters(1, 362, 1), Registers(bytes.fromhex("003D")), "01 03 02 00 3D 79 95"),
    (
        ReadRegisters(1, 360, 4),
        Registers(bytes.fromhex("00004290003D0000")),
        "01 03 08 00 00 42 90 00 3D 00 00 CB 24",
    ),
    (
        ReadRegisters(1, 360, 4),
        Registers(bytes.fromhex("0000429000410000")),
        "01 03 08 00 00 42 90 00 41 00 00 0A FC",
    ),
    (SETPOINT_662, Written(), "01 10 08 70 00 02 42 73"),
    (WriteRegister(1, 1880, 62), Written(), "01 06 07 58 00 3E 88 BD"),
    (PV, Refusal(3, 2), "01 83 02 C0 F1"),
    (PV, Refusal(3, 6), "01 83 06 C1 32"),
    (WriteRegister(1, 1880, 1), Refusal(6, 2), "01 86 02 C3 A1"),
    (WriteRegister(1, 1880, 1), Refusal(6, 3), "01 86 03 02 61"),
    (SETPOINT_662, Refusal(16, 2), "01 90 02 CD C1"),
    (SETPOINT_662, Refusal(16, 3), "01 90 03 0C 01"),
    (SETPOINT_662, Refusal(16, 4), "01 90 04 4D C3"),
    (ReadRegisters(1, 360, 2, 4), Refusal(4, 1), "01 84 01 82 C0"),
]


@pytest.mark.parametrize(("request_", "frame"), REQUESTS, ids=[f for _, f in REQUESTS])
def test_a_request_is_the_published_frame_in_both_directions(request_: Request, frame: str) -> None:
    assert encode_request(request_) == bytes.fromhex(frame)
    assert RequestCollector().feed(bytes.fromhex(frame)) == [request_]


@pytest.mark.parametrize(("request_", "reply", "frame"), REPLIES, ids=[f for *_, f in REPLIES])
def test_a_reply_is_the_published_frame_in_both_directions(
    request_: Request, reply: Reply, frame: str
) -> None:
    assert encode_reply(request_, reply) == bytes.fromhex(frame)
    assert Query(request_).collector().feed(bytes.fromhex(frame)) == reply


def test_the_crc_of_the_standard_check_string_is_4b37() -> None:
    assert crc_ok(b"123456789\x37\x4b")


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ("02 03 04 00 00 42 90 CA FF", "unit 2"),
        ("01 04 04 00 00 42 90 CA FF", "function 4"),
        ("01 03 08 00 00 42 90 00 3D 00 00 CB 24", "another request"),
        ("01 03 02 00 3D 79 95", "another request"),
        ("01 03 04 00 00 42 91 CA FF", "CRC"),
        ("01 83 02 C0 F0", "CRC"),
        ("01 03 04 00 00 42 90 CA FF 01", "behind the end"),
        ("01 90 02 CD C1", "function 144"),
    ],
)
def test_what_is_not_the_reply_to_this_request_is_refused_by_name(frame: str, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        Query(PV).collector().feed(bytes.fromhex(frame))


def test_the_echo_of_another_value_is_not_an_acknowledgement() -> None:
    query = Query(WriteRegister(1, 1880, 62))
    with pytest.raises(FrameError):
        query.collector().feed(encode_request(WriteRegister(1, 1880, 10)))


def test_a_write_acknowledged_for_another_address_is_refused() -> None:
    query = Query(WriteRegisters(1, 2160, (0, 0)))
    other = WriteRegisters(1, 2162, (0, 0))
    with pytest.raises(FrameError):
        query.collector().feed(encode_reply(other, Written()))


@pytest.mark.parametrize(
    "request_",
    [
        ReadRegisters(0, 0, 1),
        ReadRegisters(248, 0, 1),
        ReadRegisters(1, 0, 126),
        ReadRegisters(1, 70000, 1),
        WriteRegisters(1, 0, ()),
        WriteRegisters(1, 0, (0,) * 124),
    ],
)
def test_a_request_that_has_no_room_in_a_frame_is_not_made(request_: Request) -> None:
    with pytest.raises(ValueError, match=r"unit|count|address|registers"):
        encode_request(request_)


def test_a_slave_stays_silent_after_a_wrong_crc_and_hears_the_next_request() -> None:
    collector = RequestCollector()
    assert collector.feed(bytes.fromhex("01 03 01 68 00 02 44 2C")) == []
    assert collector.feed(encode_request(PV)) == [PV]


def test_a_slave_forgets_half_a_request_when_the_line_falls_silent() -> None:
    collector = RequestCollector()
    collector.feed(encode_request(PV)[:5])
    collector.reset()
    assert collector.feed(encode_request(PV)) == [PV]


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ("01 02 00 00 00 00", BadRequest(1, 2, 3)),
        ("01 05 00 00 12 34", BadRequest(1, 5, 3)),
        ("01 41 00", BadRequest(1, 0x41, 1)),
        ("01 11", BadRequest(1, 0x11, 1)),
        ("01 03 00 00 00 00", BadRequest(1, 3, 3)),
        ("01 03 00 00 00 7E", BadRequest(1, 3, 3)),
        ("01 10 00 00 00 02 02 00 00", BadRequest(1, 16, 3)),
        ("01 10 00 00 00 00 00", BadRequest(1, 16, 3)),
    ],
)
def test_a_slave_knows_which_refusal_a_bad_request_deserves(body: str, refusal: BadRequest) -> None:
    raw = bytes.fromhex(body)
    frame = raw + FramerRTU.compute_CRC(raw).to_bytes(2, "big")
    assert RequestCollector().feed(frame) == [refusal]


def test_pymodbus_reads_our_replies_as_we_mean_them() -> None:
    frame = encode_reply(PV, Registers(bytes.fromhex("00004290")))
    used, unit, _, pdu = FramerRTU(DecodePDU(is_server=False)).decode(frame)
    decoded = DecodePDU(is_server=False).decode(pdu)
    assert (used, unit) == (len(frame), 1)
    assert decoded is not None
    assert list(decoded.registers) == [0x0000, 0x4290]


def test_watlows_own_printed_example_has_the_value_that_its_bytes_mean() -> None:
    assert float_at(bytes.fromhex("977D429C"), 0, "low_high") == pytest.approx(78.2958755)


def test_both_word_orders_carry_floats_and_32_bit_numbers() -> None:
    assert float_words(72.0, "low_high") == (0x0000, 0x4290)
    assert float_words(72.0, "high_low") == (0x4290, 0x0000)
    assert float_at(bytes.fromhex("42900000"), 0, "high_low") == 72.0
    assert uint32_words(0x12345678, "low_high") == (0x5678, 0x1234)
    assert uint32_at(bytes.fromhex("56781234"), 0, "low_high") == 0x12345678


def test_a_refusal_says_its_code_and_its_name() -> None:
    assert str(Refusal(16, 3)) == "exception 03 (illegal value) to function 10"
    assert "unknown" in str(Refusal(16, 0x42))
