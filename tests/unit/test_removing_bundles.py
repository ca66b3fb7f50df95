"""Retention: what goes, what stays, what is on record, and what a kill half-way leaves."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capa.errors import BundleError
from capa.storage import folder, removal
from capa.storage.catalog import catalogued
from capa.storage.folder import make_folder
from capa.storage.lock import FolderLock
from capa.storage.manifest import Manifest
from capa.storage.removal import Kept, Removed, clear_leftovers, remove_bundle, removed_runs
from capa.storage.retention import Failed, Limits, Outcome, pin_file, prune
from tests.support.bundles import unsealed_bundle
from tests.support.kills import killed_at
from tests.support.sealed import sealed_at

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
GB = 10**9


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def pruned(
    root: Path,
    limits: Limits,
    *,
    now: datetime = NOW,
    at_most: int | None = None,
    free_bytes: Callable[[Path], int] = lambda path: 10**12,
) -> list[Outcome]:
    outcomes = prune(root, limits, by="capad", now_utc=now, at_most=at_most, free_bytes=free_bytes)
    return list(outcomes)


def left(root: Path) -> list[str]:
    return [row.folder for row in catalogued(root)]


def test_what_is_too_old_goes_the_oldest_first_and_the_newest_stays(tmp_path: Path) -> None:
    paths = [sealed_at(tmp_path, days_ago(days), job=9 - days) for days in (9, 8, 7, 2, 1)]
    outcomes = pruned(tmp_path, Limits(max_age_days=5))
    assert [one.run_id for one in outcomes] == [path.name for path in paths[:3]]
    assert left(tmp_path) == [path.name for path in paths[3:]]


def test_the_newest_runs_stay_whatever_their_age_and_the_disk(tmp_path: Path) -> None:
    paths = [sealed_at(tmp_path, days_ago(900 + n), job=9 - n) for n in range(5)]
    limits = Limits(max_age_days=1, min_free_gb=1000, min_runs=2)
    pruned(tmp_path, limits, free_bytes=lambda path: 0)
    assert left(tmp_path) == sorted(path.name for path in paths[:2])


def test_a_box_that_stands_idle_for_a_year_does_not_empty_itself(tmp_path: Path) -> None:
    for days in (3, 2, 1):
        sealed_at(tmp_path, days_ago(days))
    assert pruned(tmp_path, Limits(max_age_days=30), now=NOW + timedelta(days=365)) == []


def test_the_disk_is_freed_until_enough_is_free_and_no_further(tmp_path: Path) -> None:
    for days in (4, 3, 2, 1):
        sealed_at(tmp_path, days_ago(days))
    outcomes = pruned(
        tmp_path,
        Limits(min_free_gb=10),
        free_bytes=lambda path: (12 - len(left(tmp_path))) * GB,
    )
    assert [type(one) for one in outcomes] == [Removed, Removed]
    assert {one.why for one in outcomes if isinstance(one, Removed)} == {"space"}


def test_a_dry_run_removes_nothing_and_counts_what_it_would_free(tmp_path: Path) -> None:
    for days in (4, 3, 2, 1):
        sealed_at(tmp_path, days_ago(days))
    before = left(tmp_path)
    outcomes = list(
        prune(
            tmp_path,
            Limits(min_free_gb=1),
            by="me",
            now_utc=NOW,
            dry_run=True,
            free_bytes=lambda path: GB - 1,
        )
    )
    assert [one.run_id for one in outcomes] == before[:1]
    assert left(tmp_path) == before
    assert removed_runs(tmp_path) == []


def test_what_was_removed_is_on_record_with_its_manifests_sum(tmp_path: Path) -> None:
    path = sealed_at(tmp_path, days_ago(9), job=7)
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    sealed_at(tmp_path, days_ago(1))
    pruned(tmp_path, Limits(max_age_days=5))
    (told,) = [json.loads(line) for line in (tmp_path / "removed.jsonl").read_text().splitlines()]
    assert told["run_id"] == path.name
    assert told["manifest_sha256"] == digest
    assert (told["why"], told["by"], told["operator"]) == ("age", "capad", "anna")
    assert told["job"].startswith("000007-")
    assert datetime.fromisoformat(told["removed_utc"]).tzinfo is not None


def altered(path: Path) -> None:
    (path / "data.txt").write_text("11.5\n")


def with_a_stranger(path: Path) -> None:
    (path / "notes.txt").write_text("mine\n")


def without_its_sums(path: Path) -> None:
    (path / "manifest.sha256").unlink()


def with_an_empty_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("")


def of_the_future(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))


def pinned(path: Path) -> None:
    pin_file(path.parent, path.name).write_text("Anna: for the paper\n")


@pytest.mark.parametrize(
    "spoil",
    [altered, with_a_stranger, without_its_sums, with_an_empty_manifest, of_the_future, pinned],
)
def test_what_does_not_verify_or_is_pinned_stays_and_does_not_keep_others(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path, other, _ = [sealed_at(tmp_path, days_ago(days)) for days in (9, 8, 1)]
    spoil(path)
    kept, removed = pruned(tmp_path, Limits(max_age_days=5))
    assert isinstance(kept, Kept)
    assert kept.run_id == path.name
    assert kept.reason
    assert isinstance(removed, Removed)
    assert removed.run_id == other.name
    assert path.is_dir()


def test_a_run_whose_experiment_says_keep_stays(tmp_path: Path) -> None:
    path = sealed_at(tmp_path, days_ago(9), tags=("keep",))
    sealed_at(tmp_path, days_ago(1))
    (kept,) = pruned(tmp_path, Limits(max_age_days=5))
    assert kept == Kept(path.name, "its experiment has the tag keep")


def test_an_unsealed_bundle_stays(tmp_path: Path) -> None:
    path = sealed_at(tmp_path, days_ago(9), bundle_status="finalizing")
    sealed_at(tmp_path, days_ago(1))
    (kept,) = pruned(tmp_path, Limits(max_age_days=5))
    assert isinstance(kept, Kept)
    assert "not sealed" in kept.reason
    assert path.is_dir()


def test_a_bundle_that_somebody_has_in_hand_stays(tmp_path: Path) -> None:
    path = sealed_at(tmp_path, days_ago(9))
    lock = FolderLock(path)
    assert lock.acquire()
    assert remove_bundle(path, why="age", by="capad") == Kept(path.name, "somebody has it in hand")
    lock.release()


def test_what_a_symbolic_link_leads_to_is_somebody_elses(tmp_path: Path) -> None:
    path = sealed_at(tmp_path / "elsewhere", days_ago(9))
    link = tmp_path / "runs" / path.name
    link.parent.mkdir()
    link.symlink_to(path)
    assert isinstance(remove_bundle(link, why="age", by="capad"), Kept)
    assert (path / "data.txt").exists()
    assert link.is_symlink()


def test_a_link_inside_a_bundle_is_removed_and_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    path = sealed_at(tmp_path / "runs", days_ago(9))
    (path / "link").symlink_to(mine)
    assert isinstance(remove_bundle(path, why="age", by="capad"), Removed)
    assert (mine / "thesis.txt").exists()


def test_a_clock_that_was_set_back_for_a_run_does_not_make_it_the_oldest(tmp_path: Path) -> None:
    good = [sealed_at(tmp_path, days_ago(9 - n), job=n) for n in range(5)]
    odd = sealed_at(tmp_path, days_ago(4000), job=5)
    pruned(tmp_path, Limits(max_age_days=2, min_runs=2))
    assert odd.name in left(tmp_path)
    assert good[0].name not in left(tmp_path)
    free = Limits(min_free_gb=1, min_runs=1)
    pruned(tmp_path, free, at_most=1, free_bytes=lambda path: 0)
    assert odd.name in left(tmp_path)


def test_a_clock_that_was_ahead_for_a_run_makes_no_other_run_old(tmp_path: Path) -> None:
    good = [sealed_at(tmp_path, days_ago(3 - n), job=n) for n in range(3)]
    sealed_at(tmp_path, NOW + timedelta(days=4000), job=3)
    assert pruned(tmp_path, Limits(max_age_days=5)) == []
    assert len(left(tmp_path)) == len(good) + 1


def test_numbers_that_began_anew_do_not_make_new_runs_the_oldest(tmp_path: Path) -> None:
    for n in range(100):
        sealed_at(tmp_path, days_ago(200 - n), job=n + 1)
    new = [sealed_at(tmp_path, days_ago(20 - n), job=n + 1) for n in range(10)]
    pruned(tmp_path, Limits(min_free_gb=1), at_most=80, free_bytes=lambda path: 0)
    assert {path.name for path in new} <= set(left(tmp_path))


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (Path, "rename"),
        (Path, "unlink"),
        (removal, "fsync_dir"),
        (removal, "_finish"),
        (removal, "_append"),
        (removal, "_is_recorded"),
        (Path, "rmdir"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_removal_that_a_kill_cut_short_is_finished_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, step: str, after: bool
) -> None:
    path = sealed_at(tmp_path, days_ago(9))
    with killed_at(monkeypatch, module, step, after=after):
        remove_bundle(path, why="space", by="capad")
    assert not catalogued(tmp_path) or (path / "data.txt").exists(), "half of it is on show"
    clear_leftovers(tmp_path)
    gone = not path.exists()
    assert gone == (step != "rename" or after)
    told = removed_runs(tmp_path)
    assert [one.run_id for one in told] == ([path.name] if gone else [])
    assert all(one.why == "space" for one in told)
    assert not [entry for entry in tmp_path.iterdir() if ".removing" in entry.name]


def test_where_there_is_no_room_for_the_record_it_waits_for_what_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sealed_at(tmp_path, days_ago(9))
    honest = removal._append
    seen: list[bool] = []

    def full(record: Path, told: Removed) -> None:
        seen.append((record.parent / f".{path.name}.removing-space" / "data.txt").exists())
        if len(seen) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(record))
        honest(record, told)

    monkeypatch.setattr(removal, "_append", full)
    with pytest.raises(OSError, match="No space"):
        remove_bundle(path, why="space", by="capad")
    clear_leftovers(tmp_path)
    assert seen == [False, False]
    assert [one.run_id for one in removed_runs(tmp_path)] == [path.name]


def test_a_torn_line_of_the_record_costs_itself_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "removed.jsonl").write_text('{"run_id": "2026')
    path = sealed_at(tmp_path, days_ago(9))
    remove_bundle(path, why="age", by="capad")
    assert [one.run_id for one in removed_runs(tmp_path)] == [path.name]


def test_a_removal_that_the_system_refuses_is_told_and_the_next_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = [sealed_at(tmp_path, days_ago(days)) for days in (9, 8, 1)]
    honest = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self == first:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return honest(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    failed, removed = pruned(tmp_path, Limits(max_age_days=5))
    assert failed == Failed(first.name, f"{first}: Permission denied")
    assert removed.run_id == second.name
    assert first.is_dir()


def test_a_bundle_that_a_kill_kept_from_being_made_goes_and_a_recorded_one_does_not(
    tmp_path: Path,
) -> None:
    unborn = tmp_path / ".20261120-131500-00aa.new"
    (unborn / "env").mkdir(parents=True)
    (unborn / "method.toml").write_text("x = 1\n")
    recorded = tmp_path / ".20261120-131500-00ab.new"
    recorded.mkdir()
    (recorded / "inflight.sqlite").write_text("x")
    mine = tmp_path / ".cache.new"
    mine.mkdir()
    (said,) = clear_leftovers(tmp_path)
    assert unborn.name in said
    assert not unborn.exists()
    assert recorded.exists()
    assert mine.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_folder_that_may_not_be_written_is_told_and_nothing_is_lost() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        path = sealed_at(root, days_ago(9))
        newest = sealed_at(root, days_ago(1))
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            outcomes = pruned(root, Limits(max_age_days=5))
            os._exit(0 if [type(one) for one in outcomes] == [Failed] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert left(root) == [path.name, newest.name]


def test_a_bundle_that_is_just_being_made_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Housekeeping of the daemon beside capa run, in one folder."""
    kept_reserve = folder._keep_reserve

    def meanwhile(building: Path) -> None:
        assert clear_leftovers(tmp_path) == []
        kept_reserve(building)

    monkeypatch.setattr(folder, "_keep_reserve", meanwhile)
    path = unsealed_bundle(tmp_path)
    assert (path / "manifest.json").exists()


@pytest.mark.parametrize("still_at_it", [False, True])
def test_a_bundle_that_is_cleared_away_before_it_is_in_hand_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still_at_it: bool
) -> None:
    """The daemon's housekeeping between the making of the folder and the lock on it."""
    daemon: list[FolderLock] = []

    class Late(FolderLock):
        def acquire(self) -> bool:
            (building,) = tmp_path.iterdir()
            if still_at_it:
                daemon.append(FolderLock(building))
                assert daemon[0].acquire()
            else:
                assert len(clear_leftovers(tmp_path)) == 1
            return super().acquire()

    with monkeypatch.context() as patch:
        patch.setattr(folder, "FolderLock", Late)
        with pytest.raises(BundleError, match=r"cleared away as a leftover; try again"):
            make_folder(
                tmp_path / "20261120-131500-00aa", {}, Manifest(run_id="20261120-131500-00aa")
            )
    for held in daemon:
        held.release()
    clear_leftovers(tmp_path)
    lock = make_folder(
        tmp_path / "20261120-131500-00aa", {}, Manifest(run_id="20261120-131500-00aa")
    )
    lock.release()
    assert [entry.name for entry in tmp_path.iterdir()] == ["20261120-131500-00aa"]
