"""Modbus writes as plain values, for what replays them without a driver."""

from typing import Literal

from adapters.modbus.codec import Framing, Query, encode_tcp_request, tcp_reply_prefix
from adapters.modbus.words import WordOrder
from capa.devices.safe_plan import ModbusFrame, ReadBack, RegisterNumber, SafeWrite

__all__ = ["NumberType", "read_back_of", "safe_write_of"]

NumberType = Literal["int16", "uint16", "int32", "float32"]
_WRITES, _READS = 0xCA01, 0xCA02
"""Transaction numbers of Modbus TCP: on a connection of its own, two tell all there is apart."""


def safe_write_of(
    query: Query, read_back: ReadBack | None, *, gap_s: float, framing: Framing = "rtu"
) -> SafeWrite:
    """Describe a query that writes."""
    request, accepted = _spoken(query, framing, _WRITES)
    return SafeWrite(request, accepted, read_back, gap_s)


def read_back_of(
    query: Query,
    number: NumberType,
    order: WordOrder,
    *,
    gain: float,
    offset: float,
    framing: Framing = "rtu",
) -> ReadBack:
    """Describe a query that reads one number, in the first registers of its reply."""
    request, reply = _spoken(query, framing, _READS)
    return ReadBack(
        request=request,
        reply=reply,
        number=RegisterNumber(number, len(reply.prefix), order),
        gain=gain,
        offset=offset,
    )


def _spoken(query: Query, framing: Framing, transaction: int) -> tuple[bytes, ModbusFrame]:
    if framing == "rtu":
        return query.frame, ModbusFrame(query.prefix, query.length)
    prefix, length = tcp_reply_prefix(query, transaction)
    return encode_tcp_request(query, transaction), ModbusFrame(prefix, length, tcp=True)
