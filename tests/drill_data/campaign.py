"""One daemon after another, each killed at a random instant of a chosen phase."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.support.daemon_process import REPOSITORY, running_twin
from tests.support.polling import eventually

__all__ = ["PHASES", "Campaign", "run_campaign"]

PHASES = ("spool", "run", "finalize", "recovery")
_MOST_QUEUED = 3
_RAMP_S = 1.0


@dataclass
class Campaign:
    """A folder with a spool and runs, and the daemon that works there just now."""

    folder: Path
    profile: Path
    rng: Random
    dropped: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def start(self) -> None:
        """Start the daemon; it is not waited for."""
        with (self.folder / "capad.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "capad.main", "--config", "capad.toml"),
                    *("--hardware", str(self.profile), "--spool", "spool", "--runs", "runs"),
                    *("--runtime-dir", "run", "--log-level", "info"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )

    def kill(self, phase: str) -> None:
        """Kill it, and write down when."""
        process = self._running
        process.kill()
        at = {"phase": phase, "t_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}
        process.wait()
        self.kills[phase] += 1
        _append(self.folder / "kills.jsonl", at)

    def drop(self) -> None:
        """Drop a file, by rename or as a careless program writes; now and then the same again."""
        self.dropped += 1
        name = f"job{self.dropped:04d}.method.toml"
        text = _method(self.dropped - (self.rng.random() < 0.2), self.rng)
        digest = hashlib.sha256(text.encode()).hexdigest()
        _append(self.folder / "drops.jsonl", {"name": name, "sha256": digest})
        incoming = self.spool / "incoming"
        if self.rng.random() < 0.5:
            (incoming / name).write_text(text)
        else:
            (incoming / f".{name}").write_text(text)
            (incoming / f".{name}").rename(incoming / name)

    def top_up(self) -> None:
        """Drop files until enough wait, and let them run."""
        waiting = len(self.names("incoming")) + len(self.names("queued"))
        for _ in range(self.rng.randint(1, 2) if waiting < _MOST_QUEUED else 0):
            self.drop()
        self.release()

    def release(self) -> None:
        (self.spool / "hold").unlink(missing_ok=True)

    def names(self, state: str) -> list[str]:
        with suppress(FileNotFoundError):
            found = sorted(item.name for item in (self.spool / state).iterdir())
            return [name for name in found if not name.startswith(".")]
        return []

    def statuses(self) -> dict[str, str]:
        """The state of each bundle that is not sealed."""
        found = {}
        for path in sorted(self.runs.glob("2*/manifest.json"))[-5:]:
            with suppress(OSError, ValueError):
                status = json.loads(path.read_bytes())["bundle_status"]
                if status != "sealed":
                    found[path.parent.name] = status
        return found

    def wait_bundle(self, status: str, within_s: float = 60) -> None:
        """Wait until a bundle is in a state, whatever holds the queue meanwhile."""

        def look() -> bool:
            self.release()
            if not self.names("queued") and not self.names("active"):
                self.top_up()
            self._alive()
            return status in self.statuses().values()

        eventually(
            look, f"a bundle is {status}", within_s=within_s, every_s=0.005, say=self.last_words
        )

    def drain(self, within_s: float = 240) -> None:
        """Let everything run that still waits."""

        def look() -> bool:
            self.release()
            self._alive()
            states = ("incoming", "queued", "active")
            return not any(self.names(state) for state in states) and not self.statuses()

        eventually(look, "the spool is empty", within_s=within_s, every_s=0.1, say=self.last_words)

    def end(self) -> None:
        """End the daemon as a service manager does."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def last_words(self) -> str:
        text = (self.folder / "capad.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-40:])

    def finalizers(self) -> list[int]:
        """The pids of our daemon's finalizing children, as the kernel lists them."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                ours = str(self.folder).encode()
                if b"capa.storage.finalize" in words and any(ours in word for word in words):
                    found.append(int(entry.parent.name))
        return found

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None
        return self.process

    def _alive(self) -> None:
        code = self._running.poll()
        assert code is None, f"capad ended by itself with {code}\n{self.last_words()}"


def run_campaign(
    folder: Path, *, n: int, seed: int, say: Callable[[str], None] = lambda _line: None
) -> Campaign:
    """Kill ``n`` daemons in a folder of its own, let the last one finish, and end it."""
    rng = Random(seed)  # noqa: S311 - instants, not secrets
    folder = folder.absolute()
    (folder / "spool" / "incoming").mkdir(parents=True)
    (folder / "runs").mkdir()
    (folder / "capad.toml").write_text('[spool]\nrescan_s = 1.0\n[plugins]\nmode = "dev"\n')
    with running_twin(folder / "twin") as twin:
        campaign = Campaign(folder, twin.profile, rng)
        try:
            for number in range(n):
                phase = PHASES[number % len(PHASES)] if number < len(PHASES) else _phase(rng)
                campaign.start()
                _strike(campaign, phase)
                if number % 10 == 9:
                    say(f"{number + 1}/{n} killed, {campaign.dropped} jobs dropped")
            campaign.start()
            campaign.drop()  # one at least that nobody disturbs
            campaign.drain()
        finally:
            campaign.end()
    return campaign


def _phase(rng: Random) -> str:
    return rng.choices(PHASES, weights=(2, 5, 3, 2))[0]


def _strike(campaign: Campaign, phase: str) -> None:
    """Kill the daemon that was just started, in this phase."""
    rng = campaign.rng
    if phase == "recovery":
        time.sleep(rng.uniform(0.2, 2.5))
    elif phase == "spool":
        time.sleep(rng.uniform(1.0, 2.0))
        campaign.top_up()
        time.sleep(rng.uniform(0.0, 0.6))
    elif phase == "run":
        campaign.wait_bundle("open")
        time.sleep(rng.uniform(0.0, 3.0))
    else:
        campaign.wait_bundle("finalizing")
        time.sleep(rng.uniform(0.0, 0.7))
    children = campaign.finalizers() if rng.random() < 0.5 else []
    campaign.kill(phase)
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            campaign.kills["finalizing child"] += 1


def _method(number: int, rng: Random) -> str:
    """A short heat-up whose values are its own."""
    low = 40 + number % 500 * 0.05
    hold_s = Random(number).uniform(0.2, 2.5)  # noqa: S311 - the same file for the same number
    return f"""name = "job {number}"

[[steps]]
kind = "ramp"
start_value = {low}
end_value = {low + 3}
duration_s = {_RAMP_S}
target = {{ name = "heater.setpoint" }}

[[steps]]
kind = "hold"
duration_s = {hold_s:.3f}
value = {low + 3}
target = {{ name = "heater.setpoint" }}
"""


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
