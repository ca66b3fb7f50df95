"""What ``capa devices talk`` says of a Modbus frame; the frames are of the register list's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.modbus.codec import Framing
from adapters.modbus.describe import describe_frame


@pytest.mark.parametrize(
    ("frame", "sent", "words"),
    [
        ("01 03 01 68 00 04 c4 29", True, "unit 1: read 4 holding registers from 360"),
        ("01 03 04 66 66 42 96 b4 6a", False, "unit 1: 2 registers: 6666 4296"),
        ("01 03 04 66 66 42 96 b4 6b", False, "CRC does not hold"),
        ("01 03", False, "too short for a frame"),
    ],
)
def test_a_frame_is_said_in_words(frame: str, sent: bool, words: str) -> None:
    assert describe_frame(bytes.fromhex(frame), "rtu", sent=sent) == words


def test_a_modbus_tcp_frame_is_said_without_its_header() -> None:
    frame = bytes.fromhex("00 01 00 00 00 03 05 83 02")
    refused = "unit 5: refuses function 3 with exception 2"
    assert describe_frame(frame, "tcp", sent=False) == refused


@given(st.binary(max_size=40), st.sampled_from(["rtu", "tcp"]), st.booleans())
def test_any_bytes_have_words(data: bytes, framing: Framing, sent: bool) -> None:
    assert describe_frame(data, framing, sent=sent)
