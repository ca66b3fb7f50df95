"""The example plug-ins installed by pip, without network, in an environment of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.plugin_box import EXAMPLES, PluginBox

IDS = {
    "hello_procedure": "hello.procedure.hold_setpoint",
    "purge_check": "purge_check.recipe_runner",
}


@pytest.fixture
def box(tmp_path: Path) -> PluginBox:
    pytest.importorskip("hatchling", reason="the examples are built by hatchling: pip install it")
    found = PluginBox(tmp_path)
    found.make()
    return found


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the examples, which a test may edit."""
    copied = shutil.copytree(EXAMPLES, tmp_path / "plugins", ignore=shutil.ignore_patterns(".*"))
    return Path(copied)


@pytest.mark.parametrize("package", IDS)
def test_an_example_installed_as_a_wheel_is_listed_trusted_run_and_refused_when_edited(
    box: PluginBox, sources: Path, package: str
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
    box: PluginBox, sources: Path, package: str
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


def test_installing_the_same_wheel_again_needs_no_new_trust(box: PluginBox, sources: Path) -> None:
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
