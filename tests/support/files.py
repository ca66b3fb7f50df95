"""Methods and profiles as text, small enough to bend in a test."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from capa.config.hardware import HardwareProfile
from capa.config.load import inspect_profile, parse_method
from capa.config.problems import Problem, ProblemsError
from capa.devices.adapter import AdapterFamily, DeviceAdapter, FieldInfo
from capa.devices.link import Link
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinDevice

__all__ = [
    "FAMILIES",
    "PROFILE",
    "bent",
    "problems_of_method",
    "problems_of_profile",
    "profile_of",
]

FIELDS = (
    FieldInfo("setpoint", "degC", command="set_setpoint", resolution=0.1),
    FieldInfo("pv", "degC"),
    FieldInfo("power", "%"),
    FieldInfo("flow", "sccm"),
    FieldInfo("flow_setpoint", "sccm", command="set_flow", resolution=0.01),
    FieldInfo("mass", "g"),
    FieldInfo("volts", "V"),
)


class FakeFamily:
    """A family with one field of everything, which refuses the option ``broken``."""

    name = "box"
    title = "Test box"

    def fields(self, spec: DeviceSpec) -> Mapping[str, FieldInfo]:
        if "broken" in spec.options:
            raise ValueError("broken is not an option of this box")
        return {field.name: field for field in FIELDS}

    def create(self, spec: DeviceSpec, link: Link) -> DeviceAdapter:
        raise NotImplementedError

    def twin(self, spec: DeviceSpec, plant: PlantPort) -> TwinDevice:
        raise NotImplementedError


FAMILIES: Mapping[str, AdapterFamily] = {"box": FakeFamily()}

PROFILE = """\
name = "bench"

[[links]]
name = "bus"
transport = "serial"
port = "/dev/ttyS0"

[[devices]]
name = "oven"
adapter = "box"
link = "bus"
address = 1

[[channels]]
name = "heater.setpoint"
kind = "temperature"
unit = "degC"
device = "oven"
field = "setpoint"
command = "set_setpoint"
limits = { min = 0.0, max = 900.0, max_rate_per_s = 5.0 }

[[channels]]
name = "heater.pv"
kind = "temperature"
unit = "degC"
device = "oven"
field = "pv"
stale_after_s = 2.0
alarms = [{ id = "overtemp", op = ">", threshold = 820.0 }]

[[channels]]
name = "purge.flow"
kind = "flow"
unit = "sccm"
device = "oven"
field = "flow"
command = "set_flow"
limits = { min = 0.0, max = 500.0 }

[[channels]]
name = "balance.mass"
kind = "mass"
unit = "g"
device = "oven"
field = "mass"

[[channels]]
name = "mass_loss_fraction"
kind = "fraction"
unit = "1"
derived = { kind = "loss_fraction", of = "balance.mass" }

[[safe_state]]
set = { "heater.setpoint" = 20.0 }

[[safe_state]]
when = { channel = "heater.pv", op = "<", value = 200.0 }
timeout_s = 60.0
set = { "purge.flow" = 0.0 }
"""


def bent(old: str, new: str) -> str:
    """Return the profile with one passage changed; the passage must be there."""
    assert old in PROFILE
    return PROFILE.replace(old, new, 1)


def inspected(tmp_path: Path, text: str) -> tuple[HardwareProfile | None, list[Problem]]:
    file = tmp_path / "rig.toml"
    file.write_text(text, encoding="utf-8")
    return inspect_profile(file, FAMILIES)


def profile_of(tmp_path: Path, text: str = PROFILE) -> HardwareProfile:
    """Load a profile that has no problem."""
    profile, problems = inspected(tmp_path, text)
    assert not problems, problems
    assert profile is not None
    return profile


def problems_of_profile(tmp_path: Path, text: str) -> list[Problem]:
    """Return what is wrong with a profile, whether or not its shape is right."""
    try:
        return inspected(tmp_path, text)[1]
    except ProblemsError as error:
        return list(error.problems)


def problems_of_method(text: str) -> tuple[Problem, ...]:
    """Return what is wrong with a method; there must be something."""
    with pytest.raises(ProblemsError) as caught:
        parse_method(text, file="m.method.toml")
    return caught.value.problems
