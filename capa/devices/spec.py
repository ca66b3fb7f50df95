"""What a hardware profile says of a link and of a device."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from capa.models import Flag, Frozen, Number, Whole

__all__ = ["DeviceSpec", "Expected", "LinkSpec", "SettingValue"]

SettingValue = bool | float | str
"""What a device's setting can be: true or false, a number in its unit, or a word."""


def _setting(value: object) -> SettingValue:
    """Take a setting's value as a file has it; one complaint, not one for each type."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise ValueError("must be true or false, a finite number, or text in quotes")


_Setting = Annotated[SettingValue, PlainValidator(_setting)]


class LinkSpec(Frozen):
    """One physical byte pipe; several devices may share it.

    ``transport`` names an entry of the group ``capa.links``. ``port`` is a device path for
    ``serial`` (prefer ``/dev/serial/by-id/...``) and ``host:port`` for ``tcp``.
    """

    name: str = Field(min_length=1)
    transport: str = "serial"
    port: str
    baud: Whole = Field(default=9600, gt=0)
    bytesize: Literal[7, 8] = 8
    parity: Literal["N", "E", "O"] = "N"
    stopbits: Literal[1, 2] = 1
    reply_timeout_s: Number = Field(default=0.5, gt=0)
    """How long a device may take to answer. What its line needs comes on top: the request's
    characters at this speed, and those of a reply that has begun."""
    gap_s: Number | None = Field(default=None, ge=0)
    """Silence to keep between exchanges; None takes what the family's protocol demands."""
    reconnect_max_s: Number = Field(default=5.0, gt=0)
    local_echo: Flag = False
    """Whether the adapter hears itself (two-wire RS-485 with its receiver always on): then every
    request comes back before the reply, and is compared with what was sent."""

    @property
    def character_s(self) -> float:
        """How long a character takes: start bit, data, parity and stop bits at this speed."""
        bits = 1 + self.bytesize + (self.parity != "N") + self.stopbits
        return bits / self.baud


class Expected(Frozen):
    """What a setting of a device must be, with what follows if it is not."""

    value: _Setting
    otherwise: Literal["refuse", "warn"] = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _or_a_mere_value(cls, data: object) -> object:
        return data if isinstance(data, dict | cls) else {"value": data}


class DeviceSpec(Frozen):
    """One instrument; its family validates ``options``, ``twin``, ``expect`` and ``enforce``."""

    name: str = Field(min_length=1)
    adapter: str
    link: str
    address: Whole | str | None = None
    poll_hz: Number = Field(default=10.0, gt=0, le=200)
    required: Flag = True
    """Whether the daemon may call itself ready while this device is silent."""
    options: dict[str, Any] = Field(default_factory=dict)
    expect: dict[str, Expected] = Field(default_factory=dict)
    """Settings that the device must have before a run is armed; a mere value refuses otherwise."""
    enforce: dict[str, _Setting] = Field(default_factory=dict)
    """Settings that are written where they differ, and proven, before a run is armed."""
    twin: dict[str, Any] = Field(default_factory=dict)
    """How the simulator plays this device; ignored by a real rig."""
