"""The real ``capad`` as a process, on the twin as another one; judged by files and by the wire."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.polling import eventually

__all__ = ["REPOSITORY", "Daemon", "Twin", "method_toml", "running_daemon", "running_twin"]

REPOSITORY = Path(__file__).parents[2]
DEMO_PROFILE = REPOSITORY / "configs" / "hardware" / "demo.toml"


@dataclass
class Twin:
    """A running twin; ``profile`` reaches its instruments."""

    folder: Path
    process: "subprocess.Popen[str]"

    @property
    def profile(self) -> Path:
        return self.folder / "profile.toml"

    def outputs(self) -> list[dict[str, Any]]:
        """Every change of an output so far, in order."""
        return wire_outputs(self.folder)

    def setpoint(self, device: str = "furnace") -> float:
        """The heater's setpoint as the instrument has it, in degC."""
        values = [o["value"] for o in self.outputs() if o["device"] == device]
        return float(values[-1])


def wire_outputs(folder: Path) -> list[dict[str, Any]]:
    """Every change of an output in a twin's wire log."""
    lines = (folder / "wire.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if '"output"' in line]
    return [record for record in records if record["event"] == "output"]


@contextmanager
def running_twin(folder: Path, profile: Path = DEMO_PROFILE) -> Iterator[Twin]:
    """Serve a profile until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "capa.cli.main", "twin", str(profile), "--dir", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    try:
        assert any(line.strip() == "ready" for line in process.stdout), "the twin gave up"
        yield Twin(folder, process)
    finally:
        _end(process)


@dataclass
class Daemon:
    """A ``capad`` process with a folder of its own and a notify socket like a service manager's."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    notify: socket.socket
    told: list[str] = field(default_factory=list)

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def log(self) -> str:
        """All that it said, for a failing test."""
        text = (self.folder / "capad.log").read_text(errors="replace")
        return "\n".join([*text.splitlines()[-60:], *self.told[-10:]])

    def listen(self) -> list[str]:
        """Take what it told its service manager."""
        while True:
            try:
                self.told += self.notify.recv(8192).decode().splitlines()
            except BlockingIOError:
                return self.told

    @property
    def status(self) -> str:
        lines = [line for line in self.listen() if line.startswith("STATUS=")]
        return lines[-1].removeprefix("STATUS=") if lines else ""

    def drop(self, name: str | bytes, text: str) -> None:
        """Put a file into the spool as careful people do: written aside, then renamed."""
        incoming = self.spool / "incoming"
        aside = incoming / ".aside"
        aside.write_text(text)
        aside.rename(incoming / os.fsdecode(name))

    def jobs(self, state: str) -> list[Path]:
        folder = self.spool / state
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def wait_status(self, part: str, within_s: float = 15) -> str:
        return eventually(
            lambda: self.status if part in self.status else None,
            f"the status line says {part!r}",
            within_s=within_s,
            say=self.log,
        )

    def wait_job(self, state: str, count: int = 1, within_s: float = 60) -> Path:
        """Wait until a state holds so many finished jobs; return the last of them."""

        def look() -> Path | None:
            jobs = [job for job in self.jobs(state) if (job / "report.json").exists()]
            return jobs[count - 1] if len(jobs) >= count else None

        return eventually(look, f"{count} job(s) in {state}/", within_s=within_s, say=self.log)

    def wait_setpoint(self, twin: Twin, above: float) -> None:
        eventually(
            lambda: twin.setpoint() > above,
            f"the heater is asked for more than {above} degC",
            say=self.log,
        )

    def send(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def release(self) -> None:
        (self.spool / "hold").unlink(missing_ok=True)

    def wait_end(self, within_s: float = 15) -> int:
        """Return its exit code once it has ended."""
        eventually(
            lambda: self.process.poll() is not None, "capad ends", within_s=within_s, say=self.log
        )
        return self.process.returncode


@contextmanager
def running_daemon(
    folder: Path,
    profile: Path,
    *flags: str,
    prefix: Sequence[str] = (),
    settings: str = "",
    python: Path | str = sys.executable,
    early: Callable[[Daemon], None] = lambda _: None,
) -> Iterator[Daemon]:
    """Run the daemon until the block ends; yields once it said READY.

    ``early`` is called as soon as its process is there.
    """
    (folder / "spool" / "incoming").mkdir(parents=True, exist_ok=True)
    config = folder / "capad.toml"
    config.write_text(f"[spool]\nrescan_s = 1.0\n{settings}\n")
    address = folder / "notify"
    address.unlink(missing_ok=True)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(address))
    notify.setblocking(False)
    with (folder / "capad.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *prefix,
                *(str(python), "-m", "capad.main", "--config", str(config)),
                *("--hardware", str(profile), "--spool", str(folder / "spool")),
                *("--runs", str(folder / "runs"), "--runtime-dir", str(folder / "run")),
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
        )
    daemon = Daemon(folder, process, notify)
    try:
        early(daemon)
        eventually(
            lambda: "READY=1" in daemon.listen() or process.poll() is not None,
            "capad is ready",
            within_s=30,
            say=daemon.log,
        )
        assert "READY=1" in daemon.told, f"capad ended before it was ready\n{daemon.log()}"
        yield daemon
    finally:
        _end(process)
        notify.close()


def _end(process: "subprocess.Popen[Any]") -> None:
    """End a process that the test started: ask, then insist."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def method_toml(*, hold_s: float = 0.3, setpoint: float = 100.0, extra: str = "") -> str:
    """A small method: heater up, hold, done."""
    return f"""
name = "small"

[[steps]]
kind = "setpoint"
value = {setpoint}
target = {{ name = "heater.setpoint" }}

[[steps]]
kind = "hold"
duration_s = {hold_s}
value = {setpoint}
target = {{ name = "heater.setpoint" }}
{extra}
"""
