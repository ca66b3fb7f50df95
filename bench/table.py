"""One line a figure: what was measured, what was aimed at, and whether it was reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


@dataclass
class Table:
    """Figures as they come; nothing is hidden, goals missed are printed like goals reached."""

    rows: list[tuple[str, float, str, float | None]] = field(default_factory=list)

    def add(self, what: str, value: float, unit: str, goal: float | None = None) -> None:
        """Add and print a figure; a goal is an upper bound in the same unit."""
        self.rows.append((what, value, unit, goal))
        verdict = (
            ""
            if goal is None
            else f"goal <= {goal:g} {unit}: {'reached' if value <= goal else 'MISSED'}"
        )
        print(f"  {what:<58} {value:>9.3f} {unit:<6} {verdict}", flush=True)

    def spread(
        self, what: str, values: Sequence[float], unit: str, goal_p99: float | None = None
    ) -> None:
        """Add p50, p99 and max of a set of values."""
        self.add(f"{what}, p50 (n={len(values)})", percentile(values, 0.5), unit)
        self.add(f"{what}, p99", percentile(values, 0.99), unit, goal_p99)
        self.add(f"{what}, max", max(values), unit)

    def missed(self) -> list[str]:
        """The names of the goals that were missed."""
        return [what for what, value, _, goal in self.rows if goal is not None and value > goal]
