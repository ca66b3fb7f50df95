"""Modbus RTU frames as values, both halves: the master's requests and the slave's replies.

Facts: Modbus Application Protocol v1.1b3 and Modbus over Serial Line v1.02. CRC and request
bodies are pymodbus's. Framing is not: its RTU framer hunts through garbage for anything that
resembles a frame, which is how a late reply becomes the next request's answer. RTU has no
transaction number, so here a reply must begin with exactly the bytes that this request implies,
have exactly their length, and end there. What remains possible (an older reply of the same unit,
function and count) is kept out by the link, which falls silent and drains after a time-out.
"""

from dataclasses import dataclass
from typing import assert_never

from pymodbus.constants import ExcCodes
from pymodbus.framer.rtu import FramerRTU
from pymodbus.pdu.decoders import DecodePDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from capa.errors import FrameError

__all__ = [
    "MAX_FRAME",
    "READ_HOLDING",
    "READ_INPUT",
    "WRITE_MULTIPLE",
    "WRITE_SINGLE",
    "BadRequest",
    "ExcCodes",
    "Query",
    "ReadRegisters",
    "Refusal",
    "Registers",
    "Reply",
    "ReplyCollector",
    "Request",
    "RequestCollector",
    "WriteRegister",
    "WriteRegisters",
    "Written",
    "crc_ok",
    "encode_reply",
    "encode_request",
    "with_crc",
]

READ_HOLDING = 3
READ_INPUT = 4
WRITE_SINGLE = 6
WRITE_MULTIPLE = 16
MAX_FRAME = 256

_MAX_READ = 125
_MAX_WRITE = 123
_REFUSED = 0x80
_REFUSAL_LENGTH = 5
_SHORTEST = 4
_CODE_NAMES = {code.value: code.name.lower().replace("_", " ") for code in ExcCodes}


@dataclass(frozen=True, slots=True)
class ReadRegisters:
    """Read ``count`` registers from ``address`` on (the number in the PDU, counted from 0)."""

    unit: int
    address: int
    count: int
    function: int = READ_HOLDING


@dataclass(frozen=True, slots=True)
class WriteRegister:
    """Write one register. Its reply is an echo: read back what matters."""

    unit: int
    address: int
    value: int

    @property
    def function(self) -> int:
        """The function code."""
        return WRITE_SINGLE


@dataclass(frozen=True, slots=True)
class WriteRegisters:
    """Write neighbouring registers in one go: the only safe way to write a float."""

    unit: int
    address: int
    values: tuple[int, ...]

    @property
    def function(self) -> int:
        """The function code."""
        return WRITE_MULTIPLE


Request = ReadRegisters | WriteRegister | WriteRegisters


@dataclass(frozen=True, slots=True)
class Registers:
    """What was read: two bytes a register, high byte first."""

    data: bytes

    def words(self) -> tuple[int, ...]:
        """Return the registers as unsigned integers."""
        data = self.data
        return tuple(data[i] << 8 | data[i + 1] for i in range(0, len(data) - 1, 2))


@dataclass(frozen=True, slots=True)
class Written:
    """The slave says that it took the value."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An exception reply: the slave understood and would not."""

    function: int
    code: int

    def __str__(self) -> str:
        name = _CODE_NAMES.get(self.code, "unknown to the standard")
        return f"exception {self.code:02X} ({name}) to function {self.function:02X}"


Reply = Registers | Written | Refusal


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A request with a good CRC that deserves an exception reply with ``code``."""

    unit: int
    function: int
    code: int


def with_crc(body: bytes) -> bytes:
    """Return a frame: the unit and the PDU, with their CRC behind them."""
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


def crc_ok(frame: bytes) -> bool:
    """Whether the last two bytes are the CRC of those before: the CRC over all is then zero."""
    return FramerRTU.compute_CRC(frame) == 0


def encode_request(request: Request) -> bytes:
    """Return the frame of a request.

    Raises:
        ValueError: a number that has no room in the frame: a mistake of the caller's.
    """
    if not 1 <= request.unit <= 247:
        raise ValueError(f"Modbus unit {request.unit} is not within 1 to 247")
    return with_crc(bytes((request.unit, request.function)) + _request_body(request))


def _request_body(request: Request) -> bytes:
    match request:
        case ReadRegisters(_, address, count, function):
            kind = {
                READ_HOLDING: ReadHoldingRegistersRequest,
                READ_INPUT: ReadInputRegistersRequest,
            }
            return kind[function](address=address, count=count).encode()
        case WriteRegister(_, address, value):
            return WriteSingleRegisterRequest(address=address, registers=[value]).encode()
        case WriteRegisters(_, address, values):
            if not 1 <= len(values) <= _MAX_WRITE:
                raise ValueError(f"{len(values)} registers in one write; 1 to {_MAX_WRITE} fit")
            return WriteMultipleRegistersRequest(address=address, registers=values).encode()
        case _:
            assert_never(request)


class Query:
    """A request and what its reply must look like; made once, asked often."""

    __slots__ = ("frame", "length", "prefix", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.frame = encode_request(request)
        if isinstance(request, ReadRegisters):
            self.prefix = bytes((request.unit, request.function, 2 * request.count))
            self.length = len(self.prefix) + 2 * request.count + 2
        else:
            self.prefix = self.frame[:6]
            self.length = 8

    def collector(self) -> "ReplyCollector":
        """Return a fresh collector for one exchange."""
        return ReplyCollector(self)

    def __repr__(self) -> str:
        return f"Query({self.request})"


class ReplyCollector:
    """Takes bytes as they come until they are the reply to one query."""

    __slots__ = ("_query", "_seen")

    def __init__(self, query: Query) -> None:
        self._query = query
        self._seen = b""

    def feed(self, chunk: bytes) -> Reply | None:
        """Add bytes; return the reply once it is whole.

        Raises:
            FrameError: another unit, function or register count, a wrong echo, a wrong CRC, or
                bytes behind the end.
        """
        seen = self._seen = self._seen + chunk
        query = self._query
        if not seen.startswith(query.prefix):
            return self._without_prefix(seen)
        if len(seen) < query.length:
            return None
        self._check_end(seen, query.length)
        if isinstance(query.request, ReadRegisters):
            return Registers(seen[3:-2])
        return Written()

    def _without_prefix(self, seen: bytes) -> Refusal | None:
        """Judge bytes that do not begin like the reply: incomplete, a refusal, or foreign."""
        prefix = self._query.prefix
        if prefix.startswith(seen):
            return None
        if seen[0] != prefix[0]:
            raise self._error(f"a reply from unit {seen[0]}, not {prefix[0]}: {seen.hex(' ')}")
        if seen[1] == prefix[1] | _REFUSED:
            if len(seen) < _REFUSAL_LENGTH:
                return None
            self._check_end(seen, _REFUSAL_LENGTH)
            return Refusal(prefix[1], seen[2])
        if seen[1] != prefix[1]:
            raise self._error(f"a reply to function {seen[1]}, not {prefix[1]}: {seen.hex(' ')}")
        raise self._error(f"a reply to another request of this unit: {seen.hex(' ')}")

    def _check_end(self, seen: bytes, length: int) -> None:
        if not crc_ok(seen[:length]):
            raise self._error(f"the CRC is wrong: {seen.hex(' ')}")
        if len(seen) > length:
            raise self._error(f"bytes behind the end of the reply: {seen.hex(' ')}")

    def _error(self, what: str) -> FrameError:
        return FrameError(f"{self._query.request}: {what}")


class RequestCollector:
    """Cuts what a master sends into requests; the slave's half.

    Frames are cut by length, since a gap in time cannot be seen behind a USB adapter; only a
    function that the standard does not know is cut where its CRC fits. A frame with a wrong CRC
    is forgotten without an answer, as the standard demands.
    """

    def __init__(self) -> None:
        self._seen = b""

    def reset(self) -> None:
        """Forget what was half received: the line has been silent."""
        self._seen = b""

    def feed(self, chunk: bytes) -> list[Request | BadRequest]:
        """Add bytes; return the requests that they complete, of every unit on the line."""
        self._seen += chunk
        requests: list[Request | BadRequest] = []
        while (size := _request_size(self._seen)) and len(self._seen) >= size:
            frame, self._seen = self._seen[:size], self._seen[size:]
            if not crc_ok(frame):
                self._seen = b""
                break
            requests.append(_decode_request(frame))
        if len(self._seen) > MAX_FRAME:
            self._seen = b""
        return requests


def _request_size(seen: bytes) -> int:
    """Return the length of the frame that ``seen`` begins with; 0 while that is unknown."""
    if len(seen) < _SHORTEST:
        return 0
    known = DecodePDU.pdu_table.get(seen[1])
    if known is None:
        return len(seen) if crc_ok(seen) else 0
    fixed, count_at = known[0].rtu_frame_size, known[0].rtu_byte_count_pos
    if fixed:
        return fixed
    if count_at and len(seen) > count_at:
        return count_at + 1 + seen[count_at] + 2
    return 0 if count_at else len(seen) if crc_ok(seen) else 0


def _decode_request(frame: bytes) -> Request | BadRequest:
    """Turn a frame with a good CRC into a request, or into the refusal that it deserves."""
    unit, function = frame[0], frame[1]
    if function not in {READ_HOLDING, READ_INPUT, WRITE_SINGLE, WRITE_MULTIPLE}:
        return BadRequest(unit, function, ExcCodes.ILLEGAL_FUNCTION)
    address = frame[2] << 8 | frame[3]
    number = frame[4] << 8 | frame[5]
    if function == WRITE_SINGLE:
        return WriteRegister(unit, address, number)
    if function == WRITE_MULTIPLE:
        words = Registers(frame[7:-2]).words()
        if not 1 <= number <= _MAX_WRITE or frame[6] != 2 * number:
            return BadRequest(unit, function, ExcCodes.ILLEGAL_VALUE)
        return WriteRegisters(unit, address, words)
    if not 1 <= number <= _MAX_READ:
        return BadRequest(unit, function, ExcCodes.ILLEGAL_VALUE)
    return ReadRegisters(unit, address, number, function)


def encode_reply(request: Request | BadRequest, reply: Reply) -> bytes:
    """Return the frame of a reply; the slave's half."""
    match reply:
        case Refusal(function, code):
            return with_crc(bytes((request.unit, function | _REFUSED, code)))
        case Registers(data):
            return with_crc(bytes((request.unit, request.function, len(data))) + data)
        case Written():
            return _encode_written(request)
        case _:
            assert_never(reply)


def _encode_written(request: Request | BadRequest) -> bytes:
    match request:
        case WriteRegister():
            return encode_request(request)
        case WriteRegisters(unit, address, values):
            head = bytes((unit, WRITE_MULTIPLE))
            return with_crc(head + address.to_bytes(2, "big") + len(values).to_bytes(2, "big"))
        case ReadRegisters() | BadRequest():
            raise ValueError(f"{request} is not a write")
        case _:
            assert_never(request)
