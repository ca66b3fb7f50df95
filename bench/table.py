"""One line a figure: what was measured, what was aimed at, and whether it was reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound in the unit of its figure: the most it may be, or the least."""

    bound: float
    least: bool = False

    def reached_by(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound

    def __str__(self) -> str:
        return f"goal {'>=' if self.least else '<='} {self.bound:g}"


@dataclass
class Table:
    """Figures as they come; nothing is hidden, goals missed are printed like goals reached."""

    rows: list[tuple[str, float, str, Goal | None]] = field(default_factory=list)

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        goal: float | None = None,
        *,
        at_least: float | None = None,
    ) -> None:
        """Add and print a figure; a goal is an upper bound in the same unit, else the least."""
        aim = None if goal is None else Goal(goal)
        aim = aim if at_least is None else Goal(at_least, least=True)
        self.rows.append((what, value, unit, aim))
        verdict = ""
        if aim is not None:
            verdict = f"{aim} {unit}: {'reached' if aim.reached_by(value) else 'MISSED'}"
        print(f"  {what:<58} {value:>9.3f} {unit:<6} {verdict}".rstrip(), flush=True)

    def spread(
        self, what: str, values: Sequence[float], unit: str, goal_p99: float | None = None
    ) -> None:
        """Add p50, p99 and max of a set of values."""
        self.add(f"{what}, p50 (n={len(values)})", percentile(values, 0.5), unit)
        self.add(f"{what}, p99", percentile(values, 0.99), unit, goal_p99)
        self.add(f"{what}, max", max(values), unit)

    def missed(self) -> list[str]:
        """The names of the goals that were missed."""
        return [what for what, value, _, aim in self.rows if aim and not aim.reached_by(value)]
