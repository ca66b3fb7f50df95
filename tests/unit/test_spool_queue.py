"""The queue itself: who is next, and what a jump of the clock does to those who wait."""

import errno
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from capa.config.experiment import ExperimentConfig
from capa.storage.atomic import fsync_dir, write_atomically
from capad import spool as spool_module
from capad import spool_folders, turns
from capad.intake import Prepared
from capad.jobs import Job, JobState
from capad.reports import before_arming
from capad.settings import SpoolSettings
from capad.spool import Spool
from capad.spool_folders import SpoolFolders

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Clocks:
    """A wall clock that can be set, and one that can't."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.boot_s = NOW, 50.0
        monkeypatch.setattr(spool_module, "utc_now", lambda: self.wall)
        monkeypatch.setattr(spool_module, "boot_s", lambda: self.boot_s)
        assert turns.boot_s() > 0

    def pass_s(self, seconds: float, jump: timedelta = timedelta()) -> None:
        self.boot_s += seconds
        self.wall += timedelta(seconds=seconds) + jump


class Accepts:
    """Takes everything; a file holds its own ``priority`` and seconds to wait."""

    def prepare(self, job: Job, data: bytes, companion: str | None = None) -> Prepared:
        priority, wait_s = data.decode().split()
        not_before = None if wait_s == "-" else NOW + timedelta(seconds=float(wait_s))
        experiment = ExperimentConfig(priority=int(priority), not_before=not_before)
        return Prepared(experiment, None, ())


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


async def filled(folder: Path, *files: str) -> Spool:
    folders = SpoolFolders(folder / "spool", max_bytes=1000)
    folders.prepare()
    for number, text in enumerate(files):
        name = f"{number}.experiment.toml"
        (folders.incoming / name).write_text(text)
        assert folders.claim(name, folders.look()[name])
    log = structlog.get_logger()
    spool = Spool(
        folders, SpoolSettings(root=folders.root), Accepts(), log=log, on_rejected=lambda *_: None
    )
    await spool._round()
    return spool


async def next_name(spool: Spool) -> str:
    job, _ = await spool.next(lambda: False)
    assert job.state is JobState.ACTIVE
    return job.name[0]


async def test_the_highest_priority_starts_first_and_the_others_in_their_order(
    tmp_path: Path, clocks: Clocks
) -> None:
    spool = await filled(tmp_path, "0 -", "5 -", "-1 -", "5 -", "9 60")
    assert [await next_name(spool) for _ in range(4)] == ["1", "3", "0", "2"]
    assert spool.waits.startswith("4.experiment.toml waits until ")
    clocks.pass_s(60)
    assert await next_name(spool) == "4"
    assert spool.waits == ""


async def test_a_restart_keeps_what_waits_and_in_which_order(
    tmp_path: Path, clocks: Clocks
) -> None:
    await filled(tmp_path, "0 -", "5 60", "9 -")
    again = await filled(tmp_path)
    assert [await next_name(again), await next_name(again)] == ["2", "0"]
    assert "1.experiment.toml" in again.waits


async def test_a_job_that_only_a_jump_of_the_clock_made_due_waits_for_a_person(
    tmp_path: Path, clocks: Clocks
) -> None:
    spool = await filled(tmp_path, "0 3600")
    clocks.pass_s(5, timedelta(days=365))
    await spool._round()
    assert spool.held is not None
    assert "the clock jumped by 365 days" in spool.held
    assert spool.hold_file.exists()
    await spool.release("maria")
    assert not spool.hold_file.exists()
    assert await next_name(spool) == "0"


async def test_the_clock_is_looked_at_before_each_start_and_not_only_at_each_scan(
    tmp_path: Path, clocks: Clocks, autojump_clock: object
) -> None:
    spool = await filled(tmp_path, "0 3600")
    clocks.pass_s(5, timedelta(days=365))
    await spool._look_at_clock()
    assert spool.held is not None


async def test_a_jump_holds_nothing_when_nothing_waits_for_its_time(
    tmp_path: Path, clocks: Clocks
) -> None:
    spool = await filled(tmp_path, "0 -")
    clocks.pass_s(5, timedelta(days=365))
    await spool._round()
    assert spool.held is None
    clocks.pass_s(5, -timedelta(days=730))
    await spool._round()
    assert spool.held is None
    assert await next_name(spool) == "0"


async def test_a_time_that_comes_by_itself_holds_nothing(tmp_path: Path, clocks: Clocks) -> None:
    spool = await filled(tmp_path, "0 3600")
    clocks.pass_s(3601)
    await spool._round()
    assert spool.held is None
    assert await next_name(spool) == "0"


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["save", "fsync"])
async def test_a_job_that_goes_back_or_ends_on_a_bad_disk_gets_there_once_and_is_next_again(
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    trouble: int,
    where: str,
) -> None:
    spool = await filled(tmp_path, "0 -", "0 -")
    job, prepared = await spool.next(lambda: False)
    failures = 2

    def fail() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(trouble, "bad")

    honest_save = SpoolFolders.save

    def save(folders: SpoolFolders, saved: Job) -> Job:
        fail()
        return honest_save(folders, saved)

    def sync(path: Path) -> None:
        fail()
        fsync_dir(path)

    if where == "save":
        monkeypatch.setattr(SpoolFolders, "save", save)
    else:
        monkeypatch.setattr(spool_folders, "fsync_dir", sync)
    with trio.fail_after(60):
        await spool.put_back(job, prepared, "no bundle can be made", stopping=lambda: False)
        assert spool.queued[0].id == job.id
        failures = 2
        again, _ = await spool.next(lambda: False)
        report = before_arming(again, "stopped")
        await spool.finish(again, JobState.FAILED, report, stopping=lambda: False)
    assert again.id == job.id
    told = json.loads((tmp_path / "spool" / "failed" / job.id / "job.json").read_text())
    states = [entry["state"] for entry in told["history"]]
    if trouble == errno.EIO:
        assert states == ["queued", "active", "queued", "active", "failed"]
    assert [path.name for path in (tmp_path / "spool" / "failed").iterdir()] == [job.id]
    assert [path.name for path in (tmp_path / "spool" / "active").iterdir()] == []


async def test_a_full_disk_stays_in_the_status_until_it_takes_files_again(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await filled(tmp_path, "0 -")
    full = True

    def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomically(path, data, mode=mode)

    monkeypatch.setattr(spool_folders, "write_atomically", write)
    with trio.move_on_after(3):
        await spool.next(lambda: False)
    said = spool.trouble or ""
    assert "can't be started: the disk is full" in said
    for _ in range(3):  # a look at incoming/ alone needs no room, and proves nothing
        await trio.sleep(20)
        await spool._round()
        assert spool.trouble == said
    full = False
    await spool._round()
    assert spool.trouble is None
    assert [path.name for path in (tmp_path / "spool" / "queued").iterdir()] == [spool.queued[0].id]
    assert await next_name(spool) == "0"


class Denied:
    """An operation of the folders that fails for want of a permission while it is ``on``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.on = True
        honest = getattr(SpoolFolders, name)

        def act(folders: SpoolFolders, *given: object) -> object:
            if self.on:
                raise PermissionError(errno.EACCES, "Permission denied")
            return honest(folders, *given)

        monkeypatch.setattr(SpoolFolders, name, act)


@pytest.mark.parametrize("denied", ["move", "content", "claim"])
async def test_a_trouble_is_told_of_once_and_lasts_until_what_failed_is_done(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    spool = await filled(tmp_path, "0 -", "0 -")
    job, _ = await spool.next(lambda: False)
    refused = Denied(monkeypatch, denied)

    async def fail() -> None:
        if denied == "move":  # done/ is not to be written to, and all else is
            report = before_arming(job, "stopped")
            await spool.finish(job, JobState.FAILED, report, stopping=lambda: False)
        elif denied == "content":
            spool.use(Accepts())
        else:
            (tmp_path / "spool" / "incoming" / "7.experiment.toml").write_text("0 -")

    with capture_logs() as said:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spool.run)
            nursery.start_soon(fail)
            await trio.sleep(2)
            seen = set()
            for _ in range(200):
                await trio.sleep(0.25)
                seen.add(spool.trouble)
            refused.on = False
            await trio.sleep(6)
            assert spool.trouble is None
            nursery.cancel_scope.cancel()
    (words,) = seen
    assert "the daemon lacks the permission" in (words or "")
    assert [entry["message"] for entry in said if entry["event"] == "spool.trouble"] == [words]


async def test_the_trouble_with_a_file_that_is_gone_is_over(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await filled(tmp_path)
    Denied(monkeypatch, "claim")
    file = tmp_path / "spool" / "incoming" / "7.experiment.toml"
    file.write_text("0 -")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spool.run)
        await trio.sleep(10)
        assert "7.experiment.toml can't be moved" in (spool.trouble or "")
        file.unlink()
        await trio.sleep(20)
        assert spool.trouble is None
        nursery.cancel_scope.cancel()


def why_held(spool: Spool) -> str:
    return spool.held or ""


def unreadable(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> set[Path]:
    """Have folders be as root's copy of a backup leaves them (0700); who is root reads anything."""
    denied = set(folders)

    def refusing(name: str) -> None:
        honest = getattr(spool_folders, name)

        def act(path: Path) -> object:
            if denied & {path, path.parent}:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return honest(path)

        monkeypatch.setattr(spool_folders, name, act)

    refusing("_read_at_once")
    refusing("_dropped_in")
    return denied


async def test_a_queued_job_that_may_not_be_read_is_named_and_runs_once_it_may(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await filled(tmp_path, "0 -", "0 -")
    first, _ = before.queued
    denied = unreadable(monkeypatch, tmp_path / "spool" / "queued" / first.id)
    spool = await filled(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spool.run)
        await trio.sleep(60)
        assert f"job {first.id} can't be read; it is left in queued/" in (spool.trouble or "")
        assert spool.held is None
        assert await next_name(spool) == "1"
        denied.clear()
        with trio.fail_after(10):
            assert await next_name(spool) == "0"
        assert spool.trouble is None
        nursery.cancel_scope.cancel()


async def test_a_claim_in_progress_that_may_not_be_read_is_named_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path, "0 -")
    staged = tmp_path / "spool" / "queued" / ".000007-20261120-131500-a"
    staged.mkdir()
    unreadable(monkeypatch, staged)
    spool = await filled(tmp_path)
    assert "job 000007-20261120-131500-a can't be read" in (spool.trouble or "")
    assert await next_name(spool) == "0"


@pytest.mark.parametrize("held", ["", "sample change, Maria"])
async def test_an_interrupted_job_that_may_not_be_read_is_named_and_holds_the_queue(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    before = await filled(tmp_path, "0 -", "0 -")
    job, _ = await before.next(lambda: False)
    if held:
        await before.hold(held)
    unreadable(monkeypatch, tmp_path / "spool" / "active" / job.id)
    spool = await filled(tmp_path)
    words = f"job {job.id} can't be read; it is left in active/"
    assert why_held(spool) == (f"{words}; {held}" if held else words)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spool.run)
        await trio.sleep(60)
        assert words in (spool.trouble or "")
        assert "settled at the first start that may read it" in (spool.trouble or "")
        await spool.release("Maria")
        await trio.sleep(60)
        assert not why_held(spool), "who has seen it may let the queue go on"
        nursery.cancel_scope.cancel()
    again = await filled(tmp_path)
    assert again.held == words


async def test_which_run_a_job_is_that_can_not_be_written_is_told_until_the_job_ends(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await filled(tmp_path, "0 -")
    job, _ = await spool.next(lambda: False)
    refused = Denied(monkeypatch, "save")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spool.run)
        job = await spool.remember_run(job, "20261121-120000-00aa")
        refused.on = False
        await trio.sleep(120)
        assert "job.json can't be written" in (spool.trouble or "")
        assert "which run it is, is written when the job ends" in (spool.trouble or "")
        assert "tried again" not in (spool.trouble or "")
        report = before_arming(job, "stopped")
        await spool.finish(job, JobState.FAILED, report, stopping=lambda: False)
        assert spool.trouble is None
        nursery.cancel_scope.cancel()
    (ended,) = (tmp_path / "spool" / "failed").glob("*/job.json")
    assert json.loads(ended.read_text())["run_id"] == "20261121-120000-00aa"


async def test_where_nothing_tells_of_a_dropped_file_it_is_found_by_looking(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(spool_module, "watch", deaf)
    spool = await filled(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spool.run)
        await spool.scanned.wait()
        (tmp_path / "spool" / "incoming" / "7.experiment.toml").write_text("0 -")
        with trio.fail_after(60):
            assert await next_name(spool) == "7"
        nursery.cancel_scope.cancel()
