"""Safe plans of small rigs, as the daemon compiles them and as the guardian reads them."""

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.alicat import FAMILY as ALICAT
from adapters.modbus import FAMILY as MODBUS
from adapters.sartorius import FAMILY as SARTORIUS
from adapters.watlow import FAMILY as WATLOW
from capa.channels.registry import Binding
from capa.config.hardware import HardwareProfile
from capa.devices.adapter import AdapterFamily
from capa.devices.spec import DeviceSpec
from capa.runtime.safe_plan import SafePlan, compile_safe_plan, compile_write

__all__ = ["FAMILIES", "RIG", "WHEN", "plan_of", "plan_of_twin", "profile_of", "write_of"]

FAMILIES: Mapping[str, AdapterFamily] = {
    family.name: family for family in (WATLOW, ALICAT, MODBUS, SARTORIUS)
}
WHEN = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)

RIG = """
name = "bench"
[[links]]
name = "heat"
port = "/dev/ttyUSB0"
baud = 38400
reply_timeout_s = 0.2
[[links]]
name = "gas"
transport = "tcp"
port = "10.0.0.7:4001"
reply_timeout_s = 0.2
[[devices]]
name = "heater"
adapter = "watlow"
link = "heat"
address = 1
[[devices]]
name = "valve"
adapter = "modbus"
link = "heat"
address = 7
[devices.options.fields.opening]
address = 10
type = "uint16"
scale = 0.1
unit = "%"
access = "rw"
command = "set_opening"
reads_back = false
[[devices]]
name = "purge"
adapter = "alicat"
link = "gas"
address = "A"
[[channels]]
name = "heater.setpoint"
kind = "temperature"
unit = "degC"
device = "heater"
field = "setpoint"
command = "set_setpoint"
limits = { min = 0.0, max = 900.0 }
[[channels]]
name = "purge.flow"
kind = "flow"
unit = "sccm"
device = "purge"
field = "flow"
command = "set_setpoint"
limits = { min = 0.0, max = 500.0 }
[[channels]]
name = "valve.opening"
kind = "flag"
unit = "%"
device = "valve"
field = "opening"
command = "set_opening"
limits = { min = 0.0, max = 100.0 }
[[safe_state]]
set = { "heater.setpoint" = 20.0, "purge.flow" = 50.0, "valve.opening" = 30.0 }
"""


def profile_of(text: str) -> HardwareProfile:
    return HardwareProfile.model_validate(tomllib.loads(text))


def plan_of(
    text: str = RIG,
    families: Mapping[str, AdapterFamily] = FAMILIES,
    *,
    simulated: bool = False,
    deadline_s: float = 1.0,
) -> SafePlan:
    return compile_safe_plan(
        profile_of(text), families, written_utc=WHEN, simulated=simulated, deadline_s=deadline_s
    )


def plan_of_twin(
    directory: Path, *, deadline_s: float = 5.0, written_utc: datetime = WHEN
) -> SafePlan:
    """Compile the profile that a twin serves."""
    profile = profile_of((directory / "profile.toml").read_text())
    return compile_safe_plan(profile, FAMILIES, written_utc=written_utc, deadline_s=deadline_s)


def write_of(
    device: DeviceSpec, field: str, value: float, tolerance: float = 0.1
) -> dict[str, Any]:
    """Compile one write of a device whose channel is the field itself."""
    binding = Binding(device.name, field, "set", field, tolerance=tolerance)
    return compile_write(FAMILIES[device.adapter], device, "channel", value, binding)
