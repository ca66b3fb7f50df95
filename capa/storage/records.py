"""What the devices said, as they said it, on its way to ``device_records/<adapter>.parquet``."""

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from capa.clock import RunClock
from capa.devices.adapter import FieldInfo, Reading
from capa.storage.samples import STATUS_CODES, little_endian

__all__ = ["FieldRow", "RecordBatch", "RecordBuffer", "Talker"]


class Talker(Protocol):
    """The part of a device driver that a record names."""

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        ...

    @property
    def family(self) -> str:
        """The name of its family."""
        ...

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        """What it can tell, with units."""
        ...


@dataclass(frozen=True, slots=True)
class FieldRow:
    """A field that a device told of."""

    number: int
    device: str
    adapter: str
    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Readings of one flush as little-endian columns, device by device in order of arrival.

    ``field`` is uint16 (``FieldRow.number``), ``t_mono_ns`` int64, ``value`` float64 (NaN for
    none), ``status`` uint8, ``reply`` uint32, the place in ``replies``, a JSON array of texts.
    ``fields`` are all that were told of so far, so that a batch that is dropped leaves the next
    one readable.
    """

    count: int
    fields: tuple[FieldRow, ...]
    field: bytes
    t_mono_ns: bytes
    value: bytes
    status: bytes
    reply: bytes
    replies: str


def _without_repeats(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the texts without those that repeat the one before, and each one's place in them."""
    kept: list[str] = []
    places = []
    for text in texts:
        if not kept or kept[-1] != text:
            kept.append(text)
        places.append(len(kept) - 1)
    return kept, places


class RecordBuffer:
    """Readings since the last flush, by device; used on the loop only."""

    def __init__(self, clock: RunClock) -> None:
        self._clock = clock
        self._said: dict[str, tuple[Talker, list[Reading]]] = {}
        self._count = 0
        self._numbers: dict[tuple[str, str], int] = {}
        self._fields: tuple[FieldRow, ...] = ()

    def __len__(self) -> int:
        """How many readings wait for the next flush."""
        return self._count

    def extend(self, talker: Talker, readings: Sequence[Reading]) -> None:
        """Take what a device said, cheaply."""
        said = self._said.get(talker.name)
        if said is None:
            said = self._said[talker.name] = (talker, [])
        said[1].extend(readings)
        self._count += len(readings)

    def take(self) -> tuple[RecordBatch, ...]:
        """Pack and forget everything gathered so far."""
        if not self._count:
            return ()
        said, self._said, self._count = self._said, {}, 0
        numbers = array("H")
        for talker, heard in said.values():
            numbers.extend([self._number(talker, reading.field) for reading in heard])
        readings = [reading for _, heard in said.values() for reading in heard]
        replies, reply = _without_repeats([reading.native for reading in readings])
        clock = self._clock
        batch = RecordBatch(
            count=len(readings),
            fields=self._fields,
            field=little_endian(numbers),
            t_mono_ns=little_endian(array("q", [clock.ns_at(it.at_s) for it in readings])),
            value=little_endian(array("d", [it.value for it in readings])),
            status=bytes([STATUS_CODES[it.status] for it in readings]),
            reply=little_endian(array("I", reply)),
            replies=json.dumps(replies),
        )
        return (batch,)

    def _number(self, talker: Talker, name: str) -> int:
        key = (talker.name, name)
        found = self._numbers.get(key)
        if found is not None:
            return found
        info = talker.fields.get(name)
        unit = "" if info is None else info.unit
        number = self._numbers[key] = len(self._fields)
        row = FieldRow(number, talker.name, talker.family, name, unit)
        self._fields = (*self._fields, row)
        return number
