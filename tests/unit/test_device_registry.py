"""Families, transports and twins are found by name, and a broken one takes no other with it."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from structlog.testing import capture_logs

from capa.devices import registry
from capa.errors import CapaError


def entries(*each: tuple[str, str, str]) -> Any:  # noqa: ANN401 - stands in for entry_points
    points = EntryPoints(EntryPoint(name, value, group) for group, name, value in each)
    return lambda *, group: points.select(group=group)


def test_our_own_families_and_transports_are_installed() -> None:
    assert registry.family_names() >= {"watlow", "alicat", "sartorius"}
    assert registry.transport_names() >= {"serial", "tcp"}
    assert "link" not in registry.transport_names()


def test_only_the_families_asked_for_are_loaded() -> None:
    assert list(registry.load_families({"watlow", "unheard of"})) == ["watlow"]


def test_transports_do_not_include_the_link_class() -> None:
    assert registry.load_connectors({"serial", "link"}).keys() == {"serial"}
    assert registry.load_link_class().__name__ == "StreamLink"


def test_a_broken_plugin_is_reported_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = entries(
        ("capa.adapters", "broken", "no.such.module:FAMILY"), ("capa.adapters", "good", "math:pi")
    )
    monkeypatch.setattr(registry, "entry_points", found)
    with capture_logs() as logs:
        assert registry.load_families().keys() == {"good"}
    assert [(entry["event"], entry["name"]) for entry in logs] == [("plugin.broken", "broken")]


def test_an_installation_without_the_link_class_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", entries())
    with pytest.raises(CapaError, match="install capa again"):
        registry.load_link_class()
