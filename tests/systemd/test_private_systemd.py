"""The bench of these tests itself: whatever ends a test, nothing of its manager is left."""

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.support.polling import eventually
from tests.support.private_systemd import CGROUPS, private_systemd, why_not

REPOSITORY = Path(__file__).parents[2]
OPENS_ONE = """
import sys, time
from pathlib import Path
from tests.support.private_systemd import private_systemd
with private_systemd(Path(sys.argv[1])) as systemd:
    systemd.run("systemd-run", "--no-block", "sleep", "600")
    print("open", flush=True)
    time.sleep(600)
"""

REASON = why_not()
if REASON is not None:
    warnings.warn(f"PRIVATE SYSTEMD IS NOT TESTED: {REASON}", UserWarning, stacklevel=1)

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(REASON is not None, reason=f"no private systemd: {REASON}"),
]


def groups_of(pid: int) -> list[Path]:
    return list(CGROUPS.glob(f"capad-test-{pid}-*")) + list(CGROUPS.glob(f"*/capad-test-{pid}-*"))


def processes_in(groups: list[Path]) -> list[str]:
    files = [file for group in groups for file in group.rglob("cgroup.procs")]
    return [pid for file in files for pid in file.read_text().split()]


def test_a_test_that_is_killed_leaves_no_process_and_the_next_one_removes_its_groups(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    killed = subprocess.Popen(
        [sys.executable, "-c", OPENS_ONE, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    assert killed.stdout is not None
    with killed.stdout:
        assert killed.stdout.readline() == b"open\n"
        groups = groups_of(killed.pid)
        assert len(processes_in(groups)) > 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    eventually(lambda: not processes_in(groups), "every process is gone")
    (tmp_path / "next").mkdir()
    with private_systemd(tmp_path / "next"):
        assert groups_of(killed.pid) == []
