"""Arrow columns that both tables of a bundle share: names, instants, statuses."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capa.storage.samples import STATUS_OF_CODE

__all__ = [
    "ENCODING",
    "INSTANT",
    "TEXT",
    "from_bytes",
    "nan_to_null",
    "repeated",
    "seconds",
    "statuses",
    "utc",
]

TEXT = pa.dictionary(pa.int32(), pa.string())
INSTANT = pa.timestamp("us", tz="UTC")
_NS_PER_S = 1e9

ENCODING: dict[str, Any] = {
    "compression": "zstd",
    "write_page_checksum": True,
    # Measurements hardly ever repeat: trying a dictionary on them costs more than all the rest.
    "use_dictionary": ["channel", "device", "field", "unit", "status", "native"],
    "column_encoding": {
        "t_mono_ns": "DELTA_BINARY_PACKED",
        "t_utc": "DELTA_BINARY_PACKED",
        "t_mono_s": "BYTE_STREAM_SPLIT",
        "value": "BYTE_STREAM_SPLIT",
        "raw_value": "BYTE_STREAM_SPLIT",
    },
}


def from_bytes(kind: pa.DataType, pieces: Sequence[bytes]) -> pa.Array:
    """Return packed columns, one after another, as an array."""
    data = b"".join(pieces)
    width = kind.bit_width // 8
    return pa.Array.from_buffers(kind, len(data) // width, [None, pa.py_buffer(data)])


def seconds(times: pa.Array) -> pa.Array:
    """Return nanoseconds as seconds."""
    return pc.divide(times.cast(pa.float64(), safe=False), _NS_PER_S)


def utc(times: pa.Array, anchor_us: int) -> pa.Array:
    """Return nanoseconds since an anchor (microseconds since 1970) as instants."""
    return pc.add(pc.divide(times, 1000), anchor_us).view(INSTANT)


def statuses(codes: pa.Array) -> pa.Array:
    """Return status codes as their names."""
    names = [str(STATUS_OF_CODE[code]) for code in sorted(STATUS_OF_CODE)]
    return pa.DictionaryArray.from_arrays(codes.cast(pa.int32()), pa.array(names))


def repeated(place: int, count: int, texts: Sequence[str]) -> pa.Array:
    """Return one of the texts, so many times."""
    indices = pa.repeat(pa.scalar(place, pa.int32()), count)
    return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string()))


def nan_to_null(values: pa.Array) -> pa.Array:
    """Return the values, with null where there is none."""
    missing = pc.is_nan(values)
    if not pc.any(missing).as_py():
        return values
    return pc.if_else(missing, pa.scalar(None, pa.float64()), values)
