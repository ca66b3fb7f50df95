"""When the daemon removes old bundles: while nothing runs, and never by a bad clock."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from capa.config.safety import DiskWatch
from capa.errors import BundleError
from capa.storage.removal import Kept, Removed
from capa.storage.retention import Limits, Outcome
from capad import housekeeping
from capad.check_runs import check_runs
from capad.housekeeping import EVERY_S, Housekeeping
from capad.settings import KeepSettings, RunSettings

ONE = Removed("20261101-120000-0001", "2026-11-20T12:00:00+00:00", "age", "capad", "ab" * 32, 10)


class Box:
    """A box that is idle or not, with a queue of what each pass of the child comes to."""

    def __init__(self, *passes: Sequence[Outcome] | Exception, takes_s: float = 1.0) -> None:
        self.idle = True
        self.passes = list(passes)
        self.takes_s = takes_s
        self.asked: list[tuple[float, Limits]] = []
        self.cut_short = 0

    async def remove(self, runs_root: Path, limits: Limits) -> Sequence[Outcome]:
        self.asked.append((trio.current_time(), limits))
        try:
            await trio.sleep(self.takes_s)
        except trio.Cancelled:
            self.cut_short += 1
            raise
        found = self.passes.pop(0) if self.passes else ()
        if isinstance(found, Exception):
            raise found
        return found

    async def serve(self, for_s: float, *, keep: KeepSettings | None = None) -> list[str]:
        """Keep house for a time; return what the log says."""
        runs = RunSettings(keep=KeepSettings(max_age_days=30) if keep is None else keep)
        with structlog.testing.capture_logs() as said:
            log = structlog.get_logger()
            house = Housekeeping(runs, idle=lambda: self.idle, log=log, remove=self.remove)
            with trio.move_on_after(for_s):
                await house.run()
                await trio.sleep_forever()
        return [f"{entry['event']} {entry.get('message', '')}" for entry in said]


async def test_without_a_limit_nothing_is_looked_at(autojump_clock: MockClock) -> None:
    box = Box()
    await box.serve(7200, keep=KeepSettings())
    assert box.asked == []


async def test_nothing_is_removed_while_a_run_goes_on(autojump_clock: MockClock) -> None:
    box = Box((ONE,))
    box.idle = False
    await box.serve(7200)
    assert box.asked == []


async def test_one_after_the_other_goes_and_then_there_is_a_pause(
    autojump_clock: MockClock,
) -> None:
    box = Box((ONE,), (ONE,), ())
    said = await box.serve(400)
    assert len(box.asked) == 3
    assert box.asked[1][0] - box.asked[0][0] < 3
    assert len(said) == 2
    assert all("bundle.removed" in line for line in said)


async def test_a_run_that_begins_ends_the_removal_at_once(autojump_clock: MockClock) -> None:
    box = Box(takes_s=60)
    async with trio.open_nursery() as nursery:

        async def begin_a_run() -> None:
            await trio.sleep(40)
            box.idle = False

        nursery.start_soon(begin_a_run)
        nursery.start_soon(box.serve, 120)
    assert box.cut_short == 1
    assert len(box.asked) == 1


async def test_what_stays_is_told_once(autojump_clock: MockClock) -> None:
    kept = Kept("20261101-120000-0001", "it does not verify: data.txt differs")
    box = Box((kept,), (kept,), BundleError("the removing child ended with 1: x"), (kept,))
    said = await box.serve(5 * EVERY_S)
    assert len(said) == 2
    assert "due for removal, and stays: it does not verify" in said[0]
    assert "the removing child ended with 1" in said[1]


async def test_under_a_clock_that_jumped_nothing_is_old_but_a_full_disk_is_full(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime(2026, 11, 20, tzinfo=UTC)

    def wall() -> datetime:
        now_s = trio.current_time() - begun
        return start + timedelta(seconds=now_s, days=365 if now_s > 1000 else 0)

    begun = trio.current_time()
    monkeypatch.setattr(housekeeping, "utc_now", wall)
    monkeypatch.setattr(housekeeping, "boot_s", trio.current_time)
    box = Box()
    said = await box.serve(3000, keep=KeepSettings(max_age_days=30, min_free_gb=1))
    assert [limits.max_age_days for _, limits in box.asked] == [30, 30, None, None, None]
    assert {limits.min_free_gb for _, limits in box.asked} == {1}
    assert len(said) == 1
    assert "jumped by 365 days" in said[0]


def test_limits_that_do_not_fit_the_disk_or_the_safety_monitor_are_told(tmp_path: Path) -> None:
    total_gb = shutil.disk_usage(tmp_path).total / 1e9

    def notes(min_free_gb: float | None) -> str:
        runs = RunSettings(root=tmp_path / "runs", keep=KeepSettings(min_free_gb=min_free_gb))
        found = check_runs(runs, DiskWatch())
        assert not any(problem.blocking for problem in found)
        return " ".join(map(str, found))

    assert notes(None) == notes(total_gb / 3) == ""
    assert "the safety monitor speaks up before" in notes(0.5)
    assert f"of a disk of {total_gb:.1f} GB" in notes(total_gb)


def test_a_key_that_is_not_there_is_told_before_a_bundle_is_not_signed(tmp_path: Path) -> None:
    (told,) = check_runs(RunSettings(sign_key=tmp_path / "key"), DiskWatch())
    assert "is not there: bundles are not signed" in str(told)
    assert "ssh-keygen -t ed25519" in str(told)
