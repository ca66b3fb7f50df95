"""Samples in flight: gathered by channel on the loop, packed into columns, one row a flush."""

import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from capa.channels.sample import Sample, Status
from capa.clock import RunClock

__all__ = [
    "STATUS_CODES",
    "STATUS_OF_CODE",
    "ColumnBatch",
    "SampleBuffer",
    "check_sum",
    "little_endian",
    "pack",
]

STATUS_CODES: Mapping[Status, int] = {
    Status.OK: 0,
    Status.SETTLING: 1,
    Status.UNDERRANGE: 2,
    Status.OVERLOAD: 3,
    Status.SENSOR_FAIL: 4,
    Status.COMM_ERROR: 5,
    Status.STALE: 6,
}
"""The uint8 of each status; part of the format, so codes are added and never changed."""

STATUS_OF_CODE: Mapping[int, Status] = {code: status for status, code in STATUS_CODES.items()}

_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class ColumnBatch:
    """Samples of one flush as little-endian columns, channel by channel in order of arrival.

    ``channels`` says whose samples they are: so many of the first channel, then so many of the
    next. ``t_mono_ns`` is int64, ``value`` and ``raw_value`` float64 (NaN for none), ``status``
    uint8.
    """

    channels: tuple[tuple[str, int], ...]
    count: int
    t_mono_ns: bytes
    value: bytes
    status: bytes
    raw_value: bytes


def pack(columns: Mapping[str, Sequence[Sample]], clock: RunClock) -> ColumnBatch:
    """Turn samples, by channel, into columns."""
    ok = Status.OK
    samples = [sample for column in columns.values() for sample in column]
    raw = [_NAN if sample.raw_value is None else sample.raw_value for sample in samples]
    codes = [0 if sample.status is ok else STATUS_CODES[sample.status] for sample in samples]
    return ColumnBatch(
        channels=tuple((name, len(column)) for name, column in columns.items()),
        count=len(samples),
        t_mono_ns=little_endian(array("q", [clock.ns_at(sample.at_s) for sample in samples])),
        value=little_endian(array("d", [sample.value for sample in samples])),
        status=bytes(codes),
        raw_value=little_endian(array("d", raw)),
    )


def check_sum(*columns: bytes) -> int:
    """Return zlib's CRC-32 over packed columns, in their order."""
    crc = 0
    for column in columns:
        crc = zlib.crc32(column, crc)
    return crc


def little_endian(column: "array[int] | array[float]") -> bytes:
    """Return an array's bytes as every machine reads them."""
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


class SampleBuffer:
    """What has arrived since the last flush, by channel; used on the loop only."""

    def __init__(self, clock: RunClock) -> None:
        self._clock = clock
        self._columns: dict[str, list[Sample]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many samples wait for the next flush."""
        return self._count

    def extend(self, samples: Iterable[Sample]) -> None:
        """Take samples, cheaply."""
        columns = self._columns
        for sample in samples:
            column = columns.get(sample.channel)
            if column is None:
                columns[sample.channel] = [sample]
            else:
                column.append(sample)
            self._count += 1

    def take(self) -> tuple[ColumnBatch, ...]:
        """Pack and forget everything gathered so far."""
        if not self._count:
            return ()
        columns, self._columns, self._count = self._columns, {}, 0
        return (pack(columns, self._clock),)
