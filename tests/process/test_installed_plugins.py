"""The example plug-ins installed by pip, without network, in an environment of their own."""

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import capa

ROOT = Path(capa.__file__).parents[1]
EXAMPLES = ROOT / "examples" / "plugins"
IDS = {
    "hello_procedure": "hello.procedure.hold_setpoint",
    "purge_check": "purge_check.recipe_runner",
}


@dataclass
class Box:
    """A virtual environment that sees capa, and a lock."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

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
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install"]
        quiet = ["--disable-pip-version-check", "--no-warn-script-location"]
        self._run([*pip, *offline, *quiet, *what])

    def capa(self, *argv: str, mode: str = "production") -> dict[str, Any]:
        """Run ``capa plugins ... --json`` there."""
        lock = ["--lock", str(self.folder / "plugins.lock"), "--json"]
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


@pytest.fixture
def box(tmp_path: Path) -> Box:
    pytest.importorskip("hatchling", reason="the examples are built by hatchling: pip install it")
    found = Box(tmp_path)
    found.make()
    return found


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the examples, which a test may edit."""
    copied = shutil.copytree(EXAMPLES, tmp_path / "plugins", ignore=shutil.ignore_patterns(".*"))
    return Path(copied)


@pytest.mark.parametrize("package", IDS)
def test_an_example_installed_as_a_wheel_is_listed_trusted_run_and_refused_when_edited(
    box: Box, sources: Path, package: str
) -> None:
    plugin_id = IDS[package]
    box.install(str(sources / package))
    assert box.usable("dev") == {plugin_id}
    assert box.usable() == set()
    trusted = box.capa("trust", plugin_id, "--reason", "read it")
    assert trusted["after"]["package"] == package.replace("_", "-")
    assert box.usable() == {plugin_id}

    module = box.site / package / "procedure.py"
    data = bytearray(module.read_bytes())
    data[data.index(b"Commands" if package == "hello_procedure" else b"Walks")] ^= 0x20
    module.write_bytes(data)
    found = box.capa("list")
    assert plugin_id not in {one["id"] for one in found["plugins"]}
    assert [(one["kind"], one["id"]) for one in found["drift"]] == [("hash", plugin_id)]
    assert "not trusted: hash of" in found["rejected"][0]["reason"]
    assert box.usable("dev") == {plugin_id}


@pytest.mark.parametrize("package", IDS)
def test_an_edited_source_file_is_refused_in_an_editable_install_too(
    box: Box, sources: Path, package: str
) -> None:
    plugin_id = IDS[package]
    box.install("--editable", str(sources / package))
    box.capa("trust", plugin_id, "--reason", "read it")
    assert box.usable() == {plugin_id}
    module = sources / package / "src" / package / "__init__.py"
    module.write_text(module.read_text() + "# edited\n")
    found = box.capa("list")
    assert [(one["kind"], one["id"]) for one in found["drift"]] == [("hash", plugin_id)]
    assert box.usable() == set()


def test_installing_the_same_wheel_again_needs_no_new_trust(box: Box, sources: Path) -> None:
    plugin_id = IDS["hello_procedure"]
    box.install(str(sources / "hello_procedure"))
    box.capa("trust", plugin_id, "--reason", "read it")
    box.install("--force-reinstall", "--no-compile", str(sources / "hello_procedure"))
    assert box.usable() == {plugin_id}


@pytest.mark.parametrize("package", IDS)
def test_an_examples_own_tests_pass(package: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=EXAMPLES / package,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
