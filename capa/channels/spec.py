"""What a hardware profile says of a channel: its unit, its binding, its limits, its alarms."""

from typing import Annotated, Literal

from pydantic import Field

from capa.models import Frozen, Number

__all__ = [
    "Action",
    "AlarmSpec",
    "Calibration",
    "ChannelKind",
    "ChannelSpec",
    "DerivedSpec",
    "Difference",
    "IdentityCalibration",
    "Limits",
    "LinearCalibration",
    "LossFraction",
    "Op",
    "RatePerS",
]

Op = Literal[">", ">=", "<", "<=", "=="]
Action = Literal["warn", "pause", "abort", "safe_shutdown"]
"""What the safety monitor does about a violation; see docs/hardware-profile.md."""
ChannelKind = Literal[
    "temperature",
    "power",
    "flow",
    "pressure",
    "mass",
    "heat_flux",
    "flag",
    "fraction",
    "rate",
    "other",
]


class IdentityCalibration(Frozen):
    """The device's value is the channel's value (in compatible units)."""

    kind: Literal["identity"] = "identity"


class LinearCalibration(Frozen):
    """``channel = gain * device + offset``; a commanded value goes the other way."""

    kind: Literal["linear"]
    gain: Number = 1.0
    offset: Number = 0.0


Calibration = Annotated[IdentityCalibration | LinearCalibration, Field(discriminator="kind")]


class Limits(Frozen):
    """What the gate lets through, in the channel's unit.

    ``max_rate_per_s`` bounds the change over any 10 s, so a jump counts as a steep ramp;
    leave it out where jumps are wanted.
    """

    min: Number
    max: Number
    max_rate_per_s: Number | None = Field(default=None, gt=0)


class AlarmSpec(Frozen):
    """A band that a channel must not leave for longer than ``debounce_s``."""

    id: str = Field(min_length=1)
    op: Op
    threshold: Number
    hysteresis: Number = Field(default=0.0, ge=0)
    debounce_s: Number = Field(default=0.0, ge=0)
    action: Action = "warn"


class LossFraction(Frozen):
    """``(m0 - m) / m0`` with ``m0`` the first good sample of channel ``of`` after the run began."""

    kind: Literal["loss_fraction"]
    of: str


class RatePerS(Frozen):
    """The least-squares slope of channel ``of`` over ``window_s``, per second."""

    kind: Literal["rate_per_s"]
    of: str
    window_s: Number = Field(default=10.0, gt=0)


class Difference(Frozen):
    """``of - minus``."""

    kind: Literal["difference"]
    of: str
    minus: str


DerivedSpec = Annotated[LossFraction | RatePerS | Difference, Field(discriminator="kind")]


class ChannelSpec(Frozen):
    """One named scientific signal.

    A channel is bound to a device field (``device`` and ``field``) or ``derived``. It is
    commandable when it names a ``command`` of its device.
    """

    name: str = Field(min_length=1)
    kind: ChannelKind
    unit: str
    device: str | None = None
    field: str | None = None
    command: str | None = None
    calibration: Calibration = IdentityCalibration()
    derived: DerivedSpec | None = None
    limits: Limits | None = None
    stale_after_s: Number | None = Field(default=None, gt=0)
    tolerance: Number | None = Field(default=None, ge=0)
    """How far a read-back may lie from a commanded value and still prove it; in the channel's
    unit; the family's own resolution when absent."""
    safe: Literal["leave"] | None = None
    alarms: tuple[AlarmSpec, ...] = ()
    description: str = ""

    @property
    def commandable(self) -> bool:
        """Whether a command changes it."""
        return self.command is not None
