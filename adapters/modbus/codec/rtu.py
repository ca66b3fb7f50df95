"""Modbus RTU frames, both halves: the master's requests and the slave's replies.

Facts: Modbus over Serial Line v1.02. The CRC is pymodbus's. Framing is not: its RTU framer hunts
through garbage for anything that resembles a frame, which is how a late reply becomes the next
request's answer. RTU has no transaction number, so here a reply must begin with exactly the bytes
that this request implies, have exactly their length, and end there. What remains possible (an
older reply of the same unit, function and count) is kept out by the link, which falls silent and
drains after a time-out.
"""

from pymodbus.framer.rtu import FramerRTU
from pymodbus.pdu.decoders import DecodePDU

from adapters.modbus.codec.pdu import (
    data_reply,
    decode_request_pdu,
    encode_reply_pdu,
    encode_request_pdu,
    reply_shape,
)
from adapters.modbus.codec.values import REFUSED, BadRequest, Refusal, Reply, Request
from capa.errors import FrameError

__all__ = [
    "MAX_FRAME",
    "Query",
    "ReplyCollector",
    "RequestCollector",
    "crc_ok",
    "encode_reply",
    "encode_request",
    "with_crc",
]

MAX_FRAME = 256

_REFUSAL_LENGTH = 5
_SHORTEST = 4


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
    return with_crc(bytes((request.unit,)) + encode_request_pdu(request))


class Query:
    """A request and what its reply must look like; made once, asked often.

    ``pdu`` is the request without its frame, ``head`` what the PDU of the reply begins with and
    ``size`` how long that PDU is. ``frame``, ``prefix`` and ``length`` are the same for RTU.
    """

    __slots__ = ("frame", "head", "length", "pdu", "prefix", "request", "size")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.pdu = encode_request_pdu(request)
        self.head, self.size = reply_shape(request, self.pdu)
        rtu = 1 <= request.unit <= 247
        self.frame = encode_request(request) if rtu else b""
        self.prefix = bytes((request.unit,)) + self.head
        self.length = 1 + self.size + 2

    def collector(self) -> "ReplyCollector":
        """Return a fresh collector for one exchange over RTU."""
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
        return data_reply(query.request, seen[3:-2])

    def _without_prefix(self, seen: bytes) -> Refusal | None:
        """Judge bytes that do not begin like the reply: incomplete, a refusal, or foreign."""
        prefix = self._query.prefix
        if prefix.startswith(seen):
            return None
        if seen[0] != prefix[0]:
            raise self._foreign(f"a reply from unit {seen[0]}, not {prefix[0]}: {seen.hex(' ')}")
        if seen[1] == prefix[1] | REFUSED:
            if len(seen) < _REFUSAL_LENGTH:
                return None
            self._check_end(seen, _REFUSAL_LENGTH)
            return Refusal(prefix[1], seen[2])
        if seen[1] != prefix[1]:
            raise self._foreign(f"a reply to function {seen[1]}, not {prefix[1]}: {seen.hex(' ')}")
        raise self._foreign(f"a reply to another request of this unit: {seen.hex(' ')}")

    def _check_end(self, seen: bytes, length: int) -> None:
        if not crc_ok(seen[:length]):
            raise self._error(f"the CRC is wrong: {seen.hex(' ')}", "checksum")
        if len(seen) > length:
            raise self._error(f"bytes behind the end of the reply: {seen.hex(' ')}", "doubled")

    def _foreign(self, what: str) -> FrameError:
        return self._error(what, "foreign")

    def _error(self, what: str, fault: str) -> FrameError:
        return FrameError(f"{self._query.request}: {what}", fault=fault)


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
            requests.append(decode_request_pdu(frame[0], frame[1:-2]))
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


def encode_reply(request: Request | BadRequest, reply: Reply) -> bytes:
    """Return the frame of a reply; the slave's half."""
    return with_crc(bytes((request.unit,)) + encode_reply_pdu(request, reply))
