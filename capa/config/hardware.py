"""The hardware profile: links, devices, channels and the safe state of one rig."""

from typing import Any

from pydantic import Field

from capa.channels.spec import ChannelSpec, Op
from capa.config.safety import SafetySpec
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.models import Frozen, Number

__all__ = ["Condition", "HardwareProfile", "SafeStage"]


class Condition(Frozen):
    """A channel compared with a value, in the channel's unit."""

    channel: str
    op: Op
    value: Number


class SafeStage(Frozen):
    """Outputs to drive together, at once or when a condition holds or has timed out."""

    set: dict[str, Number] = Field(min_length=1)
    when: Condition | None = None
    timeout_s: Number | None = Field(default=None, gt=0)


class HardwareProfile(Frozen):
    """Everything wired to one controller box. Load one with ``capa.config.load``."""

    name: str = Field(min_length=1)
    description: str = ""
    links: tuple[LinkSpec, ...] = Field(min_length=1)
    devices: tuple[DeviceSpec, ...] = Field(min_length=1)
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    safe_state: tuple[SafeStage, ...] = ()
    safety: SafetySpec = SafetySpec()
    twin: dict[str, Any] = Field(default_factory=dict)
    """The simulator's plant (furnace, sample, gas); ignored by a real rig."""
