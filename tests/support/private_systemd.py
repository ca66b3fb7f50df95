"""A systemd of our own: PID 1 of its own namespaces, with nothing of the host's but its files.

The manager sees its own processes, mounts, host name and control groups. It is put into a fresh
control group first and gets hierarchies mounted from there, so that even its cleaning up cannot
reach a group of the host's; /run, /etc, /opt, /var and the rest that it might write are its own.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.polling import eventually

__all__ = ["PrivateSystemd", "private_systemd", "why_not"]

SYSTEMD = Path("/lib/systemd/systemd")
CGROUPS = Path("/sys/fs/cgroup")
_PREFIX = "capad-test-"
REPOSITORY = Path(__file__).parents[2]

_UNSHARE = (
    *("unshare", "--fork", "--pid", "--kill-child", "--mount", "--uts", "--ipc", "--cgroup"),
    *("--propagation", "private"),
)

_INSIDE = """
set -eu
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
# Control groups: only the part below the group we are in.
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    umount -R /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
# The interpreter and the code where an unprivileged user reaches them.
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir -p /opt/python /opt/capad/bin /opt/capad/lib /opt/capad/src
mount --bind "$BASE_PREFIX" /opt/python
mount --bind "$PREFIX/lib" /opt/capad/lib
mount --bind "$REPOSITORY" /opt/capad/src
ln -s "/opt/python/bin/$PYTHON" /opt/capad/bin/python
printf 'home = /opt/python/bin\\ninclude-system-site-packages = false\\n' > /opt/capad/pyvenv.cfg
cat > /opt/capad/bin/capad <<'END'
#!/opt/capad/bin/python
import sys
from capad.main import main
sys.exit(main())
END
chmod 755 /opt/capad/bin/capad
# The guardian, as `make install` puts it.
mkdir /opt/capad/libexec
cp "$REPOSITORY/capad/guard.py" /opt/capad/libexec/capad_guard.py
cp "$REPOSITORY/deploy/capad-guard" /opt/capad/libexec/capad-guard
"$BASE_PREFIX/bin/$PYTHON" -m compileall -q -f /opt/capad/libexec
# Files of our own instead of the host's.
for folder in lib log tmp; do mount -t tmpfs -o mode=755 tmpfs "/var/$folder"; done
chmod 1777 /var/tmp
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /run/etc
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache /etc/localtime /run/etc/ || true
cp -a /etc/ld.so.conf /etc/ld.so.conf.d /run/etc/ 2>/dev/null || true
mkdir /run/etc/capad
echo 'capad:x:971:971:capad:/var/lib/capad:/usr/sbin/nologin' >> /run/etc/passwd
echo 'alice:x:1971:1971:an operator:/:/usr/sbin/nologin' >> /run/etc/passwd
echo 'capad:x:971:alice' >> /run/etc/group
echo 'alice:x:1971:' >> /run/etc/group
grep -q '^dialout:' /run/etc/group || echo 'dialout:x:20:' >> /run/etc/group
mount --bind /run/etc /etc
mkdir /run/units
printf '[Unit]\\nDefaultDependencies=no\\n' > /run/units/bench.target
exec env -i container=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \\
    SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info \\
    /lib/systemd/systemd --system --unit=bench.target --show-status=no
"""


def why_not() -> str | None:
    """Return the reason why a private systemd cannot run here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("unshare", "nsenter", "systemctl") if not shutil.which(tool)]
    if missing or not SYSTEMD.exists():
        return f"not installed: {', '.join(missing) or SYSTEMD}"
    trial = subprocess.run([*_UNSHARE, "mount", "-t", "proc", "proc", "/proc"], check=False)
    return None if trial.returncode == 0 else "namespaces are not permitted here"


@dataclass(frozen=True)
class PrivateSystemd:
    """A running manager; ``pid`` is its PID 1 as the host sees it."""

    pid: int
    log: Path

    @property
    def root(self) -> Path:
        """The manager's root directory, reachable from here."""
        return Path(f"/proc/{self.pid}/root")

    def path(self, inside: str) -> Path:
        """Return where a path of the manager's is, seen from here."""
        return self.root / inside.lstrip("/")

    def run(
        self, *command: str, user: str | None = None, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root or as ``user`` (by way of ``setpriv``), on ``text``."""
        become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups") if user else ()
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *become, *command],
            check=False,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"},
        )

    def systemctl(self, *words: str) -> str:
        """Run systemctl and return what it printed, whatever its exit code."""
        done = self.run("systemctl", "--no-pager", "--full", *words)
        return done.stdout + done.stderr

    def show(self, unit: str, key: str) -> str:
        """Return one property of a unit."""
        return self.systemctl("show", "--value", "-p", key, unit).strip()

    def install(self, unit: Path, drop_ins: Mapping[str, str]) -> None:
        """Install a unit file as it is, and drop-ins by name; then have systemd read them."""
        folder = self.path("/run/units")
        shutil.copy(unit, folder / unit.name)
        (folder / f"{unit.name}.d").mkdir(exist_ok=True)
        for name, text in drop_ins.items():
            (folder / f"{unit.name}.d" / f"{name}.conf").write_text(text)
        self.systemctl("daemon-reload")


@contextmanager
def private_systemd(folder: Path) -> Iterator[PrivateSystemd]:
    """Start a manager, yield it once it answers, and end it with everything it started."""
    log = folder / "systemd.log"
    groups = _own_groups(folder.name)
    with log.open("wb") as out:
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _ENTER,
                str(os.getpid()),
                *map(str, groups),
                "--",
                *_UNSHARE,
                "bash",
                "-c",
                _INSIDE,
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={
                "PATH": os.environ["PATH"],
                "BASE_PREFIX": sys.base_prefix,
                "PREFIX": sys.prefix,
                "PYTHON": Path(sys.executable).resolve().name,
                "REPOSITORY": str(REPOSITORY),
            },
        )
    try:
        manager = PrivateSystemd(_first_child(child.pid, log), log)
        eventually(
            lambda: manager.systemctl("is-system-running").startswith(("running", "degraded")),
            "the private systemd answers",
            say=log.read_text,
        )
        yield manager
    finally:
        child.send_signal(signal.SIGKILL)  # --kill-child: the namespace's PID 1 goes with it
        child.wait()
        _remove(groups)


_ENTER = """
import ctypes, os, signal, sys
# Killed with whoever asked for it (PR_SET_PDEATHSIG of linux/prctl.h), and --kill-child goes on
# from there: a test that is killed leaves no process.
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("whoever asked for it is gone already")
cut = sys.argv.index("--")
for group in sys.argv[2:cut]:
    with open(group + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
os.execvp(sys.argv[cut + 1], sys.argv[cut + 1:])
"""


def _own_groups(name: str) -> list[Path]:
    """Make a control group for the test in each hierarchy that systemd uses."""
    hybrid = [CGROUPS / "systemd", CGROUPS / "unified"]
    roots = [root for root in hybrid if root.is_dir()] or [CGROUPS]
    for left in [group for root in roots for group in root.glob(f"{_PREFIX}*")]:
        if not Path("/proc", left.name.split("-")[2]).exists():
            _removed(left)  # of a test that was killed; its processes went with it
    groups = [root / f"{_PREFIX}{os.getpid()}-{name}" for root in roots]
    for group in groups:
        group.mkdir()
    return groups


def _remove(groups: list[Path]) -> None:
    """Remove our groups; they are empty once the killed have been reaped."""
    eventually(lambda: all(map(_removed, groups)), f"control groups are empty: {groups}")


def _removed(group: Path) -> bool:
    """Remove a group, innermost first; False while there is a process in it."""
    for inner, _, _ in os.walk(group, topdown=False):
        try:
            Path(inner).rmdir()
        except OSError:
            return False
    return True


def _first_child(pid: int, log: Path) -> int:
    """Return the pid of PID 1 inside: the child of unshare, once it is systemd."""

    def look() -> int | None:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return None

    return eventually(look, "systemd runs as PID 1 of its namespace", say=log.read_text)
