"""Modbus frames in a few words, for a person who listens in."""

from adapters.modbus.codec import Framing
from adapters.modbus.codec.rtu import crc_ok

__all__ = ["describe_frame"]

_READS = {3: "holding registers", 4: "input registers"}
_SHORTEST = {"rtu": 5, "tcp": 9}
_TCP_HEADER = 6
"""Bytes before the unit: transaction, protocol and length."""


def describe_frame(data: bytes, framing: Framing, *, sent: bool) -> str:
    """Say what a frame is; for any bytes, and at least whether its CRC holds."""
    if len(data) < _SHORTEST[framing]:
        return "too short for a frame"
    if framing == "rtu" and not crc_ok(data):
        return "CRC does not hold"
    pdu = data[:-2] if framing == "rtu" else data[_TCP_HEADER:]
    return f"unit {pdu[0]}: {_body(pdu[1], pdu[2:], sent=sent)}"


def _body(function: int, body: bytes, *, sent: bool) -> str:
    numbers = [int.from_bytes(body[at : at + 2], "big") for at in (0, 2)]
    if function & 0x80:
        return f"refuses function {function & 0x7F} with exception {body[0]}"
    if function in _READS and sent and len(body) == 4:
        return f"read {numbers[1]} {_READS[function]} from {numbers[0]}"
    if function in _READS:
        words = [body[at : at + 2].hex() for at in range(1, len(body) - 1, 2)]
        return f"{len(words)} registers: {' '.join(words)}"
    if function == 6 and len(body) == 4:
        return f"{'write' if sent else 'wrote'} {numbers[1]} to register {numbers[0]}"
    if function == 16 and sent:
        return f"write {numbers[1]} registers from {numbers[0]}: {body[5:].hex(' ', 2)}"
    if function == 16:
        return f"wrote {numbers[1]} registers from {numbers[0]}"
    return f"function {function}, {len(body)} bytes"
