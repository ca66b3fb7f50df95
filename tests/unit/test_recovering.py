"""What a start finds in the runs folder: bundles half made, half sealed, half removed."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
import trio

from capa.storage.finalize import FinalizeResult
from capa.storage.lock import FolderLock
from capa.storage.manifest import read_manifest
from capa.storage.removal import remove_bundle, removed_runs
from capa.storage.seal import finalize_bundle
from capa.storage.verify import verify_bundle
from capad import recovery
from capad.guarding import GuardReport
from capad.jobs import JobState
from capad.recovery import recover
from capad.reports import Report
from capad.spool_folders import SpoolFolders
from tests.support.bundles import read_json, sha256sum_check, unsealed_bundle
from tests.support.sealed import sealed_at

GUARD = GuardReport(datetime(2027, 1, 1, tzinfo=UTC), 0, {"verdicts": {}}, b"{}")
"""What the guardian left, after every run here."""


def spool(tmp_path: Path) -> SpoolFolders:
    folders = SpoolFolders(tmp_path / "spool", max_bytes=1000)
    folders.prepare()
    return folders


async def started(
    tmp_path: Path, guard: GuardReport | None = None, unread: str = ""
) -> list[Report]:
    """Do what a daemon does at its start, as far as bundles are concerned."""
    log, runs = structlog.get_logger(), tmp_path / "runs"
    return await recover(spool(tmp_path), runs, guard=guard, unread=unread, log=log)


def was_running(tmp_path: Path, run_id: str) -> None:
    """Leave the job of a run where a daemon that is killed leaves it."""
    folders = spool(tmp_path)
    (folders.incoming / "a.method.toml").write_text("x = 1\n")
    job = folders.claim("a.method.toml", folders.look()["a.method.toml"])
    assert job is not None
    folders.save(replace(folders.move(job, JobState.ACTIVE), run_id=run_id))


async def sealed_bundle(tmp_path: Path) -> Path:
    path = await trio.to_thread.run_sync(unsealed_bundle, tmp_path / "runs")
    assert finalize_bundle(path).sealed
    return path


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal without a child, which costs half a second; others here have one."""

    async def here(path: Path, *, sign_key: Path | None = None) -> FinalizeResult:
        return await trio.to_thread.run_sync(
            lambda: finalize_bundle(path, sign_key=sign_key, lock_timeout_s=0)
        )

    monkeypatch.setattr(recovery, "finalize_in_child", here)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


async def test_a_bundle_whose_seal_lacks_its_last_file_gets_it(tmp_path: Path) -> None:
    path = await sealed_bundle(tmp_path)
    was_running(tmp_path, path.name)
    (path / "manifest.sha256").unlink()
    (path / ".manifest.sha256.0badcafe.capa-tmp").write_text("half a line")
    (report,) = await started(tmp_path, GUARD)
    assert sha256sum_check(path).returncode == 0
    assert verify_bundle(path) == []
    assert not list(path.glob(".*"))
    assert report.outcome is JobState.DONE


@pytest.mark.usefixtures("in_process")
async def test_nothing_is_laid_into_a_bundle_that_was_sealed_and_altered(tmp_path: Path) -> None:
    path = await sealed_bundle(tmp_path)
    manifest = {**read_json(path), "bundle_status": "open"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    before = contents(path)
    await started(tmp_path, GUARD)
    assert contents(path) == before


@contextmanager
def in_hand(path: Path) -> Iterator[None]:
    """Somebody else has the bundle in hand."""
    lock = FolderLock(path)
    assert lock.acquire()
    try:
        yield
    finally:
        lock.release()


@pytest.mark.usefixtures("in_process")
async def test_nothing_is_laid_into_a_bundle_that_is_being_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By capa run, beside a daemon that starts."""
    path = await trio.to_thread.run_sync(unsealed_bundle, tmp_path / "runs")
    monkeypatch.setattr(recovery, "_A_LOOK_S", 0)
    before = contents(path)
    with in_hand(path):
        await started(tmp_path, GUARD)
    assert contents(path) == before


@pytest.mark.usefixtures("in_process")
async def test_the_guardians_record_is_in_the_bundle_of_the_run_that_it_came_after(
    tmp_path: Path,
) -> None:
    path = await trio.to_thread.run_sync(unsealed_bundle, tmp_path / "runs")
    await started(tmp_path, GUARD)
    assert "guard_verdicts.json" in read_json(path)["files"]
    assert verify_bundle(path) == []


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("unsummed", [False, True])
@pytest.mark.parametrize("altered", ["method.toml", "stranger.txt"])
async def test_a_job_whose_bundle_does_not_verify_is_not_done(
    tmp_path: Path, altered: str, unsummed: bool
) -> None:
    path = await sealed_bundle(tmp_path)
    was_running(tmp_path, path.name)
    (path / altered).write_text("x = 3\n")
    if unsummed:
        (path / "manifest.sha256").unlink()
    (report,) = await started(tmp_path)
    assert report.outcome is JobState.FAILED
    assert "completed, verification_failed" in report.summary
    assert altered in report.summary
    assert [job.id for job in spool(tmp_path).jobs(JobState.FAILED)] == [report.job.id]


@pytest.mark.usefixtures("in_process")
async def test_a_job_whose_bundle_verifies_is_done_though_nobody_had_said_so(
    tmp_path: Path,
) -> None:
    path = await sealed_bundle(tmp_path)
    was_running(tmp_path, path.name)
    before = contents(path)
    (report,) = await started(tmp_path, GUARD)
    assert report.outcome is JobState.DONE
    assert contents(path) == before


@pytest.mark.usefixtures("in_process")
async def test_a_job_whose_sealed_bundle_somebody_has_in_hand_is_done_and_not_called_verified(
    tmp_path: Path,
) -> None:
    path = await sealed_bundle(tmp_path)
    was_running(tmp_path, path.name)
    with in_hand(path):
        (report,) = await started(tmp_path)
    assert report.outcome is JobState.DONE
    assert "completed and sealed; not verified" in report.summary
    assert "somebody else has this bundle in hand" in report.summary
    assert f"capa bundle verify {path}" in report.as_text()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("unsummed", [False, True])
async def test_a_bundle_in_hand_is_called_sealed_only_if_it_is(
    tmp_path: Path, unsummed: bool
) -> None:
    path = await sealed_bundle(tmp_path)
    if unsummed:  # a kill before the last file of a seal
        (path / "manifest.sha256").unlink()
    else:
        (path / "manifest.json").write_text(
            json.dumps({**read_json(path), "run_status": "aborted"})
        )
    was_running(tmp_path, path.name)
    with in_hand(path):
        (report,) = await started(tmp_path)
    assert report.outcome is JobState.FAILED
    said = "completed, open" if unsummed else "aborted, sealed, not verified again (/"
    assert said in report.summary


async def test_a_bundle_whose_manifest_is_damaged_is_sealed_from_what_is_there(
    tmp_path: Path,
) -> None:
    path = await trio.to_thread.run_sync(unsealed_bundle, tmp_path / "runs")
    (path / "manifest.json").write_text("{")
    await started(tmp_path)
    assert read_manifest(path).bundle_status == "sealed"
    assert verify_bundle(path) == []


async def test_a_removal_goes_on_and_what_was_never_begun_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sealed_at(tmp_path / "runs", datetime(2026, 11, 1, tzinfo=UTC))

    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", refused)
        with pytest.raises(PermissionError):
            remove_bundle(path, why="age", by="capad")
    unborn = tmp_path / "runs" / ".20261120-131500-00aa.new"
    unborn.mkdir()
    (unborn / "manifest.json").write_text("{}")
    await started(tmp_path)
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["removed.jsonl"]
    assert len(removed_runs(tmp_path / "runs")) == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
async def test_a_bundle_of_somebody_else_does_not_keep_the_queue_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Of a foreground run of another user that was killed."""
    path = await trio.to_thread.run_sync(unsealed_bundle, tmp_path / "runs")

    def refused(path: Path, _data: bytes) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(recovery, "write_atomically", refused)
    with structlog.testing.capture_logs() as logs:
        await started(tmp_path, GUARD)
    told = [entry for entry in logs if entry["event"] == "bundle.not_written"]
    assert [entry["bundle"] for entry in told] == [str(path)]
    assert read_manifest(path).bundle_status == "sealed"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_the_owner_of_a_file_can_read_its_report_whoever_the_daemon_is() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        before = os.umask(0o077)
        try:
            root = Path(folder) / "spool"
            root.mkdir(mode=0o755)
            root.chmod(0o755)
            folders = SpoolFolders(root, max_bytes=1000)
            folders.prepare()
            file = folders.incoming / "a.method.toml"
            file.write_text("x = 1\n")
            os.chown(file, 12345, 12345)
            job = folders.claim(file.name, folders.look()[file.name])
            assert job is not None
            folders.report(job, "{}", "rejected\n")
            job = folders.move(job, JobState.REJECTED)
        finally:
            os.umask(before)
        child = os.fork()
        if child == 0:
            os.setgid(12345)
            os.setuid(12345)
            texts = [(folders.path(job) / name).read_text() for name in ("report.txt", "job.json")]
            os._exit(0 if all(texts) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("guard", "unread", "words"),
    [
        (None, "", "capad-guard left no word after it"),
        (replace(GUARD, started_utc=datetime(2020, 1, 1, tzinfo=UTC)), "", "left no word after it"),
        (None, "Permission denied", "left can't be read (Permission denied): whether it made"),
    ],
)
async def test_what_is_not_known_of_the_guardian_is_not_claimed(
    tmp_path: Path, guard: GuardReport | None, unread: str, words: str
) -> None:
    await crashed(tmp_path)
    (report,) = await started(tmp_path, guard, unread)
    text = report.as_text()
    assert words in text
    assert "This start tried to drive every output to its safe value" in text
    assert "proven" not in text


@pytest.mark.usefixtures("in_process")
async def test_a_guardian_whose_record_can_not_be_laid_in_has_acted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_path: Path, _data: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(recovery, "write_atomically", refused)
    await crashed(tmp_path)
    guard = replace(GUARD, record={"verdicts": {"a": {"channel": "a", **PROVEN}}})
    (report,) = await started(tmp_path, guard)
    assert "a = 20 proven" in report.summary
    text = report.as_text()
    assert "left no word" not in text
    assert "The record of capad-guard is not in the bundle" in text


PROVEN = {"value": 20.0, "verdict": "proven", "detail": "20 read back"}


async def crashed(tmp_path: Path) -> None:
    """Leave a run that crashed, and its job, where a daemon that is killed leaves them."""
    path = await trio.to_thread.run_sync(unsealed_bundle, tmp_path / "runs")
    manifest = read_json(path)
    (path / "manifest.json").write_text(json.dumps({**manifest, "run_status": "crashed"}))
    was_running(tmp_path, path.name)
