"""The pump's codec, and its adapter and twin against the contract of capa."""

from contextlib import suppress

import pytest
from dosing_pump import FAMILY
from dosing_pump.codec import Ask, Refused, Value, decode_reply, encode

from capa.devices.adapter import FieldWrite
from capa.devices.contract import AdapterContract, Case
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import FrameError


class TestDosingPump(AdapterContract):
    case = Case(
        family=FAMILY,
        device=DeviceSpec(name="pump", adapter="dosing_pump", link="line", address=3),
        link=LinkSpec(name="line", port="memory", reply_timeout_s=0.3, reconnect_max_s=1.0),
        write=FieldWrite("rate", 12.5),
    )


def test_lines_are_as_the_protocol_has_them() -> None:
    assert encode(Ask(3, "RATE")) == b"#3 RATE?*E1\r"
    assert decode_reply(3, "RATE", encode(Value(3, "RATE", 12.5))[:-1]) == Value(3, "RATE", 12.5)
    assert decode_reply(3, "RATE", encode(Refused(2), pump=3)[:-1]) == Refused(2)


@pytest.mark.parametrize("bit", range(8 * len(encode(Value(3, "RATE", 12.5))[:-1])))
def test_a_flipped_bit_is_never_a_value(bit: int) -> None:
    line = bytearray(encode(Value(3, "RATE", 12.5))[:-1])
    line[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameError):
        decode_reply(3, "RATE", bytes(line))


@pytest.mark.parametrize("line", [b"", b"#", b"\xff" * 40, b"#3 RATE 1e9*00", b"#3 RATE?*E1"])
def test_any_other_line_is_the_one_error(line: bytes) -> None:
    with suppress(FrameError):
        raise AssertionError(decode_reply(3, "RATE", line))
