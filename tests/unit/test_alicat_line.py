"""An Alicat that shares its line: whom it can't be beside, and which letters are the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters.alicat import FAMILY as ALICAT
from adapters.watlow import FAMILY as WATLOW
from capa.config.load import inspect_profile
from capa.config.problems import Problem
from capa.devices.adapter import AdapterFamily

FAMILIES: Mapping[str, AdapterFamily] = {"alicat": ALICAT, "watlow": WATLOW}


CHANNEL = """
[[channels]]
name = "argon.flow"
kind = "flow"
unit = "sccm"
device = "argon"
field = "flow"
"""


def problems(tmp_path: Path, *devices: dict[str, Any]) -> list[Problem]:
    """What is wrong with a profile of one line with these devices."""
    text = 'name = "bench"\n[[links]]\nname = "bus"\nport = "/dev/ttyS0"\nbaud = 19200\n' + CHANNEL
    for device in devices:
        given: dict[str, Any] = {"adapter": "alicat", "link": "bus", "poll_hz": 1} | device
        options = given.pop("options", {})
        text += "[[devices]]\n" + "".join(f"{key} = {said(x)}\n" for key, x in given.items())
        text += "[devices.options]\n" + "".join(f"{k} = {said(x)}\n" for k, x in options.items())
    file = tmp_path / "rig.toml"
    file.write_text(text, encoding="utf-8")
    return inspect_profile(file, FAMILIES)[1]


def said(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


STOPS = {"name": "argon", "address": "A", "options": {"stop_stream": "@@ "}}
HEATER = {"name": "oven", "adapter": "watlow", "address": 1}


@pytest.mark.parametrize("other", [{"name": "purge", "address": "B"}, HEATER])
def test_a_stream_is_not_stopped_on_a_line_with_somebody_else(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    refusals = [one for one in problems(tmp_path, STOPS, other) if one.blocking]
    (refusal,) = refusals
    assert refusal.code == "profile.shared_line"
    assert refusal.where == 'device "argon", field options.stop_stream'
    assert refusal.line is not None
    assert '"argon"' in refusal.message
    assert f'"{other["name"]}"' in refusal.message


def test_a_stream_is_stopped_where_the_device_is_alone(tmp_path: Path) -> None:
    assert problems(tmp_path, STOPS) == []


def test_two_that_stop_streams_are_both_named(tmp_path: Path) -> None:
    found = problems(tmp_path, STOPS, STOPS | {"name": "purge", "address": "B"})
    assert [one.where for one in found] == [
        'device "argon", field options.stop_stream',
        'device "purge", field options.stop_stream',
    ]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [({"address": "a"}, {"address": "A"}, '"a"'), ({}, {"address": "a"}, "the usual one")],
)
def test_a_unit_letter_is_the_same_in_either_case(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], says: str
) -> None:
    (twice,) = problems(tmp_path, {"name": "argon"} | first, {"name": "purge"} | second)
    assert twice.code == "profile.duplicate_address"
    assert twice.blocking
    assert '"argon"' in twice.message
    assert says in twice.message


def test_two_letters_are_two_devices(tmp_path: Path) -> None:
    pair = ({"name": "argon", "address": "a"}, {"name": "purge", "address": "B"})
    assert problems(tmp_path, *pair) == []


def test_among_modbus_devices_requests_had_better_begin_with_a_cr(tmp_path: Path) -> None:
    argon = {"name": "argon", "address": "A"}
    (warning,) = problems(tmp_path, argon, HEATER)
    assert not warning.blocking
    assert '"oven"' in warning.message
    assert warning.hint == "say begin_with_cr = true"
    assert problems(tmp_path, argon | {"options": {"begin_with_cr": True}}, HEATER) == []


def test_options_that_are_wrong_are_told_once(tmp_path: Path) -> None:
    wrong = {"name": "argon", "address": "AB", "options": {"stop_stream": "@@"}}
    found = problems(tmp_path, wrong, {"name": "purge", "address": "B"})
    assert {one.code for one in found} == {"profile.bad_option"}
