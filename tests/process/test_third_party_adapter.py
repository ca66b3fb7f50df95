"""An instrument family of a third party's, installed as a wheel in an environment of its own."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.plugin_box import EXAMPLES, PluginBox

PUMP = EXAMPLES.parent / "adapters" / "dosing_pump"

PROFILE = """
name = "a rig with a pump"

[[links]]
name = "line"
port = "/dev/serial/by-id/usb-pump"

[[devices]]
name = "pump"
adapter = "dosing_pump"
link = "line"
address = 3

[[channels]]
name = "pump.rate"
kind = "flow"
unit = "mL/min"
device = "pump"
field = "rate"
command = "set_rate"
limits = { min = 0.0, max = 20.0 }

[[safe_state]]
set = { "pump.rate" = 0.0 }
"""


@pytest.fixture
def box(tmp_path: Path) -> PluginBox:
    pytest.importorskip("hatchling", reason="the example is built by hatchling: pip install it")
    found = PluginBox(tmp_path)
    found.make()
    wheels = tmp_path / "wheels"
    source = shutil.copytree(PUMP, tmp_path / "source", ignore=shutil.ignore_patterns(".*"))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir", "--quiet"]
    found.pip("wheel", *offline, "--wheel-dir", str(wheels), str(source))
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "test" in name]
    found.install(str(wheel))
    return found


def run(box: PluginBox, *argv: str, fails: bool = False) -> str:
    done = subprocess.run(
        [str(box.python), *argv],
        cwd=box.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_third_partys_family_keeps_the_contract_as_installed_from_its_wheel(
    box: PluginBox,
) -> None:
    tests = shutil.copytree(PUMP / "tests", box.folder / "tests")
    asked = "import dosing_pump; print(dosing_pump.__file__)"
    assert str(box.site) in run(box, "-c", asked)
    run(box, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests))


def test_a_profile_with_a_third_partys_instrument_is_checked_like_any_other(
    box: PluginBox,
) -> None:
    good, bad = box.folder / "good.toml", box.folder / "bad.toml"
    good.write_text(PROFILE, encoding="utf-8")
    bad.write_text(PROFILE.replace("address = 3", 'address = "A"'), encoding="utf-8")
    told = run(box, "-m", "capa.cli.main", "validate", str(good))
    assert "pump.rate of pump cannot be compiled for capad-guard: the adapter 'dosing_pump'" in told
    checked = run(box, "-m", "capad.main", "--check", "--hardware", str(good))
    assert "has no safe_write; when capad is gone it stays as it is" in checked
    said = run(box, "-m", "capa.cli.main", "validate", str(bad), fails=True)
    assert "a pump has a number from 1 to 99" in said
    listed = "from capa.devices.registry import family_names; import json; "
    names = json.loads(run(box, "-c", listed + "print(json.dumps(sorted(family_names())))"))
    assert "dosing_pump" in names
