"""SQL over all bundles: DuckDB on the Parquet files as they lie, nothing imported or converted.

Views: ``scalars`` (run_id and the columns of ``scalars.parquet``), ``events`` (run_id and the
columns of ``events``), ``runs`` (one row a run, as ``capa bundle list --json`` says it).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from capa.errors import BundleError
from capa.storage.catalog import RunRow, catalogued
from capa.storage.open import RecordedEvent, open_bundle
from capa.storage.pieces import COLUMNS, SCALARS_FILE

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Answer", "ask"]

Answer = tuple[list[str], list[tuple[Any, ...]]]
"""Names of the columns, and rows."""

_EVENTS = pa.schema(
    [
        ("run_id", pa.string()),
        *(
            (name, pa.int64() if name in ("id", "t_mono_ns") else pa.string())
            for name in RecordedEvent._fields
        ),
    ]
)
_SCALARS = (
    "CREATE VIEW scalars AS SELECT regexp_extract(filename, '([^/]+)/scalars.parquet$', 1)"
    " AS run_id, * EXCLUDE (filename) FROM read_parquet("
)


def ask(runs_root: Path, sql: str, *, tell: Callable[[str], object] = lambda _: None) -> Answer:
    """Answer a query over every bundle of a folder.

    ``tell`` hears of each bundle whose samples can't be read, and so are left out.

    Raises:
        BundleError: DuckDB is not installed, the query is wrong, or the folder can't be read.
    """
    try:
        import duckdb
    except ImportError:
        raise BundleError(
            "queries need DuckDB, which is an extra: pip install 'capa[query]'"
        ) from None
    runs = catalogued(runs_root)
    try:
        with duckdb.connect(":memory:") as connection:
            _make_views(connection, runs_root, runs, sql, tell)
            found = connection.sql(sql)
            if found is None:
                raise BundleError("the query returns nothing; ask for rows with SELECT")
            # By Arrow: DuckDB's own way to times with a zone needs a package that we have not.
            table = found.to_arrow_table()
            cells = [column.to_pylist() for column in table.columns]
            return list(found.columns), list(zip(*cells, strict=True))
    except duckdb.Error as error:
        raise BundleError(f"the query can't be answered: {error}") from error


def _make_views(
    connection: "DuckDBPyConnection",
    runs_root: Path,
    runs: Sequence[RunRow],
    sql: str,
    tell: Callable[[str], object],
) -> None:
    import duckdb

    connection.execute("SET TimeZone = 'UTC'")
    connection.register("_runs", _runs_table(runs))
    connection.execute(
        "CREATE VIEW runs AS SELECT * REPLACE (CAST(started_utc AS TIMESTAMPTZ) AS started_utc,"
        " CAST(ended_utc AS TIMESTAMPTZ) AS ended_utc) FROM _runs"
    )
    files = [runs_root / run.folder / SCALARS_FILE for run in runs]
    files = [file.absolute() for file in files if _is_there(file, tell)]
    try:
        _view_scalars(connection, files)
    except duckdb.Error:  # one that can't be read is no reason to know nothing of the others
        _view_scalars(connection, [file for file in files if _is_readable(file, tell)])
    if re.search(r"\bevents\b", sql, re.IGNORECASE):  # they are read; skip it where not asked
        connection.register("events", _events_table(runs_root, runs))


def _view_scalars(connection: "DuckDBPyConnection", files: Sequence[Path]) -> None:
    if files:
        named = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
        connection.execute(_SCALARS + f"[{named}], filename = true, union_by_name = true)")
    else:
        empty = COLUMNS.empty_table().add_column(0, "run_id", [pa.array([], pa.string())])
        connection.register("scalars", empty)


def _is_there(file: Path, tell: Callable[[str], object]) -> bool:
    try:
        return file.exists()
    except OSError as error:
        tell(f"{file}: can't be read, and is left out: {error.strerror}")
        return False


def _is_readable(file: Path, tell: Callable[[str], object]) -> bool:
    try:
        pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        tell(f"{file}: can't be read, and is left out: {error}; see capa bundle verify")
        return False
    return True


def _runs_table(runs: Sequence[RunRow]) -> pa.Table:
    kinds = {"duration_s": pa.float64(), "samples": pa.int64()}
    names = RunRow.__dataclass_fields__
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    return pa.Table.from_pylist([asdict(run) for run in runs], schema=schema)


def _events_table(runs_root: Path, runs: Sequence[RunRow]) -> pa.Table:
    tables = [_EVENTS.empty_table()]
    for run in runs:
        try:
            rows = open_bundle(runs_root / run.folder).events()
        except BundleError:
            continue  # capa bundle verify says what is wrong with it
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(RecordedEvent._fields)
        arrays = [pa.array([run.run_id] * len(rows), pa.string())]
        kinds = _EVENTS.types[1:]
        arrays += [pa.array(list(c), kind) for c, kind in zip(columns, kinds, strict=True)]
        tables.append(pa.Table.from_arrays(arrays, schema=_EVENTS))
    return pa.concat_tables(tables)
