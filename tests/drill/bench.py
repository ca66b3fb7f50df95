"""The bench of the drill: a private systemd, the twin as one unit, the daemon as the real one.

What differs from a box stands in ``DROP_IN``. The harness strikes from outside the name spaces,
by the process ids of the host, so that the instant of a blow is the harness's own.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from adapters.modbus.codec import with_crc
from adapters.twin.control import ask
from tests.drill.blocker import write_blocker
from tests.drill.judging import Output, WireLog, outputs_of
from tests.support.polling import eventually
from tests.support.private_systemd import PrivateSystemd, private_systemd

__all__ = ["Bench", "open_bench"]

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "deploy" / "systemd" / "capad.service"
SERVICE, STATE = "capad.service", "/var/lib/capad"
SPOOL, RUNS, RUN, TWIN = f"{STATE}/spool", f"{STATE}/runs", "/run/capad", "/run/twin"
PLUGINS, LOG, TWIN_LOG = "/run/plugins", "/run/capad.log", "/run/twin.log"
DISK_MB = 64
START_S, END_S = 40.0, 40.0
AWAY_S = 10.0
KNOBS = {
    "furnace_bus": with_crc(bytes.fromhex("0110 0870 0002 04 0000 43c8")),  # 400 degF, word order
    "gas_bus": b"AS250\r",
}
"""What sets an instrument from its own panel, in its own words."""

_PYTHON = (
    "Environment=LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1 "
    "PYTHONPATH=/opt/capad/src"
)
DROP_IN = f"""
[Unit]
DefaultDependencies=no
After=
[Service]
{_PYTHON}:{PLUGINS}
StandardOutput=append:{LOG}
StandardError=append:{LOG}
"""
TWIN_UNIT = f"""
[Unit]
DefaultDependencies=no
[Service]
User=capad
{_PYTHON}
StandardError=append:{TWIN_LOG}
ExecStart=/opt/capad/bin/python -m capa.cli.main twin /opt/capad/src/tests/drill/rig.toml \\
    --dir {TWIN}
"""
CONFIG = f"""
[rig]
profile = "{TWIN}/profile.toml"
[plugins]
mode = "dev"
"""


class Bench:
    """The machine that is hurt; ``away_s`` is how long an instrument is out of reach."""

    def __init__(self, systemd: PrivateSystemd, *, away_s: float = AWAY_S) -> None:
        self.systemd = systemd
        self.away_s = away_s
        self.wire = WireLog(systemd.path(f"{TWIN}/wire.jsonl"))
        self.outputs: tuple[Output, ...] = outputs_of(systemd.path(f"{TWIN}/profile.toml"))
        self.log_from = 0
        self._group = _control_group(systemd.pid)
        self._count = 0

    # --- the service ------------------------------------------------------------------------------

    def path(self, inside: str) -> Path:
        """Return where a path of the bench is, seen from here."""
        return self.systemd.path(inside)

    def pids(self, word: str) -> list[int]:
        """Return the service's processes with this word in their command line.

        Those that systemd started: until it has become another program, what the daemon starts
        has the daemon's own words.
        """
        groups = self._group.glob(f"**/{SERVICE}/cgroup.procs")
        try:
            pids = [int(pid) for group in groups for pid in group.read_text().split()]
        except OSError:  # the service ended while it was looked at, and its group with it
            return []
        return [pid for pid in pids if word in _words(pid) and _parent(pid) == self.systemd.pid]

    def daemon_pid(self) -> int | None:
        """Return the daemon's process; None while there is none."""
        return next(iter(self.pids("/opt/capad/bin/capad")), None)

    def is_active(self, other_than: int | None = None) -> bool:
        """Whether a daemon, another one if asked, has said READY=1 and has not ended since.

        The process first, then its state: the other way round the state may be the last one's.
        """
        pid = self.daemon_pid()
        if pid is None or pid == other_than:
            return False
        return self.systemd.show(SERVICE, "ActiveState") == "active" and self.daemon_pid() == pid

    def start(self) -> None:
        """Have the service up, whatever became of it."""
        self.systemd.systemctl("reset-failed", SERVICE)
        if not self.is_active():
            self.systemd.systemctl("start", SERVICE)
        self.wait_active()

    def stop(self) -> None:
        """Stop the service, and wait for its end."""
        self.systemd.systemctl("stop", SERVICE)

    def wait_active(self, other_than: int | None = None) -> None:
        """Wait until a daemon, another one if asked, is ready."""
        eventually(
            lambda: self.is_active(other_than),
            "the service is up again",
            within_s=START_S,
            every_s=0.1,
            say=self.trouble,
        )

    def wait_gone(self, pid: int) -> None:
        """Wait until a process of the service is gone."""
        eventually(
            lambda: self.daemon_pid() != pid, "the daemon ends", within_s=END_S, say=self.trouble
        )

    def strike(self, signum: signal.Signals, pid: int | None = None) -> int:
        """Send a signal to the daemon; return the instant just before."""
        target = pid or eventually(self.daemon_pid, "a daemon", say=self.trouble)
        now_ns = time.monotonic_ns()
        os.kill(target, signum)
        return now_ns

    # --- runs -------------------------------------------------------------------------------------

    def begin_run(self, text: str, *, name: str = "run.method.toml") -> None:
        """Have a run begin: drop a file unless one waits, release the queue until it is taken."""
        self.start()
        self._sweep()
        left = set(self._names("active"))  # of a daemon that was killed: not settled yet
        self.log_from = self.path(LOG).stat().st_size
        if not (self._names("incoming") or self._names("queued")):
            self._count += 1
            self._drop(f"{self._count:04}-{name}", text)
        eventually(
            lambda: self._begun(left), "a run begins", within_s=20, every_s=0.005, say=self.trouble
        )

    def _begun(self, left: set[str]) -> bool:
        self.release()
        return bool(set(self._names("active")) - left)

    def _drop(self, name: str, text: str) -> None:
        """As the operator alice does, who is in the group capad and nobody special."""
        script = f'cat > "{SPOOL}/incoming/.{name}" && cd "{SPOOL}/incoming" && mv ".{name}" "$0"'
        self.systemd.run("sh", "-c", script, name, user="alice", text=text)

    def hold(self) -> None:
        """Have nothing begin by itself any more, as an operator may."""
        (self.path(SPOOL) / "hold").write_text("the drill looks at what it did\n")

    def release(self) -> None:
        """Let the queue go on."""
        (self.path(SPOOL) / "hold").unlink(missing_ok=True)

    def wait_idle(self) -> None:
        """Wait until no run is in progress."""
        eventually(
            lambda: not self._names("active"), "the run ends", within_s=END_S, say=self.trouble
        )

    def _names(self, box: str) -> list[str]:
        folder = self.path(SPOOL) / box
        names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - names are all we want
        return [name for name in names if not name.startswith(".")]

    def _sweep(self) -> None:
        """Remove what is over and done with: the next start should not have more to look at."""
        for box in ("done", "failed", "rejected"):
            for job in (self.path(SPOOL) / box).glob("*"):
                shutil.rmtree(job, ignore_errors=True)
        for manifest in self.path(RUNS).glob("*/manifest.json"):
            if json.loads(manifest.read_text())["bundle_status"] == "sealed":
                shutil.rmtree(manifest.parent, ignore_errors=True)

    def fresh(self) -> None:
        """Forget all runs and trips: the next campaign is not to inherit anything."""
        self.heal()
        self.stop()
        for inside in (SPOOL, RUNS):
            for path in self.path(inside).glob("*/*"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        for name in ("trips.json", "safe_stages.json", "spool/hold", "ballast"):
            (self.path(STATE) / name).unlink(missing_ok=True)
        self.start()

    # --- outputs ---------------------------------------------------------------------------------

    def is_safe(self, device: str | None = None) -> bool:
        """Whether a device's output, or every one, stands at its safe value now."""
        meant = [o for o in self.outputs if device in (None, o.device)]
        return all(o.is_safe(self.wire.stands_at(o.device)) for o in meant)

    def wait_safe(self) -> None:
        """Wait until every output is safe."""
        eventually(self.is_safe, "every output is safe", within_s=60, say=self.trouble)

    def wait_unsafe(self) -> None:
        """Wait until every output is away from its safe value."""

        def away() -> bool:
            return not any(self.is_safe(o.device) for o in self.outputs)

        eventually(away, "the run drives every output", within_s=20, say=self.trouble)

    def turn_knobs(self) -> None:
        """Set the serial instruments to something unsafe, past capad, as at their own panels."""
        for link, request in KNOBS.items():
            self._put(link, request)
        eventually(
            lambda: not (self.is_safe("furnace") or self.is_safe("purge")),
            "the knobs are turned",
            say=self.trouble,
        )

    def babble(self, rng: Random, *, for_s: float) -> None:
        """Have the serial instruments hear bytes that mean nothing."""
        until_s = time.monotonic() + for_s
        while time.monotonic() < until_s:
            self._put(rng.choice(list(KNOBS)), rng.randbytes(rng.randrange(1, 40)))
            time.sleep(rng.uniform(0.001, 0.02))

    def _put(self, link: str, data: bytes) -> None:
        port = self.path(f"{TWIN}/{link}.tty").readlink()
        fd = os.open(self.path(str(port)), os.O_WRONLY | os.O_NOCTTY)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    # --- faults -----------------------------------------------------------------------------------

    def fault(self, kind: str, *, active: bool = True, **where: object) -> int:
        """Begin or end a fault of the twin; return the instant just before."""
        now_ns = time.monotonic_ns()
        reply = ask(self.path(TWIN), {"fault": kind, "active": active, **where})
        assert reply["ok"], reply
        return now_ns

    def heal(self) -> None:
        """End every fault, so that a failure of one round is none of the next."""
        for link in ("furnace_bus", "gas_bus", "vent_line"):
            for kind in ("port_gone", "silence", "mute", "noise", "truncate", "crc"):
                self.fault(kind, active=False, link=link)
        for device in ("furnace", "purge", "vent"):
            for kind in ("silence", "mute", "noise", "truncate", "crc"):
                self.fault(kind, active=False, device=device)

    def clear_trips(self) -> None:
        """Clear what latched, in the drill's own name."""

        def none_left() -> bool:
            trips = self.path(STATE) / "trips.json"
            return not trips.exists() or not json.loads(trips.read_text())["trips"]

        def cleared() -> bool:
            words = ("-m", "capa.cli.main", "safety", "clear", "--by", "drill", "--reason", "over")
            python = ("env", "PYTHONPATH=/opt/capad/src", "LD_LIBRARY_PATH=/opt/python/lib")
            self.systemd.run(*python, "/opt/capad/bin/python", *words)
            return none_left()

        if not none_left():
            eventually(cleared, "the trips are cleared", within_s=30, every_s=0.5, say=self.trouble)

    def trouble(self) -> str:
        """Return what is known, for a failure."""
        log = self.path(LOG)
        said = log.read_text(errors="replace")[-6000:] if log.exists() else ""
        return self.systemd.systemctl("status", SERVICE, "twin.service") + said

    def keep_evidence(self, folder: Path) -> None:
        """Copy what a failure left: the wire, the log, the bundle, and what systemd says."""
        folder.mkdir(parents=True, exist_ok=True)
        wire = "".join(json.dumps(record) + "\n" for record in self.wire.read())
        (folder / "wire.jsonl").write_text(wire)
        with self.path(LOG).open("rb") as log:
            log.seek(self.log_from)
            (folder / "capad.log").write_bytes(log.read())
        shutil.copy(self.path(TWIN_LOG), folder / "twin.log")
        status = self.systemd.systemctl("status", SERVICE, "twin.service")
        (folder / "systemd.txt").write_text(status)
        for name in ("safe_plan.json", "guard_verdicts.json", "guard.jsonl"):
            if (self.path(RUN) / name).exists():
                shutil.copy(self.path(RUN) / name, folder / name)
        for bundle in sorted(self.path(RUNS).glob("2*"))[-2:]:
            shutil.copytree(bundle, folder / "runs" / bundle.name, dirs_exist_ok=True)


@contextmanager
def open_bench(folder: Path, *, drop_in: str = "", away_s: float = AWAY_S) -> Iterator[Bench]:
    """Boot the manager, start twin and daemon, and end all of it afterwards.

    ``drop_in`` (more of the service's) and ``away_s`` are for who has less time than a box.
    """
    with private_systemd(folder) as systemd:
        systemd.path("/etc/capad/capad.toml").write_text(CONFIG)
        systemd.path("/run/units/twin.service").write_text(TWIN_UNIT)
        write_blocker(systemd.path(PLUGINS))
        systemd.run("install", "-d", "-o", "capad", "-g", "capad", TWIN, STATE)
        systemd.run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=750", "tmpfs", STATE)
        systemd.install(UNIT, {"drill": DROP_IN + drop_in})
        systemd.systemctl("start", "twin.service")
        profile = systemd.path(f"{TWIN}/profile.toml")
        eventually(profile.exists, "the twin serves", within_s=30, say=systemd.log.read_text)
        bench = Bench(systemd, away_s=away_s)
        bench.start()
        try:
            yield bench
        finally:
            bench.wire.close()


def _control_group(pid: int) -> Path:
    """Return the control group that the manager made its own, as the host sees it."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("name=systemd", ""):
            hybrid = Path("/sys/fs/cgroup/systemd" if controllers else "/sys/fs/cgroup/unified")
            root = hybrid if hybrid.is_dir() else Path("/sys/fs/cgroup")
            group = root / path.strip("/").removesuffix("init.scope").strip("/")
            if controllers or not Path("/sys/fs/cgroup/systemd").is_dir():
                return group
    raise RuntimeError(f"process {pid} is in no control group of systemd's")


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []  # gone meanwhile


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # gone meanwhile
