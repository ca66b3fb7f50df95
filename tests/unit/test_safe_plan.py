"""The safe plan: the drivers' own bytes, written down whole, and trusted only if whole."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from adapters.links.link import StreamLink
from adapters.twin.plant import Plant
from capa.devices.adapter import AdapterFamily, FieldInfo, FieldWrite
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec
from capa.runtime.parts import Parts
from capa.runtime.safe_plan import PLAN_FILE, unguarded_problems
from capad.guard import PlanError, number_in, plan_in, reply_in
from capad.guarding import Guarding
from tests.support.direct_link import DirectLink
from tests.support.safe_plans import FAMILIES, RIG, plan_of, profile_of, write_of

OPENING = {
    "address": 10,
    "type": "int32",
    "scale": 0.01,
    "offset": -5.0,
    "unit": "%",
    "access": "rw",
    "command": "set",
}
DEVICES: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "watlow in degF": ("watlow", {}, "setpoint"),
    "watlow in degC": ("watlow", {"wire_unit": "degC", "word_order": "high_low"}, "setpoint"),
    "watlow over Modbus TCP": ("watlow", {"framing": "tcp"}, "setpoint"),
    "alicat S": ("alicat", {}, "setpoint"),
    "alicat LS": ("alicat", {"setpoint_command": "LS"}, "setpoint"),
    "int32": ("modbus", {"fields": {"opening": OPENING}}, "opening"),
    "int32 low_high": (
        "modbus",
        {"fields": {"opening": OPENING}, "word_order": "low_high"},
        "opening",
    ),
    "int16": ("modbus", {"fields": {"opening": OPENING | {"type": "int16"}}}, "opening"),
    "over Modbus TCP": ("modbus", {"fields": {"opening": OPENING}, "framing": "tcp"}, "opening"),
    "float32": ("modbus", {"fields": {"opening": OPENING | {"type": "float32"}}}, "opening"),
}


def device(name: str) -> tuple[DeviceSpec, str]:
    family, options, field = DEVICES[name]
    address: int | str = "A" if family == "alicat" else 1
    spec = DeviceSpec(name="dut", adapter=family, link="bus", address=address, options=options)
    return spec, field


def driven(spec: DeviceSpec, write: FieldWrite) -> tuple[list[bytes], float | None]:
    """What the driver sends to its twin for a write, and what it reads back."""

    async def drive() -> tuple[list[bytes], float | None]:
        family = FAMILIES[spec.adapter]
        link = DirectLink([family.twin(spec, Plant({}))])
        ack = await family.create(spec, link).write(write, priority=Priority.SAFE)
        assert ack.accepted
        return link.sent, ack.readback

    return trio.run(drive, clock=MockClock(autojump_threshold=0))


def plain(spec: DeviceSpec, frame: bytes) -> bytes:
    """A frame without the transaction number that whoever sends it counts for itself."""
    return frame[2:] if spec.options.get("framing") == "tcp" else frame


@pytest.mark.parametrize("name", DEVICES)
@given(value=st.floats(0, 100).map(lambda x: round(x, 1)))
def test_the_compiled_bytes_are_the_drivers_own(name: str, value: float) -> None:
    spec, field = device(name)
    sent, _ = driven(spec, FieldWrite(field, value))
    write = write_of(spec, field, value)
    compiled = [bytes.fromhex(write["request"]), bytes.fromhex(write["read_back"]["request"])]
    assert [plain(spec, one) for one in compiled[: len(sent)]] == [plain(spec, o) for o in sent]


@pytest.mark.parametrize("name", DEVICES)
@given(value=st.floats(0, 100).map(lambda x: round(x, 1)))
def test_the_guardian_reads_what_the_driver_reads(name: str, value: float) -> None:
    spec, field = device(name)
    _, expected = driven(spec, FieldWrite(field, value))
    write = write_of(spec, field, value)
    twin = FAMILIES[spec.adapter].twin(spec, Plant({}))
    ack = b"".join(reply.data for reply in twin.receive(bytes.fromhex(write["request"])))
    assert reply_in(write["accepted"], ack) is not None
    read = write["read_back"]
    said = b"".join(reply.data for reply in twin.receive(bytes.fromhex(read["request"])))
    reply = reply_in(read["reply"], said)
    assert reply is not None
    assert number_in(read, reply) == pytest.approx(expected, abs=1e-9)


def test_a_plan_read_by_the_guardian_is_the_plan_that_was_compiled(tmp_path: Path) -> None:
    plan = plan_of()
    read = plan_in(plan.write(tmp_path).read_bytes())
    assert read == plan.document
    assert [link["name"] for link in read["links"]] == ["heat", "gas"]
    assert json.loads(plan.text())["plan"] == plan.document  # and it is plain JSON


def test_without_the_scanner_in_c_the_plan_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "_json", None)
    assert plan_in(plan_of().text()) == plan_of().document


@given(data=st.data())
def test_a_plan_with_any_byte_changed_is_refused_or_the_same_plan(data: st.DataObject) -> None:
    plan = plan_of()
    text = bytearray(plan.text())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    with suppress(PlanError):
        assert plan_in(bytes(text)) == plan.document


@given(cut=st.integers(0, 4000))
def test_a_plan_cut_anywhere_is_refused(cut: int) -> None:
    text = plan_of().text().rstrip()
    if cut < len(text):
        with pytest.raises(PlanError):
            plan_in(text[:cut])


@given(text=st.binary(max_size=200) | st.text(max_size=200).map(lambda t: json.dumps(t).encode()))
def test_no_file_whatever_is_more_than_refused(text: bytes) -> None:
    with pytest.raises(PlanError):
        plan_in(text)


def test_a_plan_of_another_version_is_refused_by_its_version() -> None:
    text = plan_of().text().replace(b'"version": 1', b'"version": 2')
    with pytest.raises(PlanError, match="has version 2, this guard knows 1"):
        plan_in(text)


def test_a_value_that_the_driver_would_refuse_is_named_as_not_compiled() -> None:
    plan = plan_of(RIG.replace('"purge.flow" = 50.0', '"purge.flow" = 501.0'))
    assert [str(lack) for lack in plan.not_compiled] == [
        "purge.flow of purge cannot be compiled for capad-guard: "
        "purge: 501 sccm is not within 0 and full_scale = 500"
    ]
    assert plan.document["not_compiled"][0]["channel"] == "purge.flow"


def test_what_is_not_compiled_is_told_at_the_desk_and_at_the_start(tmp_path: Path) -> None:
    text = RIG.replace('"purge.flow" = 50.0', '"purge.flow" = 501.0')
    file = tmp_path / "rig.toml"
    (problem,) = unguarded_problems(profile_of(text), file=file)
    assert not problem.blocking
    assert "stays as it is until capad is back" in problem.message
    guarding = Guarding(tmp_path, log=structlog.get_logger())
    profile, unused = profile_of(text), Path()
    (words,) = guarding.prepare(
        Parts(profile, unused, text, FAMILIES, {}, StreamLink, {}), simulated=False
    )
    assert "purge.flow of purge cannot be compiled" in words
    assert guarding.lacking == ("purge.flow",)


class Plain:
    """A third party's family that offers no bytes."""

    name = "alicat"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        return FAMILIES["alicat"].fields(spec)


class Broken(Plain):
    def safe_write(self, spec: DeviceSpec, write: FieldWrite) -> None:
        raise RuntimeError("no idea")


@pytest.mark.parametrize(("family", "why"), [(Plain(), "has no safe_write"), (Broken(), "no idea")])
def test_a_driver_without_bytes_costs_the_others_nothing(family: Any, why: str) -> None:  # noqa: ANN401 - half a family
    families: dict[str, AdapterFamily] = {**FAMILIES, "alicat": family}
    plan = plan_of(families=families)
    assert [lack.channel for lack in plan.not_compiled] == ["purge.flow"]
    assert why in plan.not_compiled[0].why
    assert [link["name"] for link in plan.document["links"]] == ["heat"]


def test_a_transport_that_the_guardian_does_not_speak_is_named() -> None:
    plan = plan_of(RIG.replace('transport = "tcp"', 'transport = "pigeon"'))
    assert "transport 'pigeon'" in plan.not_compiled[0].why


def test_a_plan_that_cannot_be_replaced_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_of().write(tmp_path)

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("capa.runtime.safe_plan.write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        plan_of().write(tmp_path)
    assert not (tmp_path / PLAN_FILE).exists()
