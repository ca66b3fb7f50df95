"""A method: a tuple of typed steps, each a frozen value that is complete or does not exist."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from capa.channels.spec import Op
from capa.models import Flag, Frozen, Number

__all__ = [
    "STEP_MODELS",
    "AcquireStep",
    "AlarmOverride",
    "ChannelRef",
    "CustomStep",
    "EndCondition",
    "HoldStep",
    "Method",
    "PromptStep",
    "RampStep",
    "SafeShutdownStep",
    "SetpointStep",
    "Step",
    "StepKind",
    "WaitStep",
]

StepKind = Literal[
    "hold", "ramp", "setpoint", "wait", "prompt", "acquire", "safe_shutdown", "custom"
]


class ChannelRef(Frozen):
    """A pointer to a channel; a model of its own so that addressing can grow."""

    name: str = Field(min_length=1)


class EndCondition(Frozen):
    """Fires on the first usable sample of ``channel`` for which ``sample op value`` is true.

    ``==`` is allowed and rarely useful on a measured value: ask for ``>=`` a little below it.
    """

    channel: str = Field(min_length=1)
    op: Op
    value: Number


class AlarmOverride(Frozen):
    """What an alarm is to be for the length of one step."""

    alarm_id: str = Field(min_length=1)
    threshold: Number | None = None
    disable: Flag = False


class _StepBase(Frozen):
    """What every step may carry, and the rule that some steps need one of two fields."""

    one_of: ClassVar[tuple[str, str] | None] = None

    notes: str = ""
    safety_overrides: tuple[AlarmOverride, ...] = ()

    @model_validator(mode="after")
    def _has_one_of(self) -> Self:
        if self.one_of and all(getattr(self, name) is None for name in self.one_of):
            raise ValueError(missing_one_of(str(getattr(self, "kind", "")), self.one_of))
        return self


def missing_one_of(kind: str, names: tuple[str, str]) -> str:
    """Say which of two fields a step lacks: the wording of the method step reference."""
    return f"{kind} step needs either {names[0]} or {names[1]}"


class HoldStep(_StepBase):
    """Command a value, then wait; with both, whichever of duration and condition fires first."""

    one_of: ClassVar[tuple[str, str] | None] = ("duration_s", "end_condition")

    kind: Literal["hold"] = "hold"
    target: ChannelRef
    value: Number
    duration_s: Number | None = Field(default=None, ge=0)
    end_condition: EndCondition | None = None


class RampStep(_StepBase):
    """Drive a setpoint linearly; ``duration_s`` rules and ``rate_per_second`` fills in for it.

    ``start_value=None`` starts from the channel's latest value. A rate of zero is an error of
    the run, not of the model (method step reference, "ramp").
    """

    one_of: ClassVar[tuple[str, str] | None] = ("rate_per_second", "duration_s")

    kind: Literal["ramp"] = "ramp"
    target: ChannelRef
    start_value: Number | None = None
    end_value: Number
    rate_per_second: Number | None = None
    duration_s: Number | None = Field(default=None, gt=0)


class SetpointStep(_StepBase):
    """Command a value and go on at once."""

    kind: Literal["setpoint"] = "setpoint"
    target: ChannelRef
    value: Number


class WaitStep(_StepBase):
    """Dwell without changing a setpoint.

    ``duration_s`` is the wait, and its end is normal; ``timeout_s`` is a deadline, and what
    follows it is ``on_timeout``.
    """

    one_of: ClassVar[tuple[str, str] | None] = ("duration_s", "end_condition")

    kind: Literal["wait"] = "wait"
    duration_s: Number | None = Field(default=None, ge=0)
    end_condition: EndCondition | None = None
    timeout_s: Number | None = Field(default=None, gt=0)
    on_timeout: Literal["warn", "abort", "safe_shutdown"] = "warn"


class PromptStep(_StepBase):
    """Wait until an operator confirms."""

    kind: Literal["prompt"] = "prompt"
    title: str = "Operator confirmation"
    message: str
    timeout_s: Number | None = Field(default=None, gt=0)


class AcquireStep(_StepBase):
    """Mark a measurement window: record, change nothing."""

    kind: Literal["acquire"] = "acquire"
    duration_s: Number = Field(gt=0)


class SafeShutdownStep(_StepBase):
    """Command cool-down values, then dwell for ``duration_s`` if it is given."""

    kind: Literal["safe_shutdown"] = "safe_shutdown"
    cool_target: dict[str, Number] = Field(default_factory=dict)
    duration_s: Number | None = Field(default=None, ge=0)


class CustomStep(_StepBase):
    """Hand over to the handler that the procedure registered under ``handler_id``.

    ``params`` are the handler's own business and are not checked here.
    """

    kind: Literal["custom"] = "custom"
    handler_id: str = Field(min_length=1)
    params: dict[str, Any] = Field(default_factory=dict)


Step = Annotated[
    HoldStep
    | RampStep
    | SetpointStep
    | WaitStep
    | PromptStep
    | AcquireStep
    | SafeShutdownStep
    | CustomStep,
    Field(discriminator="kind"),
]

STEP_MODELS: Mapping[str, type[_StepBase]] = {
    "hold": HoldStep,
    "ramp": RampStep,
    "setpoint": SetpointStep,
    "wait": WaitStep,
    "prompt": PromptStep,
    "acquire": AcquireStep,
    "safe_shutdown": SafeShutdownStep,
    "custom": CustomStep,
}
"""The model of each kind, for those who explain a file that did not become one."""


class Method(Frozen):
    """A typed segmented profile, reusable on every rig whose channel names line up."""

    name: str = Field(min_length=1)
    description: str = ""
    steps: tuple[Step, ...] = Field(min_length=1)

    def total_duration_s(self) -> float | None:
        """Sum every step's ``duration_s``; None as soon as one step has none.

        By the letter of the method TOML page: a setpoint, a prompt, a custom step, a ramp that
        gives a rate only and a ``safe_shutdown`` without a dwell have none.
        """
        total_s = 0.0
        for step in self.steps:
            duration_s = getattr(step, "duration_s", None)
            if duration_s is None:
                return None
            total_s += duration_s
        return total_s
