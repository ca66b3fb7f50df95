"""Modbus writes as plain values, for what replays them without a driver."""

from typing import Literal

from adapters.modbus.codec import Query
from adapters.modbus.words import WordOrder
from capa.devices.safe_plan import ModbusFrame, ReadBack, RegisterNumber, SafeWrite

__all__ = ["NumberType", "read_back_of", "safe_write_of"]

NumberType = Literal["int16", "uint16", "int32", "float32"]
_DATA_AT = 3


def safe_write_of(query: Query, read_back: ReadBack | None, *, gap_s: float) -> SafeWrite:
    """Describe a query that writes."""
    return SafeWrite(query.frame, _shape(query), read_back, gap_s)


def read_back_of(
    query: Query, number: NumberType, order: WordOrder, *, gain: float, offset: float
) -> ReadBack:
    """Describe a query that reads one number, in the first registers of its reply."""
    return ReadBack(
        request=query.frame,
        reply=_shape(query),
        number=RegisterNumber(number, _DATA_AT, order),
        gain=gain,
        offset=offset,
    )


def _shape(query: Query) -> ModbusFrame:
    return ModbusFrame(query.prefix, query.length)
