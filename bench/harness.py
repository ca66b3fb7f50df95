"""The twin and the daemon as processes of their own, watched from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

FoundT = TypeVar("FoundT")
BIN = Path(sys.executable).parent
PATIENCE_S = 30.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def wait_for(check: Callable[[], FoundT], what: str, within_s: float = PATIENCE_S) -> FoundT:
    """Look until there is something to see, at most so long; return it."""
    deadline_s = time.monotonic() + within_s
    while not (found := check()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {within_s} s")
        time.sleep(0.002)
    return found


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def fine_cpu_s(pid: int) -> float:
    """Like ``cpu_s``, with the scheduler's nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


@dataclass
class Twin:
    """A running `capa twin`."""

    directory: Path
    process: subprocess.Popen[str]
    _seen: int = 0
    _records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def profile(self) -> Path:
        return self.directory / "profile.toml"

    def wire(self) -> list[dict[str, Any]]:
        """Every record of wire.jsonl so far."""
        with (self.directory / "wire.jsonl").open("rb") as log:
            log.seek(self._seen)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._seen += len(whole)
        self._records += [json.loads(line) for line in whole.splitlines()]
        return self._records

    def outputs(self, device: str, since_ns: int) -> list[tuple[int, float]]:
        """Changes of a device's setpoint after an instant: (t_ns, value)."""
        return [
            (record["t_ns"], record["value"])
            for record in self.wire()
            if record["event"] == "output"
            and record["device"] == device
            and record["field"] == "setpoint"
            and record["t_ns"] >= since_ns
        ]


@contextmanager
def running_twin(profile: Path, directory: Path) -> Iterator[Twin]:
    """Serve a profile's twins until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [BIN / "capa", "twin", str(profile), "--dir", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.strip() == "ready":
                break
        else:
            raise RuntimeError("the twin did not get ready")
        yield Twin(directory, process)
    finally:
        end(process)


@dataclass
class Daemon:
    """A running `capad`."""

    directory: Path
    process: subprocess.Popen[bytes]
    started_ns: int
    notify: socket.socket
    ready_ns: int = 0
    status: str = ""

    def listen(self) -> None:
        """Take what the daemon told its service manager since the last call."""
        while True:
            try:
                message = self.notify.recv(4096).decode()
            except BlockingIOError:
                return
            for line in message.splitlines():
                if line == "READY=1" and not self.ready_ns:
                    self.ready_ns = time.monotonic_ns()
                if line.startswith("STATUS="):
                    self.status = line.removeprefix("STATUS=")

    def wait_ready(self) -> None:
        def ready() -> bool:
            self.listen()
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"capad ended with {self.process.returncode} before it was ready"
                )
            return bool(self.ready_ns)

        wait_for(ready, "READY=1")

    def drop(self, name: str, text: str) -> int:
        """Put a method into the spool; return the instant of the rename."""
        incoming = self.directory / "spool" / "incoming"
        (incoming / f".{name}").write_text(text)
        now_ns = time.monotonic_ns()
        (incoming / f".{name}").rename(incoming / name)
        return now_ns

    def send(self, signum: signal.Signals) -> int:
        now_ns = time.monotonic_ns()
        self.process.send_signal(signum)
        return now_ns

    def finished(self) -> int:
        """How many jobs have come to an end."""
        spool = self.directory / "spool"
        return sum(len(list((spool / box).glob("*"))) for box in ("done", "failed", "rejected"))

    def release(self) -> None:
        (self.directory / "spool" / "hold").unlink(missing_ok=True)


@contextmanager
def running_daemon(
    profile: Path, directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Daemon]:
    """Run the daemon on a profile until the block ends."""
    incoming = directory / "spool" / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    config = directory / "capad.toml"
    config.write_text('[plugins]\nmode = "dev"\n')
    address = directory / "notify"
    address.unlink(missing_ok=True)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(address))
    notify.setblocking(False)
    argv = [BIN / "capad", "--config", config, "--hardware", profile]
    argv += ["--spool", directory / "spool", "--runs", directory / "runs"]
    argv += ["--runtime-dir", directory / "run"]
    with (directory / "capad.log").open("ab") as log:
        started_ns = time.monotonic_ns()
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdout=log,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(address), **(environment or {})},
        )
    daemon = Daemon(directory, process, started_ns, notify)
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        end(process)
        notify.close()


def end(process: "subprocess.Popen[Any]") -> None:
    """End a process that we started: ask, then insist."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one other core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
