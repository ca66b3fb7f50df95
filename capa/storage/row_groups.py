"""Parquet files of a bundle, written in row groups of one size and read back."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from capa.storage.aside import Aside
from capa.storage.columns import ENCODING

__all__ = ["ROW_GROUP_ROWS", "RowGroups", "check_parquet"]

ROW_GROUP_ROWS = 262_144


class RowGroups:
    """A file that is packed and written by a second thread, while the next rows are made ready.

    No more than two row groups are in memory: the one that is written, the one that grows.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be written; from any call.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._aside = Aside()
        self._writer = pq.ParquetWriter(path, schema, **ENCODING)
        self._pending: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._writer, self._aside:
            if kind is None and self._rows:
                self._write(pa.concat_tables(self._pending))
        pa.default_memory_pool().release_unused()  # else the peak of each file stays to the end

    def add(self, rows: pa.Table) -> None:
        """Take rows, in the order in which they are to be in the file."""
        self._pending.append(rows)
        self._rows += rows.num_rows
        if self._rows >= ROW_GROUP_ROWS:
            table = pa.concat_tables(self._pending)
            full = self._rows - self._rows % ROW_GROUP_ROWS
            self._write(table.slice(0, full))
            self._rows -= full
            self._pending = [table.slice(full)] if self._rows else []

    def _write(self, table: pa.Table) -> None:
        self._aside.do(self._writer.write_table, table, row_group_size=ROW_GROUP_ROWS)


def check_parquet(path: Path) -> int:
    """Read a Parquet file back, every page of it, one row group after another; return its rows.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        rows: int = sum(file.read_row_group(place).num_rows for place in range(file.num_row_groups))
    pa.default_memory_pool().release_unused()
    return rows
