"""What the guardian makes of replies: any bytes whatever prove nothing unless they are right."""

import math
import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from adapters.alicat.codec import DataFrame, FrameReader
from adapters.modbus.codec import with_crc
from capa.devices.spec import DeviceSpec
from capad.guard import number_in, reply_in
from tests.support.safe_plans import write_of

WATLOW = write_of(DeviceSpec(name="d", adapter="watlow", link="l", address=1), "setpoint", 20.0)
ALICAT = write_of(DeviceSpec(name="d", adapter="alicat", link="l", address="A"), "setpoint", 20.0)
READER = FrameReader("A", ("pressure", "temperature", "volumetric", "flow", "setpoint"))
SAFE_FRAME = with_crc(bytes.fromhex("010304 0000 4288"))
SAFE_LINE = b"A +014.70 +025.00 +000.00 +000.00 +020.00     N2\r"

near = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([SAFE_FRAME, SAFE_FRAME[:5], b"\x01\x03\x04", b"\x00"])).map(b"".join),
    st.lists(st.sampled_from([SAFE_LINE, SAFE_LINE[:20], b"A ", b"?\r", b"+1.0 "])).map(b"".join),
)


def proves(write: dict[str, Any], seen: bytes) -> bool:
    read = write["read_back"]
    reply = reply_in(read["reply"], seen)
    if reply is None:
        return False
    value = number_in(read, reply)
    assert value is None or math.isfinite(value)
    return value is not None and abs(value - write["value"]) <= write["tolerance"]


def frames_in(seen: bytes) -> set[bytes]:
    """Every whole read-back reply in what was seen, by plain search: a second opinion."""
    pieces = {seen[at : at + 9] for at in range(len(seen) - 8)}
    return {p for p in pieces if p.startswith(b"\x01\x03\x04") and with_crc(p[:-2]) == p}


@given(seen=near)
@example(seen=b"\xff\x00" + SAFE_FRAME)
@example(seen=SAFE_FRAME[:-1])
def test_only_a_whole_frame_with_the_safe_value_proves_a_modbus_write(seen: bytes) -> None:
    safe = {f for f in frames_in(seen) if f[3:7] == b"\x00\x00\x42\x88"}
    if proves(WATLOW, seen):
        assert any(abs(_degC(frame) - 20) <= 0.1 for frame in frames_in(seen))
    if safe and frames_in(seen) == safe:
        assert proves(WATLOW, seen)


def _degC(frame: bytes) -> float:
    import struct

    return float((struct.unpack(">f", frame[5:7] + frame[3:5])[0] - 32) / 1.8)


@given(seen=near)
@example(seen=b"\x8f\x01" + SAFE_LINE)
@example(seen=SAFE_LINE[:-1])
@example(seen=SAFE_LINE[:-1] + b" junk\r")
@example(seen=SAFE_LINE.replace(b"A ", b"B "))
def test_only_a_whole_line_of_the_unit_proves_an_alicats_write(seen: bytes) -> None:
    if proves(ALICAT, seen):
        ends = [line[at:] for line in seen.split(b"\r")[:-1] for at in range(len(line))]
        frames = [READER.decode(end) for end in ends if re.fullmatch(READER.pattern, end)]
        assert any(isinstance(f, DataFrame) and abs(f.values[4] - 20) <= 0.1 for f in frames)


@given(at=st.integers(0, 8), bit=st.integers(0, 7))
def test_a_single_wrong_bit_in_a_frame_proves_nothing(at: int, bit: int) -> None:
    frame = bytearray(SAFE_FRAME)
    frame[at] ^= 1 << bit
    assert proves(WATLOW, SAFE_FRAME)
    assert not proves(WATLOW, bytes(frame))


@given(raw=st.integers(0, 2**32 - 1))
@example(raw=0x7FC00000)
@example(raw=0x7F800000)
def test_a_register_proves_only_the_value_that_was_written(raw: int) -> None:
    data = raw.to_bytes(4, "big")
    frame = with_crc(b"\x01\x03\x04" + data[2:] + data[:2])
    assert proves(WATLOW, frame) == (abs(_degC(frame) - 20) <= 0.1)


@given(text=st.text("0123456789+-.eE_naif ", max_size=12))
def test_a_decimal_is_a_decimal_and_nothing_else(text: str) -> None:
    shape = {"kind": "line", "pattern": b"(.*)".hex(), "end": b"\r".hex()}
    read = {"reply": shape, "number": {"group": 1}, "gain": 1.0, "offset": 0.0}
    value = number_in(read, text.encode())
    if value is not None:
        assert value == float(text)
        assert not set(text) & set("_naif")


@given(seen=st.binary(max_size=20))
def test_an_exact_reply_is_looked_for_as_it_is(seen: bytes) -> None:
    shape = {"kind": "exact", "reply": b"OK\r".hex()}
    assert (reply_in(shape, seen) == b"OK\r") == (b"OK\r" in seen)
