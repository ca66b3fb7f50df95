"""The twin's own record of every byte and every change of an output, with its instant."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["WireLog", "file_sink"]

Record = dict[str, Any]

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def file_sink(path: Path) -> Callable[[Record], None]:
    """Return a sink that writes each record as one whole line, with one unbuffered write.

    What was written so outlives a kill of this process. A disk that is full costs records, not
    the simulator.
    """
    fd = os.open(path, _NEW, 0o644)

    def write(record: Record) -> None:
        line = json.dumps(record, separators=(",", ":")) + "\n"
        with contextlib.suppress(OSError):
            os.write(fd, line.encode())

    return write


class WireLog:
    """Stamps records and hands them to a sink.

    Every record has ``t_ns``, ``link`` and ``event``: ``rx`` and ``tx`` (as the device sees it)
    with ``hex``; ``output`` with ``device``, ``field`` and ``value`` in the field's unit; ``fault``
    with ``device`` (None for a fault of the line), ``field`` (the kind), ``active``, ``value``;
    ``memory`` with ``device`` and ``value``, how often its non-volatile memory was written;
    ``misheard`` with ``hex``, what a host sent at another speed than the line's.

    Args:
        sink: takes the records.
        clock_ns: the instant of a record; CLOCK_MONOTONIC in the server.
    """

    def __init__(self, sink: Callable[[Record], None], clock_ns: Callable[[], int]) -> None:
        self._sink = sink
        self._clock_ns = clock_ns

    def rx(self, link: str, data: bytes) -> None:
        """Record bytes that came from the host."""
        self._bytes(link, "rx", data)

    def tx(self, link: str, data: bytes) -> None:
        """Record bytes that are about to be written to the host."""
        self._bytes(link, "tx", data)

    def misheard(self, link: str, data: bytes) -> None:
        """Record bytes that came at another speed, which no device took for bytes."""
        self._bytes(link, "misheard", data)

    def output(self, link: str, device: str, field: str, value: float) -> None:
        """Record what a device drives from now on."""
        self._write(link, "output", device=device, field=field, value=value)

    def memory(self, link: str, device: str, writes: int) -> None:
        """Record that a device has written its non-volatile memory."""
        self._write(link, "memory", device=device, value=writes)

    def fault(
        self, link: str, device: str | None, kind: str, *, active: bool, value: float | None
    ) -> None:
        """Record the beginning or the end of a fault."""
        self._write(link, "fault", device=device, field=kind, active=active, value=value)

    def _bytes(self, link: str, event: str, data: bytes) -> None:
        self._write(link, event, hex=data.hex())

    def _write(self, link: str, event: str, **facts: Any) -> None:  # noqa: ANN401 - JSON values
        self._sink({"t_ns": self._clock_ns(), "link": link, "event": event, **facts})
