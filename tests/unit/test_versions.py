"""Both programs say which version they are, and mean the same package."""

from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from capa.cli.main import app
from capad.main import main


def test_capa_tells_its_version() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.output) == (0, f"capa {version('capa')}\n")


def test_capad_tells_its_version_and_touches_no_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version", "--config", "/nowhere.toml"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"capad {version('capa')}\n"
