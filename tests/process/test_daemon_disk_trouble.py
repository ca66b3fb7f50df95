"""A disk that is read-only or full: said in the status, tried again, the end of nothing."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon_process import REPOSITORY, Daemon, Twin, method_toml, running_daemon
from tests.support.polling import eventually

GOOD = method_toml(hold_s=0.1)

# A spool on a file system of its own: only in a mount namespace, which takes root.
mounts = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare"
)


def _on_own_disk(folder: Path, options: str, place: str = "spool") -> tuple[str, ...]:
    disk = folder / place
    disk.mkdir(exist_ok=True)
    script = (
        f"mount -t tmpfs -o {options} tmpfs '{disk}' && mkdir -p '{folder}/spool/incoming' "
        '&& exec "$@"'
    )
    return ("unshare", "--mount", "--propagation", "private", "bash", "-c", script, "bash")


def _inside(daemon: Daemon, *command: str) -> None:
    subprocess.run(
        ["nsenter", "-t", str(daemon.process.pid), "-m", "-w", *command], check=True, cwd=REPOSITORY
    )


@mounts
def test_a_read_only_spool_is_said_and_tried_again_and_ends_nothing(
    twin: Twin, tmp_path: Path
) -> None:
    prefix = _on_own_disk(tmp_path, "size=4m")
    with running_daemon(tmp_path, twin.profile, prefix=prefix) as daemon:
        spool = Path(f"/proc/{daemon.process.pid}/root{daemon.spool}")
        aside = spool / "incoming" / ".aside"
        aside.write_text(GOOD)
        eventually(lambda: (spool / "done").is_dir(), "the spool is prepared", say=daemon.log)
        aside.rename(spool / "incoming" / "a.method.toml")
        _inside(daemon, "mount", "-o", "remount,ro", str(daemon.spool))
        assert "read-only" in daemon.wait_status("TROUBLE")
        assert daemon.process.poll() is None
        _inside(daemon, "mount", "-o", "remount,rw", str(daemon.spool))
        eventually(lambda: list((spool / "done").iterdir()), "it runs after all", say=daemon.log)
        eventually(lambda: "TROUBLE" not in daemon.status, "the trouble is over", say=daemon.log)


@mounts
def test_a_full_disk_is_said_and_tried_again_and_ends_nothing(twin: Twin, tmp_path: Path) -> None:
    prefix = _on_own_disk(tmp_path, "size=256k")
    with running_daemon(tmp_path, twin.profile, prefix=prefix) as daemon:
        spool = Path(f"/proc/{daemon.process.pid}/root{daemon.spool}")
        eventually(lambda: (spool / "done").is_dir(), "the spool is prepared", say=daemon.log)
        (spool / "incoming" / ".aside").write_text(GOOD)
        ballast = spool / ".ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(1024 * 1024))
        (spool / "incoming" / ".aside").rename(spool / "incoming" / "a.method.toml")
        assert "the disk is full" in daemon.wait_status("TROUBLE")
        assert daemon.process.poll() is None
        ballast.unlink()
        eventually(lambda: list((spool / "done").iterdir()), "it runs after all", say=daemon.log)


@mounts
def test_where_no_bundle_can_be_made_no_job_is_lost_and_the_queue_is_held(
    twin: Twin, tmp_path: Path
) -> None:
    prefix = _on_own_disk(tmp_path, "size=2g", place="runs")  # room for the safety monitor
    with running_daemon(tmp_path, twin.profile, prefix=prefix) as daemon:
        _inside(daemon, "mount", "-o", "remount,ro", str(daemon.runs))
        for name in ("a", "b", "c"):
            daemon.drop(f"{name}.method.toml", GOOD)
        assert "no bundle can be made" in daemon.wait_status("HELD")
        eventually(lambda: len(daemon.jobs("queued")) == 3, "all three wait", say=daemon.log)
        assert daemon.jobs("rejected") == daemon.jobs("active") == []
        _inside(daemon, "mount", "-o", "remount,rw", str(daemon.runs))
        daemon.release()
        last = daemon.wait_job("done", 3)
        assert [job.name.split("-")[-1] for job in daemon.jobs("done")] == ["a", "b", "c"]
        states = [
            entry["state"] for entry in json.loads((last / "job.json").read_text())["history"]
        ]
        assert states == ["queued", "active", "done"]


@mounts
def test_on_one_full_disk_for_spool_and_runs_jobs_wait_until_there_is_room(
    twin: Twin, tmp_path: Path
) -> None:
    box = tmp_path / "box"
    prefix = _on_own_disk(tmp_path, "size=400m", place="box")
    flags = ("--spool", str(box / "spool"), "--runs", str(box / "runs"))
    with running_daemon(tmp_path, twin.profile, *flags, prefix=prefix) as daemon:
        inside = Path(f"/proc/{daemon.process.pid}/root{box}")
        spool, ballast = inside / "spool", inside / "ballast"
        eventually(lambda: (spool / "done").is_dir(), "it is prepared", say=daemon.log)
        (spool / "incoming" / ".aside").write_text(GOOD)
        daemon.wait_status("IDLE")
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(inside).free)
        (spool / "incoming" / ".aside").rename(spool / "incoming" / "a.method.toml")
        daemon.wait_status("the disk is full")
        assert "the disk is full" in daemon.wait_status("runs disk free = 0 MB")
        assert not list((spool / "rejected").iterdir())
        ballast.unlink()
        eventually(lambda: list((spool / "done").iterdir()), "it runs", within_s=40, say=daemon.log)


def test_what_killed_daemons_left_half_written_is_gone_once_it_is_ready(
    twin: Twin, tmp_path: Path
) -> None:
    left = [
        tmp_path / "run" / ".safe_plan.json.0badcafe.capa-tmp",
        tmp_path / "run" / "safety" / ".1.reply.0badcafe.capa-tmp",
        tmp_path / ".trips.json.0badcafe.capa-tmp",
        tmp_path / "runs" / "..capad.lock.0badcafe.capa-tmp",
    ]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_text("half a li")
    with running_daemon(tmp_path, twin.profile) as daemon:
        gone = lambda: not [file for file in left if file.exists()]  # noqa: E731 - said once
        eventually(gone, "the leftovers are gone", say=daemon.log)
