"""What is between the frames: function, numbers, data. Bodies of requests are pymodbus's."""

from typing import assert_never

from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from adapters.modbus.codec.values import (
    MAX_READ,
    MAX_READ_BITS,
    MAX_WRITE,
    READ_COILS,
    READ_DISCRETE,
    READ_HOLDING,
    READ_INPUT,
    REFUSED,
    WRITE_COIL,
    WRITE_MULTIPLE,
    WRITE_SINGLE,
    BadRequest,
    Bits,
    ExcCodes,
    ReadBits,
    ReadRegisters,
    Refusal,
    Registers,
    Reply,
    Request,
    WriteCoil,
    WriteRegister,
    WriteRegisters,
    Written,
)

__all__ = [
    "data_reply",
    "decode_request_pdu",
    "encode_reply_pdu",
    "encode_request_pdu",
    "reply_shape",
]

_READS_REGISTERS = {
    READ_HOLDING: ReadHoldingRegistersRequest,
    READ_INPUT: ReadInputRegistersRequest,
}
_READS_BITS = {READ_COILS: ReadCoilsRequest, READ_DISCRETE: ReadDiscreteInputsRequest}
_COIL_ON, _COIL_OFF = 0xFF00, 0x0000
_KNOWN = {*_READS_REGISTERS, *_READS_BITS, WRITE_COIL, WRITE_SINGLE, WRITE_MULTIPLE}


def encode_request_pdu(request: Request) -> bytes:
    """Return function and body.

    Raises:
        ValueError: a number that has no room: a mistake of the caller's.
    """
    return bytes((request.function,)) + _body(request)


def _body(request: Request) -> bytes:
    match request:
        case ReadRegisters(_, address, count, function):
            _check(count, MAX_READ, "registers in one read")
            return _READS_REGISTERS[function](address=address, count=count).encode()
        case ReadBits(_, address, count, function):
            _check(count, MAX_READ_BITS, "bits in one read")
            return _READS_BITS[function](address=address, count=count).encode()
        case WriteRegister(_, address, value):
            return WriteSingleRegisterRequest(address=address, registers=[value]).encode()
        case WriteCoil(_, address, on):
            return WriteSingleCoilRequest(address=address, bits=[on]).encode()
        case WriteRegisters(_, address, values):
            _check(len(values), MAX_WRITE, "registers in one write")
            return WriteMultipleRegistersRequest(address=address, registers=values).encode()
        case _:
            assert_never(request)


def _check(count: int, most: int, what: str) -> None:
    if not 1 <= count <= most:
        raise ValueError(f"{count} {what}; 1 to {most} fit")


def reply_shape(request: Request, pdu: bytes) -> tuple[bytes, int]:
    """Return what the PDU of the reply to ``pdu`` begins with, and how long it is."""
    match request:
        case ReadRegisters():
            size = 2 * request.count
            return bytes((request.function, size)), 2 + size
        case ReadBits():
            size = (request.count + 7) // 8
            return bytes((request.function, size)), 2 + size
        case WriteRegister() | WriteCoil() | WriteRegisters():
            return pdu[:5], 5
        case _:
            assert_never(request)


def data_reply(request: Request, data: bytes) -> Registers | Bits | Written:
    """Return the reply that carries ``data``: what follows the byte count."""
    match request:
        case ReadRegisters():
            return Registers(data)
        case ReadBits():
            return Bits(data)
        case WriteRegister() | WriteCoil() | WriteRegisters():
            return Written()
        case _:
            assert_never(request)


# --- the slave's half --------------------------------------------------------------------------


def decode_request_pdu(unit: int, pdu: bytes) -> Request | BadRequest:
    """Turn a whole PDU into a request, or into the refusal that it deserves."""
    function = pdu[0] if pdu else 0
    if function not in _KNOWN:
        return BadRequest(unit, function, ExcCodes.ILLEGAL_FUNCTION)
    if len(pdu) < 5 or (function != WRITE_MULTIPLE and len(pdu) != 5):
        return BadRequest(unit, function, ExcCodes.ILLEGAL_VALUE)
    address, number = pdu[1] << 8 | pdu[2], pdu[3] << 8 | pdu[4]
    found = _decoded(unit, function, address, number, pdu)
    return BadRequest(unit, function, ExcCodes.ILLEGAL_VALUE) if found is None else found


def _decoded(unit: int, function: int, address: int, number: int, pdu: bytes) -> Request | None:
    if function in _READS_REGISTERS:
        ok = 1 <= number <= MAX_READ
        return ReadRegisters(unit, address, number, function) if ok else None
    if function in _READS_BITS:
        ok = 1 <= number <= MAX_READ_BITS
        return ReadBits(unit, address, number, function) if ok else None
    if function == WRITE_COIL:
        ok = number in {_COIL_ON, _COIL_OFF}
        return WriteCoil(unit, address, number == _COIL_ON) if ok else None
    if function == WRITE_SINGLE:
        return WriteRegister(unit, address, number)
    data = pdu[6:]
    if not 1 <= number <= MAX_WRITE or len(data) != 2 * number or pdu[5] != 2 * number:
        return None
    return WriteRegisters(unit, address, Registers(data).words())


def encode_reply_pdu(request: Request | BadRequest, reply: Reply) -> bytes:
    """Return the PDU of a reply."""
    match reply:
        case Refusal(function, code):
            return bytes((function | REFUSED, code))
        case Registers(data) | Bits(data):
            return bytes((request.function, len(data))) + data
        case Written():
            if isinstance(request, BadRequest | ReadRegisters | ReadBits):
                raise ValueError(f"{request} is not a write")  # noqa: TRY004 - a wrong pair, no type
            return encode_request_pdu(request)[:5]
        case _:
            assert_never(reply)
