"""The blocks of "Write an adapter", run as a reader would run them."""

import importlib
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from capa.config.load import inspect_profile
from capa.devices.contract import AdapterContract

PAGE = Path(__file__).parents[2] / "docs/write-an-adapter.md"
_BLOCK = re.compile(r"^```(python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMISES = sorted(name for name in dir(AdapterContract) if name.startswith("test_"))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every block of the page in the file that its first line names."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = _BLOCK.findall(text)
    assert len(blocks) == text.count("\n```python\n") + text.count("\n```toml\n")
    for _, name, body in blocks:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [
        name for name in sys.modules if name.split(".")[0] in {"lamp_driver", "test_lamp"}
    ]:
        del sys.modules[name]


def test_the_packages_entry_point_leads_to_the_family(page: Path) -> None:
    project = tomllib.loads((page / "pyproject.toml").read_text(encoding="utf-8"))
    ((name, target),) = project["project"]["entry-points"]["capa.adapters"].items()
    module, _, attribute = target.partition(":")
    assert getattr(importlib.import_module(module), attribute).name == name


def test_the_package_can_be_built_and_has_every_module(page: Path) -> None:
    (wheel,) = WheelBuilder(str(page)).build(directory=str(page / "dist"))
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    modules = ("__init__", "codec", "adapter", "twin", "family")
    assert packed == {f"lamp_driver/{module}.py" for module in modules}


@pytest.mark.parametrize("promise", _PROMISES)
def test_the_adapter_on_the_page_keeps_the_contract(
    promise: str, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(page / "tests")
    contract = importlib.import_module("test_lamp").TestLamp()
    getattr(contract, promise)()


def test_the_profile_on_the_page_loads_with_the_family_installed(page: Path) -> None:
    family = importlib.import_module("lamp_driver.family").FAMILY
    profile, problems = inspect_profile(page / "rig.toml", {"lamp": family})
    assert profile is not None
    assert [str(one) for one in problems] == []
    with_options = (
        (page / "rig.toml")
        .read_text(encoding="utf-8")
        .replace('link = "lamp port"', 'link = "lamp port"\naddress = 3')
    )
    (page / "rig.toml").write_text(with_options, encoding="utf-8")
    _, problems = inspect_profile(page / "rig.toml", {"lamp": family})
    assert "neither address nor options" in str(problems[0])
