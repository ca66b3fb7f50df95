"""What a procedure publishes to ``ctx.ui_sink``, in the run's status line."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from capa.experiment.procedures.live import ProcedureTick

__all__ = ["StatusSink", "tick_words"]

_MOST_CHARACTERS = 160


@dataclass(slots=True)
class StatusSink:
    """Shows the last tick; nothing of it is recorded.

    A procedure that words its own status (``ctx.metadata["status"]``) keeps its words.
    """

    metadata: MutableMapping[str, Any]
    _shown: str = ""

    def publish(self, tick: object) -> None:
        """Show a tick until the next one: a ``ProcedureTick``, or anything that reads as text."""
        if self.metadata.get("status", self._shown) != self._shown:
            return
        words = tick_words(tick) if isinstance(tick, ProcedureTick) else str(tick)
        self._shown = " ".join(words.split())[:_MOST_CHARACTERS]
        self.metadata["status"] = self._shown


def tick_words(tick: ProcedureTick) -> str:
    """Return e.g. ``lab.tune settling: target 25, iteration 2, setpoint 412.5, mean 24.8``."""
    numbers = {
        "target": tick.target,
        "iteration": tick.iteration or None,
        "setpoint": tick.setpoint,
        "mean": tick.mean,
    }
    said = [f"{name} {value:.4g}" for name, value in numbers.items() if value is not None]
    if tick.message:
        said.append(tick.message)
    return f"{tick.kind} {tick.state}: {', '.join(said)}".removesuffix(": ")
