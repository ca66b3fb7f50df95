"""The pages on instruments: every profile on them loads, and speaks to its simulator."""

import re
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from adapters.links.link import StreamLink
from adapters.twin.memory import twin_connectors
from capa.config.load import inspect_profile
from capa.devices.registry import family_names, load_families

PAGES = sorted((Path(__file__).parents[2] / "docs/instruments").glob("*.md"))
_BLOCK = re.compile(r"^```toml\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def written(page: Path, folder: Path) -> Path:
    """Put every block of a page into the file that its first line names; return the profile."""
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) == page.read_text(encoding="utf-8").count("\n```toml\n")
    for name, text in blocks:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder / "rig.toml"


def test_every_family_has_a_page() -> None:
    assert {page.stem for page in PAGES} == set(family_names())


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_profile_on_the_page_loads_without_a_word_and_its_devices_answer(
    page: Path, tmp_path: Path
) -> None:
    profile, problems = inspect_profile(written(page, tmp_path))
    assert [str(one) for one in problems] == []
    assert profile is not None
    families = load_families({device.adapter for device in profile.devices})

    async def main() -> None:
        connectors, _ = twin_connectors(profile, families)
        async with trio.open_nursery() as nursery:
            for spec in profile.devices:
                link_spec = next(one for one in profile.links if one.name == spec.link)
                link = StreamLink(link_spec, connectors[spec.link])
                await nursery.start(link.run)
                driver = families[spec.adapter].create(spec, link)
                await driver.open()
                assert await driver.poll()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


WITH_FIXED_FIELDS = [page for page in PAGES if page.stem != "modbus"]


@pytest.mark.parametrize("page", WITH_FIXED_FIELDS, ids=[page.stem for page in WITH_FIXED_FIELDS])
def test_the_page_names_every_field_and_says_what_is_not_verified(
    page: Path, tmp_path: Path
) -> None:
    text = page.read_text(encoding="utf-8")
    assert "## What is verified, and what is not" in text
    profile, _ = inspect_profile(written(page, tmp_path))
    assert profile is not None
    family = load_families({page.stem})[page.stem]
    for name in family.fields(profile.devices[0]):
        assert re.search(rf"`{name}`|{name[:-1]}1` to", text), f"{page.name} does not name {name}"


def test_the_map_of_ones_own_on_the_page_is_one(tmp_path: Path) -> None:
    from adapters.modbus.mapfile import load_map

    page = next(one for one in PAGES if one.stem == "modbus")
    assert "## What is verified, and what is not" in page.read_text(encoding="utf-8")
    written(page, tmp_path)
    found = load_map(str(tmp_path / "maps" / "io-box.toml"))
    assert set(found.fields) == {"flux", "pulses", "valve"}
