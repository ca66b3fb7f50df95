"""What passes between a running procedure and an operator's surface; none of it is recorded."""

from dataclasses import dataclass

__all__ = ["SAFETY_MONITOR", "OperatorCommand", "ProcedureTick"]

SAFETY_MONITOR = "the safety monitor"
"""Who issues the ``pause`` and ``resume`` of an alarm whose action is ``pause``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcedureTick:
    """How a self-driving procedure stands, for ``ctx.ui_sink.publish(tick)``.

    The numbers are in the units of the procedure's own channels; None before there is one.
    """

    kind: str
    """Which procedure's tick this is, such as ``"heat_flux_tune"``."""
    state: str
    elapsed_s: float
    target: float | None = None
    iteration: int = 0
    setpoint: float | None = None
    mean: float | None = None
    noise: float | None = None
    slope: float | None = None
    """Per second."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """A wish of the operator's, read by the procedure from ``ctx.operator_commands``.

    ``kind`` is one of those that the procedure knows: ``"pause"``, ``"resume"``, ``"accept"``.
    """

    kind: str
    issued_by: str = "operator"
