"""Modbus TCP: a PDU behind the MBAP header, both halves.

Facts: Modbus Messaging on TCP/IP v1.0b. There is no CRC (TCP has one), and there is a transaction
number: a reply to an older request is known by it, and refused.
"""

import struct

from adapters.modbus.codec.pdu import data_reply, decode_request_pdu, encode_reply_pdu
from adapters.modbus.codec.rtu import Query
from adapters.modbus.codec.values import REFUSED, BadRequest, Refusal, Reply, Request
from capa.errors import FrameError

__all__ = [
    "TcpReplyCollector",
    "TcpRequest",
    "TcpRequestCollector",
    "encode_tcp_request",
    "tcp_reply_prefix",
]

_HEADER = struct.Struct(">HHHB")
_LONGEST_PDU = 253


def encode_tcp_request(query: Query, transaction: int) -> bytes:
    """Return the frame of a request.

    Raises:
        ValueError: the unit is not within 0 to 255.
    """
    if not 0 <= query.request.unit <= 255:
        raise ValueError(f"Modbus unit {query.request.unit} is not within 0 to 255")
    return _frame(transaction, query.request.unit, query.pdu)


def tcp_reply_prefix(query: Query, transaction: int) -> tuple[bytes, int]:
    """Return what the frame of the reply begins with, and how long it is."""
    header = _HEADER.pack(transaction, 0, 1 + query.size, query.request.unit)
    return header + query.head, _HEADER.size + query.size


def _frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    return _HEADER.pack(transaction, 0, 1 + len(pdu), unit) + pdu


class TcpReplyCollector:
    """Takes bytes as they come until they are the reply to one transaction."""

    __slots__ = ("_query", "_seen", "_transaction")

    def __init__(self, query: Query, transaction: int) -> None:
        self._query = query
        self._transaction = transaction
        self._seen = b""

    def feed(self, chunk: bytes) -> Reply | None:
        """Add bytes; return the reply once it is whole.

        Raises:
            FrameError: another protocol, transaction, unit, function or size, or bytes behind the
                end.
        """
        seen = self._seen = self._seen + chunk
        if len(seen) < _HEADER.size:
            return None
        transaction, protocol, length, unit = _HEADER.unpack_from(seen)
        if protocol != 0 or not 3 <= length <= 1 + _LONGEST_PDU:
            raise self._error(f"no Modbus TCP header: {seen[:16].hex(' ')}", "garbled")
        if transaction != self._transaction or unit != self._query.request.unit:
            wanted = f"{self._transaction} of unit {self._query.request.unit}"
            raise self._error(f"transaction {transaction} of unit {unit}, not {wanted}", "foreign")
        end = _HEADER.size - 1 + length
        if len(seen) < end:
            return None
        if len(seen) > end:
            raise self._error(f"bytes behind the end of the reply: {seen.hex(' ')}", "doubled")
        return self._judge(seen[_HEADER.size : end])

    def _judge(self, pdu: bytes) -> Reply:
        query = self._query
        if len(pdu) == 2 and pdu[0] == query.pdu[0] | REFUSED:
            return Refusal(query.pdu[0], pdu[1])
        if len(pdu) != query.size or not pdu.startswith(query.head):
            raise self._error(f"a reply to another request: {pdu.hex(' ')}", "foreign")
        return data_reply(query.request, pdu[2:])

    def _error(self, what: str, fault: str) -> FrameError:
        return FrameError(f"{self._query.request}: {what}", fault=fault)


class TcpRequest:
    """A request that a server received, and the way to answer it."""

    __slots__ = ("_transaction", "request")

    def __init__(self, transaction: int, request: Request | BadRequest) -> None:
        self._transaction = transaction
        self.request = request

    def answer(self, reply: Reply) -> bytes:
        """Return the frame of the reply, with the request's own transaction number."""
        pdu = encode_reply_pdu(self.request, reply)
        return _frame(self._transaction, self.request.unit, pdu)


class TcpRequestCollector:
    """Cuts what a client sends into requests; the server's half.

    Bytes that are no header leave nothing to go on by: all that has come is forgotten, as a
    server would close the connection.
    """

    def __init__(self) -> None:
        self._seen = b""

    def reset(self) -> None:
        """Keep what was half received: in a stream of TCP a pause means nothing."""

    def feed(self, chunk: bytes) -> list[TcpRequest]:
        """Add bytes; return the requests that they complete, of every unit."""
        self._seen += chunk
        requests: list[TcpRequest] = []
        while len(self._seen) >= _HEADER.size:
            transaction, protocol, length, unit = _HEADER.unpack_from(self._seen)
            if protocol != 0 or not 2 <= length <= 1 + _LONGEST_PDU:
                self._seen = b""
                break
            end = _HEADER.size - 1 + length
            if len(self._seen) < end:
                break
            pdu, self._seen = self._seen[_HEADER.size : end], self._seen[end:]
            requests.append(TcpRequest(transaction, decode_request_pdu(unit, pdu)))
        return requests
