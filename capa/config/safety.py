"""The ``[safety]`` tables of a hardware profile: what the safety monitor watches, and what it does.

Everything has a default; a profile without these tables still has its channels watched for
silence, broken sensors and outputs that are not what they were commanded to be. The thermal
rules need to be told which setpoint heats which process value.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from capa.channels.spec import Action
from capa.models import Frozen, Number

__all__ = [
    "ActionOrOff",
    "DiskWatch",
    "NextRun",
    "OutputWatch",
    "RateWatch",
    "RecorderWatch",
    "SafetySpec",
    "SensorWatch",
    "StaleWatch",
    "ThermalWatch",
]

ActionOrOff = Literal["off", "warn", "pause", "abort", "safe_shutdown"]
NextRun = Literal["after_first_stage", "after_last_stage"]


class StaleWatch(Frozen):
    """Silence: a channel with ``stale_after_s`` that brings nothing for so long."""

    action: Action = "abort"
    channels: dict[str, ActionOrOff] = Field(default_factory=dict)
    """Other actions for single channels."""


class SensorWatch(Frozen):
    """Readings that are no measurements: NaN, sensor error codes, overload."""

    action: Action = "abort"
    debounce_s: Number = Field(default=1.0, ge=0)
    channels: dict[str, ActionOrOff] = Field(default_factory=dict)
    """Other actions for single channels."""


class OutputWatch(Frozen):
    """An output that does not read what it was last commanded: somebody turned the knob.

    Watched without a table wherever a channel reads the very value that it commands; a table
    changes how, or adds a channel that reads something else (a flow that has to follow).
    """

    channel: str
    tolerance: Number | None = Field(default=None, gt=0)
    """In the channel's unit; the channel's own when absent."""
    settle_s: Number = Field(default=5.0, gt=0, le=10)
    action: ActionOrOff = "abort"


class RateWatch(Frozen):
    """A process value that changes faster than the rig can."""

    channel: str
    max_per_s: Number = Field(gt=0)
    window_s: Number = Field(default=10.0, gt=0, le=600)
    direction: Literal["any", "rise", "fall"] = "any"
    action: Action = "abort"


class ThermalWatch(Frozen):
    """A heater, its setpoint and what it heats; units are those of the channels.

    *Asked to heat* means that the setpoint lies more than ``band`` above the process value (and
    the controller gives ``full_power`` or more, where ``power`` is known); *asked not to*, that
    it lies more than ``band`` below.
    """

    setpoint: str
    pv: str
    power: str | None = None
    band: Number = Field(default=20.0, gt=0)
    full_power: Number = Field(default=90.0, gt=0)
    min_rise: Number = Field(default=2.0, gt=0)
    """The least rise within ``rise_time_s`` of being asked to heat."""
    rise_time_s: Number = Field(default=300.0, gt=0)
    no_rise: ActionOrOff = "abort"
    idle_power: Number = Field(default=5.0, ge=0)
    """What the controller may give while asked not to heat, for up to ``idle_power_time_s``."""
    idle_power_time_s: Number = Field(default=30.0, gt=0)
    max_idle_rise: Number = Field(default=5.0, gt=0)
    """How far the process value may rise within ``idle_window_s`` while asked not to heat."""
    idle_window_s: Number = Field(default=60.0, gt=0)
    settle_s: Number = Field(default=60.0, ge=0)
    """How long heat already under way may still arrive after the demand has ended."""
    unasked_heat: ActionOrOff = "safe_shutdown"


class DiskWatch(Frozen):
    """Free space where bundles are written; the spool's disk only ever warns."""

    warn_below_mb: Number = Field(default=1000.0, ge=0)
    act_below_mb: Number = Field(default=100.0, ge=0)
    action: ActionOrOff = "abort"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn_below_mb < self.act_below_mb:
            raise ValueError("warn_below_mb must not be less than act_below_mb")
        return self


class RecorderWatch(Frozen):
    """How far the recorder may be behind the run."""

    max_lag_s: Number = Field(default=5.0, gt=0)
    action: ActionOrOff = "warn"


class SafetySpec(Frozen):
    """``[safety]``."""

    stale: StaleWatch = StaleWatch()
    sensor: SensorWatch = SensorWatch()
    output: tuple[OutputWatch, ...] = ()
    rate: tuple[RateWatch, ...] = ()
    thermal: tuple[ThermalWatch, ...] = ()
    disk: DiskWatch = DiskWatch()
    recorder: RecorderWatch = RecorderWatch()
    next_run_may_start: NextRun | None = None
    """When the next run may begin after one on this rig; as the daemon is set when absent."""
