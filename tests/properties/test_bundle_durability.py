"""What was committed is there: whatever the batching, wherever the file was cut, however killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from capa.channels.sample import Sample
from capa.errors import BundleError
from capa.storage.inflight import EVENTS_FILE, INFLIGHT_FILE, wal_of
from capa.storage.open import open_bundle
from capa.storage.seal import finalize_bundle
from capa.storage.verify import verify_bundle
from tests.support.bundles import messages, new_writer, read_json, say


@settings(max_examples=30, deadline=None)
@given(
    script=st.lists(
        st.one_of(
            st.integers(min_value=1, max_value=20),  # so many events
            st.just("committed"),
            st.just("flush"),
            st.just("yield"),
        ),
        max_size=30,
    ),
    threaded=st.booleans(),
)
def test_events_keep_their_order_whatever_the_batching(
    script: list[int | str], threaded: bool
) -> None:
    async def record(root: Path) -> tuple[Path, int]:
        writer = new_writer(root, threaded=threaded)
        count = 0
        for action in script:
            if isinstance(action, int):
                for _ in range(action):
                    say(writer, str(count))
                    count += 1
            elif action == "committed":
                await writer.committed()
                assert len(messages(writer.path)) == count
            elif action == "flush":
                writer.flush()
            else:
                await trio.lowlevel.checkpoint()
        await writer.close(run_status="completed", exit_reason="", extra={})
        return writer.path, count

    with tempfile.TemporaryDirectory() as folder:
        path, count = trio.run(record, Path(folder))
        assert messages(path) == [str(number) for number in range(count)]


async def _cut_short(root: Path) -> tuple[Path, list[int], list[int]]:
    """A bundle whose writer died, and the sizes of both WALs after each of twelve commits."""
    writer = new_writer(root)
    event_sizes, sample_sizes = [], []
    for number in range(12):
        say(writer, str(number), at_s=number)
        await writer.committed()
        event_sizes.append(wal_of(writer.path / EVENTS_FILE).stat().st_size)
        writer.write_samples([Sample("a", number, at_s=number), Sample("b", number, at_s=number)])
        writer.flush()
        sample_sizes.append(wal_of(writer.path / INFLIGHT_FILE).stat().st_size)
    copy = root / "copy"
    shutil.copytree(writer.path, copy, ignore=shutil.ignore_patterns("*-shm"))
    await writer.close(run_status="completed", exit_reason="", extra={})
    return copy, event_sizes, sample_sizes


@pytest.fixture(scope="module")
def cut_short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], list[int]]:
    return trio.run(_cut_short, tmp_path_factory.mktemp("cut"))


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1))
def test_a_log_cut_at_any_byte_keeps_every_event_committed_before_the_cut(
    cut_short: tuple[Path, list[int], list[int]], where: float
) -> None:
    bundle, sizes, _ = cut_short
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(bundle, Path(folder) / "cut"))
        size = round(where * sizes[-1])
        with wal_of(path / EVENTS_FILE).open("r+b") as file:
            file.truncate(size)
        result = finalize_bundle(path)
        assert result.sealed, result.detail
        whole = sum(committed <= size for committed in sizes)
        assert messages(path) == [str(number) for number in range(whole)]
        assert not any(problem.blocking for problem in verify_bundle(path))


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1))
def test_a_log_cut_at_any_byte_keeps_every_batch_of_samples_before_the_cut(
    cut_short: tuple[Path, list[int], list[int]], where: float
) -> None:
    bundle, _, sizes = cut_short
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(bundle, Path(folder) / "cut"))
        size = round(where * sizes[-1])
        with wal_of(path / INFLIGHT_FILE).open("r+b") as file:
            file.truncate(size)
        result = finalize_bundle(path)
        assert result.sealed, result.detail
        whole = sum(committed <= size for committed in sizes)
        table = pq.read_table(path / "scalars.parquet")
        assert table["value"].to_pylist() == [*range(whole), *range(whole)]
        assert read_json(path)["run_status"] == "crashed"


WRITER = """
import sys, trio
from pathlib import Path
from capa.channels.sample import Sample
from tests.support.bundles import new_writer, say

async def record():
    writer = new_writer(Path(sys.argv[1]), threaded=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        number = 0
        while True:
            say(writer, str(number))
            writer.write_samples([Sample("a", number, at_s=number)])
            writer.flush()
            await writer.committed()
            print(number, flush=True)
            number += 1

trio.run(record)
"""


@pytest.mark.parametrize("seed", range(5))
def test_what_was_confirmed_before_a_kill_is_in_the_sealed_bundle(
    tmp_path: Path, seed: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(random.Random(seed).uniform(0, 0.3))  # noqa: S311 - an instant, not a secret
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines(keepends=True)]
    confirmed = [int(line) for line in lines if line.endswith("\n")]
    (path,) = tmp_path.iterdir()

    result = finalize_bundle(path)

    assert result.sealed, result.detail
    found = messages(path)
    assert found[: len(confirmed)] == [str(number) for number in confirmed]
    assert found == [str(number) for number in range(len(found))]
    assert read_json(path)["run_status"] == "crashed"
    values = pq.read_table(path / "scalars.parquet")["value"].to_pylist()
    assert values == list(range(len(values)))
    assert len(values) >= len(confirmed) - 1  # the last flush may not have been taken up yet


def _all_there(path: Path) -> bool:
    numbers = list(range(12))
    values = pq.read_table(path / "scalars.parquet")["value"].to_pylist()
    return messages(path) == list(map(str, numbers)) and values == [*numbers, *numbers]


@pytest.mark.parametrize("name", [EVENTS_FILE, INFLIGHT_FILE])
@pytest.mark.parametrize("size", [None, 0, 1, 2, 99, 100, 2000])
def test_a_log_whose_database_is_missing_or_cut_gives_back_all_that_it_holds(
    tmp_path: Path, name: str, size: int | None
) -> None:
    path, _, _ = trio.run(_cut_short, tmp_path)
    if size is None:
        (path / name).unlink()
    else:
        os.truncate(path / name, size)
    log = wal_of(path / name).read_bytes()

    with suppress(BundleError):
        open_bundle(path).events()
    with suppress(BundleError):
        open_bundle(path).scalars()
    assert wal_of(path / name).read_bytes() == log, "reading destroyed what was left"

    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert _all_there(path)
    if size in (None, 0, 1):
        assert f"{name} was missing beside its log" in result.detail
        assert (path / "evidence" / f"{name}-wal").read_bytes() == log


@pytest.mark.parametrize("name", [EVENTS_FILE, INFLIGHT_FILE])
def test_a_log_of_which_nothing_can_be_read_is_kept_and_named(tmp_path: Path, name: str) -> None:
    path, _, _ = trio.run(_cut_short, tmp_path)
    (path / name).unlink()
    wal_of(path / name).write_bytes(bytes(5000))
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert f"{name} was missing beside its log: nothing of it could be read" in result.detail
    assert (path / "evidence" / f"{name}-wal").read_bytes() == bytes(5000)


def test_a_log_that_is_damaged_at_its_end_is_kept_as_it_was(tmp_path: Path) -> None:
    path, sizes, _ = trio.run(_cut_short, tmp_path)
    log = wal_of(path / EVENTS_FILE)
    with log.open("r+b") as file:
        file.seek(sizes[-1] - 2000)
        file.write(b"damaged")
    was = log.read_bytes()
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert "events.sqlite-wal had 1 damaged frames at its end" in result.detail
    assert (path / "evidence" / "events.sqlite-wal").read_bytes() == was
    assert messages(path) == [str(number) for number in range(11)]


@pytest.mark.parametrize("name", [EVENTS_FILE, INFLIGHT_FILE])
def test_a_database_without_its_log_is_told_to_be_empty(tmp_path: Path, name: str) -> None:
    path, _, _ = trio.run(_cut_short, tmp_path)
    wal_of(path / name).unlink()
    result = finalize_bundle(path)
    assert result.sealed, result.detail
    assert f"there is nothing in {name}" in result.detail
