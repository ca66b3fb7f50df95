"""A disk that is read-only or full: said in the status, tried again, the end of nothing."""

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


def _on_own_disk(folder: Path, options: str) -> tuple[str, ...]:
    script = (
        f"mount -t tmpfs -o {options} tmpfs '{folder}/spool' && mkdir '{folder}/spool/incoming' "
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
