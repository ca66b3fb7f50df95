"""The twin as a process of its own, as a test starts, watches and ends it."""

import json
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.twin.control import ask
from capa.devices.spec import DeviceSpec, LinkSpec

__all__ = ["TwinProcess", "running_twin", "start_twin"]

READY_S = 30.0
# Not through ``capa twin``, which is tested with the command line: this is that command alone.
PROGRAM = "import typer; from capa.cli.twin import twin; typer.run(twin)"


class TwinProcess:
    def __init__(self, profile: Path, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(profile), "--dir", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        too_late = threading.Timer(READY_S, self.process.kill)
        too_late.start()
        try:
            while "ready" not in self.lines:
                line = self.process.stdout.readline()
                assert line, f"the twin ended: {self.process.communicate()[1]}"
                self.lines.append(line.strip())
        finally:
            too_late.cancel()

    @property
    def profile(self) -> dict[str, Any]:
        return tomllib.loads((self.directory / "profile.toml").read_text())

    def link(self, name: str) -> LinkSpec:
        return next(LinkSpec(**each) for each in self.profile["links"] if each["name"] == name)

    def device(self, name: str) -> DeviceSpec:
        return next(DeviceSpec(**each) for each in self.profile["devices"] if each["name"] == name)

    def wire(self, **facts: object) -> list[dict[str, Any]]:
        records = map(json.loads, (self.directory / "wire.jsonl").read_text().splitlines())
        return [each for each in records if facts.items() <= each.items()]

    def ask(self, **request: object) -> dict[str, Any]:
        return ask(self.directory, request)

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(by)
        try:
            said = self.process.communicate(timeout=10)[1]
            sys.stderr.write(said)  # what a twin that broke said is in the report of the test
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode


def start_twin(profile: Path, directory: Path) -> TwinProcess:
    twin = TwinProcess(profile, directory)
    twin.wait_ready()
    return twin


@contextmanager
def running_twin(profile: Path, directory: Path) -> Iterator[TwinProcess]:
    twin = start_twin(profile, directory)
    try:
        yield twin
    finally:
        twin.end()
