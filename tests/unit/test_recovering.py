"""What a start finds in the runs folder: bundles half made, half sealed, half removed."""

import errno
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
import trio

from capa.storage.manifest import read_manifest
from capa.storage.removal import remove_bundle, removed_runs
from capa.storage.seal import finalize_bundle
from capa.storage.verify import verify_bundle
from capad import recovery
from capad.guarding import GuardReport
from capad.jobs import JobState
from capad.recovery import recover
from capad.spool_folders import SpoolFolders
from tests.support.bundles import sha256sum_check, unsealed_bundle
from tests.support.sealed import sealed_at


async def started(tmp_path: Path, guard: GuardReport | None = None) -> None:
    """Do what a daemon does at its start, as far as bundles are concerned."""
    folders = SpoolFolders(tmp_path / "spool", max_bytes=1000)
    folders.prepare()
    log = structlog.get_logger()
    assert await recover(folders, tmp_path / "runs", guard=guard, log=log) == []


async def test_a_bundle_whose_seal_lacks_its_last_file_gets_it(tmp_path: Path) -> None:
    path = await trio.to_thread.run_sync(unsealed_bundle, tmp_path / "runs")
    assert finalize_bundle(path).sealed
    (path / "manifest.sha256").unlink()
    (path / ".manifest.sha256.0badcafe.capa-tmp").write_text("half a line")
    await started(tmp_path)
    assert sha256sum_check(path).returncode == 0
    assert verify_bundle(path) == []
    assert not list(path.glob(".*"))


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
    guard = GuardReport(datetime(2027, 1, 1, tzinfo=UTC), 0, {"verdicts": {}}, b"{}")
    with structlog.testing.capture_logs() as logs:
        await started(tmp_path, guard)
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
