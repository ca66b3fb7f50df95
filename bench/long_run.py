"""A long run as the recorder leaves it, made in seconds: six devices, 30 channels, 10 Hz.

The files are written by the recorder's own stores, in the format in which a run is recorded; only
what would be said by instruments is computed, many batches at once.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from capa.storage.folder import make_folder
from capa.storage.inflight import EVENTS_FILE, INFLIGHT_FILE, EventStore, InflightStore, Packed
from capa.storage.manifest import FORMAT_VERSION, Manifest
from capa.storage.records import FieldRow, RecordBatch
from capa.storage.samples import ColumnBatch

__all__ = ["CHANNELS", "ROWS_PER_S", "make_run"]

DEVICES = 6
FIELDS = 5
HZ = 10
FLUSH_S = 0.5
CHANNELS = tuple(f"d{device}.f{place}" for device in range(DEVICES) for place in range(FIELDS))
ROWS_PER_S = len(CHANNELS) * HZ
_POLLS = round(HZ * FLUSH_S)
_PER_BATCH = len(CHANNELS) * _POLLS
_BATCHES = 500
_ANCHOR = datetime(2026, 11, 20, 13, 15, tzinfo=UTC)
_CALIBRATED = 10
"""Of so many channels the value is not what the device said, and so has digits to the last bit."""


def make_run(root: Path, rows: int, *, records: bool) -> Path:
    """Make a bundle that has ended and is not finalized; with ``records``, what was said too.

    ``rows`` is brought up to a whole number of chunks; each is 250 s of the run.
    """
    run_id = "20261120-131500-0001"
    path = root / run_id
    chunks = -(-rows // (_BATCHES * _PER_BATCH))
    lasted_s = chunks * _BATCHES * FLUSH_S
    manifest = Manifest(
        run_id=run_id,
        run_status="completed",
        bundle_status="finalizing",
        started_utc=_ANCHOR,
        ended_utc=_ANCHOR,
        duration_s=lasted_s,
    )
    make_folder(path, {}, manifest)
    EventStore(path / EVENTS_FILE, run_id=run_id).close()
    info = {name: {"period_s": 1 / HZ, "stale_after_s": 1.0} for name in CHANNELS}
    meta = {
        "run_id": run_id,
        "anchor_utc": _ANCHOR.isoformat(),
        "format_version": str(FORMAT_VERSION),
        "channel_info": json.dumps(info),
    }
    store = InflightStore(path / INFLIGHT_FILE, meta=meta, units=dict.fromkeys(CHANNELS, "degC"))
    pattern = _Pattern.make()
    for chunk in range(chunks):
        store.write(list(_packed(pattern, chunk, records=records)))
    store.close()
    return path


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What is the same in every chunk: when each sample is due, and about what value it has."""

    times: pa.Array
    phase: pa.Array
    calibrated: pa.Array

    @classmethod
    def make(cls) -> "_Pattern":
        places = [
            (batch * FLUSH_S + poll / HZ + channel * 1e-3, channel)
            for batch in range(_BATCHES)
            for channel in range(len(CHANNELS))
            for poll in range(_POLLS)
        ]
        return cls(
            times=pa.array([round(at_s * 1e9) for at_s, _ in places], pa.int64()),
            phase=pa.array([float(channel) for _, channel in places]),
            calibrated=pa.array([channel < _CALIBRATED for _, channel in places]),
        )


def _packed(pattern: _Pattern, chunk: int, *, records: bool) -> Iterator[Packed]:
    """Yield the batches of one chunk: slow waves with noise, in hundredths, read a bit unevenly."""
    count = len(pattern.times)
    jitter = pc.cast(pc.multiply(pc.random(count), 4e6), pa.int64(), safe=False)
    times = pc.add(pc.add(pattern.times, round(chunk * _BATCHES * FLUSH_S * 1e9)), jitter)
    wave = pc.sin(pc.add(pc.divide(pc.cast(times, pa.float64(), safe=False), 6e11), pattern.phase))
    noise = pc.multiply(pc.random(count), 0.3)
    raw = pc.round(pc.add(pc.multiply(wave, 120.0), noise), ndigits=2)
    value = pc.if_else(pattern.calibrated, pc.add(pc.multiply(raw, 1.0021), 0.15), raw)
    columns = [_bytes(array) for array in (times, value, raw)]
    status, owners = bytes(_PER_BATCH), tuple((name, _POLLS) for name in CHANNELS)
    fields = _FIELDS
    numbers = b"".join(row.number.to_bytes(2, "little") * _POLLS for row in fields)
    for batch in range(_BATCHES):
        at, values, raws = (
            column[batch * _PER_BATCH * 8 : (batch + 1) * _PER_BATCH * 8] for column in columns
        )
        yield ColumnBatch(owners, _PER_BATCH, at, values, status, raws)
        if records:
            said = [f"A +{chunk % 100:03d}.{batch:03d} +{n:05.1f} Air" for n in range(_REPLIES)]
            yield RecordBatch(
                _PER_BATCH, fields, numbers, at, raws, status, _REPLY, json.dumps(said)
            )


_REPLIES = DEVICES * _POLLS
_FIELDS = tuple(
    FieldRow(number, name.partition(".")[0], f"family{number // 10}", name[3:], "degC")
    for number, name in enumerate(CHANNELS)
)
_REPLY = b"".join(
    (device * _POLLS + poll).to_bytes(4, "little")
    for device in range(DEVICES)
    for _ in range(FIELDS)
    for poll in range(_POLLS)
)


def _bytes(array: pa.Array) -> bytes:
    data: bytes = array.buffers()[1].to_pybytes()
    return data
