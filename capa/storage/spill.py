"""Rows sorted apart by a key, on the disk: so that no more than a part of a run is in memory."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Spill"]


class Spill:
    """One file a key, each with its rows in the order in which they were added.

    The files lie beside the bundle's own, on the disk that has to have the room anyway, and are
    leftovers by their names; they go with the block.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._folder = folder
        self._name = name
        self._schema = schema
        self._writers: dict[int, tuple[Path, pa.RecordBatchStreamWriter]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for path, writer in self._writers.values():
            writer.close()
            path.unlink(missing_ok=True)

    def add(self, keys: pa.Array, rows: pa.RecordBatch) -> None:
        """Add rows, each to the file of its key."""
        order = pc.sort_indices(keys)  # stable
        rows = rows.take(order)
        runs = pc.run_end_encode(keys.take(order))
        start = 0
        for key, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            self._writer(key).write_batch(rows.slice(start, end - start))
            start = end

    def _writer(self, key: int) -> pa.RecordBatchStreamWriter:
        if key not in self._writers:
            path = self._folder / f".{self._name}-{key}.capa-tmp"
            sink = pa.OSFile(str(path), "wb")
            self._writers[key] = path, pa.ipc.new_stream(sink, self._schema)
        return self._writers[key][1]

    def finish(self) -> list[int]:
        """Write what is left; return the keys that there are."""
        for _, writer in self._writers.values():
            writer.close()
        return sorted(self._writers)

    def read(self, key: int) -> Iterator[pa.RecordBatch]:
        """Yield a key's rows; read and not mapped, for what has been read of a map stays."""
        path, _ = self._writers[key]
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
            yield from stream
