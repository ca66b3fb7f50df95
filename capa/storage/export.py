"""Samples for other programs: CSV, long or wide, and wide Parquet."""

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from capa.storage.open import Bundle
from capa.storage.tables import wide

__all__ = ["CARRY_S", "EVERY_S", "write_csv", "write_wide_parquet"]

EVERY_S = 1.0
CARRY_S = 5.0


def write_csv(bundle: Bundle, target: BinaryIO, *, every_s: float | None = None) -> int:
    """Write samples as CSV, one a line, or wide where ``every_s`` is given; return the lines.

    Raises:
        BundleError: the samples can't be read.
        OSError: the target can't be written.
    """
    table = bundle.scalars()
    table = _plain(table) if every_s is None else _wide(bundle, table, every_s)
    pcsv.write_csv(table, target)
    return int(table.num_rows)


def write_wide_parquet(bundle: Bundle, target: Path, *, every_s: float = EVERY_S) -> int:
    """Write one column a channel and one row every ``every_s``; return the rows.

    Units are in the schema's metadata, by channel, as ``unit:<channel>``.

    Raises:
        BundleError: the samples can't be read.
        OSError: the target can't be written.
    """
    table = _wide(bundle, bundle.scalars(), every_s)
    units = {f"unit:{name}": unit for name, unit in bundle.channels().items()}
    told = {"capa.run_id": bundle.run_id, "capa.carry_s": str(CARRY_S), **units}
    with target.open("wb") as file:  # given a path, Arrow removes what it could not write: a device
        pq.write_table(table.replace_schema_metadata(told), file, compression="zstd")
    return int(table.num_rows)


def _plain(table: pa.Table) -> pa.Table:
    """Return text instead of dictionaries, which CSV does not know."""
    texts = [(name, pa.string()) for name in ("channel", "unit", "status")]
    for name, kind in texts:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(kind))
    return table


def _wide(bundle: Bundle, table: pa.Table, every_s: float) -> pa.Table:
    return wide(table, every_s=every_s, carry_s=max(CARRY_S, every_s))
