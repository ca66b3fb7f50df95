"""Every option of a family, and of its simulator, is told of where its users look."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from adapters.alicat.options import AlicatOptions, AlicatTwinOptions
from adapters.mettler.options import MettlerOptions, MettlerTwinOptions
from adapters.modbus.fields import RegisterField
from adapters.modbus.options import ModbusOptions, ModbusTwinOptions, TwinField
from adapters.sartorius.options import SartoriusOptions, SartoriusTwinOptions
from adapters.watlow.options import RegisterPlaces, WatlowOptions, WatlowTwinOptions

ROOT = Path(__file__).parents[2]
MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "alicat": (AlicatOptions, AlicatTwinOptions),
    "mettler": (MettlerOptions, MettlerTwinOptions),
    "modbus": (ModbusOptions, ModbusTwinOptions, TwinField, RegisterField),
    "sartorius": (SartoriusOptions, SartoriusTwinOptions),
    "watlow": (WatlowOptions, WatlowTwinOptions, RegisterPlaces),
}
STATUSES = ("ok", "settling", "underrange", "overload", "sensor_fail", "comm_error", "stale")


def told(family: str) -> set[str]:
    """Return the words that notes and page have in code: between backticks, and in examples."""
    notes = ROOT / "adapters" / family / "NOTES.md"
    page = ROOT / "docs/instruments" / f"{family}.md"
    text = notes.read_text(encoding="utf-8") + page.read_text(encoding="utf-8")
    return set(re.findall(r"\w+", " ".join(re.findall(r"`+([^`]+)`+", text))))


@pytest.mark.parametrize("family", MODELS)
def test_every_option_stands_in_the_notes_or_on_the_page_of_its_family(family: str) -> None:
    words = told(family)
    missing = [
        name
        for model in MODELS[family]
        for name, field in model.model_fields.items()
        if (field.alias or name) not in words
    ]
    assert missing == []


@pytest.mark.parametrize("family", MODELS)
def test_the_notes_say_of_every_status_which_condition_gives_it_or_that_none_does(
    family: str,
) -> None:
    notes = (ROOT / "adapters" / family / "NOTES.md").read_text(encoding="utf-8")
    assert [status for status in STATUSES if f"`{status}`" not in notes] == []
