"""Finalizing ten hours of 300 samples/s, beside pyarrow's own write of the same table."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.long_run import ROWS_PER_S, make_run
from bench.table import Table

__all__ = ["measure"]

_ROWS = 36_000 * ROWS_PER_S
_TURNS = {False: 2, True: 1}
_NICENESS = 10
"""What the finalizing child gives itself; the yardstick gets no more of a busy machine."""
_YARDSTICK = """
import os, sys, time, json
from pathlib import Path
os.nice(int(sys.argv[1]))
import pyarrow.parquet as pq
from capa.storage.columns import ENCODING
from capa.storage.row_groups import ROW_GROUP_ROWS
tables = [pq.read_table(path) for path in sys.argv[4:]]
found = {}
for name, options in {"zstd": {"compression": "zstd"}, "ours": ENCODING}.items():
    rounds = []
    for _ in range(int(sys.argv[3])):
        began, began_cpu = time.perf_counter(), time.process_time()
        for number, table in enumerate(tables):
            target = Path(sys.argv[2], f"{number}.parquet")
            pq.write_table(table, target, row_group_size=ROW_GROUP_ROWS, **options)
            with target.open("rb") as file:
                os.fsync(file.fileno())
        rounds.append((time.perf_counter() - began, time.process_time() - began_cpu))
    found[name] = min(rounds)
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True, order=True)
class _Took:
    wall_s: float
    cpu_s: float
    peak_mb: float


def measure(table: Table, directory: Path) -> None:
    """Samples alone, as the goal says; then with what the devices said, as a run has it."""
    for records in (False, True):
        what = "10.8 M samples" + (" and as many native records" if records else "")
        root = directory / f"long{records:d}"
        print(f"  (making {what})", flush=True)
        run = make_run(root, _ROWS, records=records)
        took = min(_finalized(run, root / f"turn{turn}") for turn in range(_TURNS[records]))
        shutil.rmtree(run)
        sealed = root / "turn0" / run.name
        files = [sealed / "scalars.parquet", *sorted(sealed.glob("device_records/*.parquet"))]
        yard = _yardstick(root, files, _TURNS[records])
        shutil.rmtree(root)
        _report(table, what, took, yard)


def _report(table: Table, what: str, took: _Took, yard: dict[str, Sequence[float]]) -> None:
    names = {"zstd": "pyarrow writes it: zstd, as it comes", "ours": "pyarrow writes it: our bytes"}
    table.add(f"finalize {what}", took.wall_s, "s")
    table.add("  CPU", took.cpu_s, "s")
    table.add("  peak memory", took.peak_mb, "MB", 300)
    for key, (wall_s, cpu_s) in yard.items():
        table.add(f"  {names[key]}", wall_s, "s")
        table.add("    CPU", cpu_s, "s")
        table.add("    finalize against that", took.wall_s / wall_s, "x", 2.0)
        table.add("    and in CPU", took.cpu_s / cpu_s, "x")


def _finalized(run: Path, root: Path) -> _Took:
    """Finalize a copy, in a child as the daemon does."""
    path = root / run.name
    shutil.copytree(run, path)
    os.sync()
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "capa.storage.finalize", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    answer = json.loads(child.stdout.read())
    _, _, used = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - began
    child.returncode = 0
    if answer["bundle_status"] != "sealed":
        raise RuntimeError(answer["detail"])
    if root.name != "turn0":
        shutil.rmtree(root)
    return _Took(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def _yardstick(root: Path, files: Sequence[Path], turns: int) -> dict[str, Sequence[float]]:
    """Return wall and CPU seconds of pyarrow's write, the best of the turns, by way of writing."""
    done = subprocess.run(
        [sys.executable, "-c", _YARDSTICK, str(_NICENESS), str(root), str(turns), *map(str, files)],
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Sequence[float]] = json.loads(done.stdout)
    return found
