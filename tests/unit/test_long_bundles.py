"""What is only read in part, and what devices said: bundles of more than one row group."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import trio
from trio.testing import MockClock

from capa.channels.sample import Sample
from capa.devices.adapter import FieldInfo, Reading
from capa.storage import row_groups
from capa.storage.binned import overview
from capa.storage.bundle import BundleWriter
from capa.storage.open import open_bundle
from capa.storage.seal import finalize_bundle
from tests.support.bundles import CLOCK


@dataclass
class Talking:
    """A device with one field."""

    name: str
    family: str = "balance"
    fields: dict[str, FieldInfo] = field(default_factory=lambda: {"mass": FieldInfo("mass", "g")})


async def _recorded(root: Path) -> Path:
    """Forty seconds of three channels; b is silent from 10 to 20 s, and NaN at the end."""
    info = {"period_s": 1.0, "stale_after_s": 3.0}
    writer = BundleWriter.create(
        root,
        "20261120-131500-0001",
        CLOCK,
        files={},
        manifest={},
        channels=dict.fromkeys("abc", "degC"),
        channel_info=dict.fromkeys("abc", info),
        threaded=False,
    )
    scales = [Talking("left"), Talking("right")]
    for at_s in range(40):
        silent = {"b"} if 10 <= at_s < 20 else set()
        values = {"a": float(at_s), "b": math.nan if at_s == 39 else 5.0, "c": -float(at_s)}
        samples = [Sample(n, v, at_s=at_s) for n, v in values.items() if n not in silent]
        writer.write_samples(samples)
        for scale in scales:
            native = "" if at_s == 3 else f"{scale.name} {at_s}"
            writer.write_records(scale, [Reading("mass", float(at_s), at_s, native=native)])
        if at_s % 3 == 0:
            writer.flush()
    await writer.close(run_status="completed", exit_reason="", extra={})
    return writer.path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(row_groups, "ROW_GROUP_ROWS", 16)
    clock = MockClock()
    clock.jump(40.0)
    path = trio.run(_recorded, tmp_path, clock=clock)
    assert finalize_bundle(path).sealed
    return path


def test_of_a_long_run_only_the_row_groups_that_hold_what_is_asked_for_are_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    honest = pq.ParquetFile.read_row_group

    def watched(self: pq.ParquetFile, place: int, **options: object) -> object:
        read.append(place)
        return honest(self, place, **options)

    bundle = open_bundle(run)
    bundle.channels()
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    monkeypatch.setattr("capa.storage.tables._check_names", lambda *_: None)
    table = bundle.scalars(["c"], start_s=30, end_s=33)
    assert table["value"].to_pylist() == [-30.0, -31.0, -32.0]
    assert read == [4, 6]  # 4 is the end of b and the beginning of c: its times say nothing
    assert pq.ParquetFile(run / "scalars.parquet").num_row_groups == 7


def test_each_reading_has_the_reply_that_it_came_with_over_batches_and_row_groups(
    run: Path,
) -> None:
    rows = pq.read_table(run / "device_records/balance.parquet").to_pylist()
    assert [row["device"] for row in rows] == ["left"] * 40 + ["right"] * 40
    told = [f"{name} {at}" for name in ("left", "right") for at in range(40)]
    wanted = [None if text.endswith(" 3") else text for text in told]
    assert [row["native"] for row in rows] == wanted
    assert {row["unit"] for row in rows} == {"g"}


def test_a_silence_is_a_gap_with_its_length_and_the_time_without_a_measurement(run: Path) -> None:
    quality = open_bundle(run).manifest.quality
    assert (quality["a"].gaps, quality["a"].unusable) == (0, 0)
    silent = quality["b"]
    assert (silent.samples, silent.gaps, silent.longest_gap_s) == (30, 1, 11.0)
    assert silent.stale_s == 8.0


def test_an_overview_is_the_same_by_pieces_as_of_all_samples_at_once(run: Path) -> None:
    told = overview(open_bundle(run), bins=4)
    by_name = {each.channel: each for each in told.channels}
    assert list(by_name) == ["a", "b", "c"]
    a, b = by_name["a"], by_name["b"]
    step = told.until_s / 4
    for place, mean in zip(a.places, a.means, strict=True):
        last = place == 3
        mine = [v for v in range(40) if place * step <= v and (v < (place + 1) * step or last)]
        assert mean == pytest.approx(sum(mine) / len(mine))
    assert (a.samples, a.first, a.last, a.low, a.high) == (40, 0.0, 39.0, 0.0, 39.0)
    assert (b.samples, b.last) == (30, 5.0)
