"""A virtual environment that sees capa, for plug-ins that are installed as a user installs them."""

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import capa

__all__ = ["EXAMPLES", "PluginBox"]

ROOT = Path(capa.__file__).parents[1]
EXAMPLES = ROOT / "examples" / "plugins"


@dataclass
class PluginBox:
    """A virtual environment that sees capa, and a lock."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def lock(self) -> Path:
        return self.folder / "plugins.lock"

    @property
    def site(self) -> Path:
        (found,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
        return found

    def make(self) -> None:
        venv.create(self.folder / "venv", with_pip=False)
        here = Path(pytest.__file__).parents[1]
        (self.site / "outer.pth").write_text(f"{here}\n{ROOT}\n")

    def install(self, *what: str) -> None:
        """Install offline: no index, no dependencies, our own build tools."""
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir", "--quiet"]
        self.pip("install", "--no-warn-script-location", *offline, *what)

    def pip(self, *argv: str) -> None:
        """Run our own pip for that environment."""
        ours = [sys.executable, "-m", "pip", "--python", str(self.python)]
        self._run([*ours, "--disable-pip-version-check", *argv])

    def capa(self, *argv: str, mode: str = "production") -> dict[str, Any]:
        """Run ``capa plugins ... --json`` there."""
        lock = ["--lock", str(self.lock), "--json"]
        command = [str(self.python), "-m", "capa.cli.main", "plugins", *argv, *lock]
        answer: dict[str, Any] = json.loads(self._run(command, CAPA_PLUGIN_MODE=mode))
        return answer

    def usable(self, mode: str = "production") -> set[str]:
        plugins = self.capa("list", mode=mode)["plugins"]
        return {one["id"] for one in plugins if not one["builtin"]}

    def _run(self, command: list[str], **environ: str) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **environ},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
