"""What a campaign came to, in figures."""

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.drill.campaigns import Campaign
from tests.drill.judging import OutputVerdict

__all__ = ["Outcome", "conditions", "percentile", "table", "write_figures"]

_HEADER = (
    *("campaign", "n", "driven", "failures", "safe p50", "p99", "max"),
    *("proven p50", "p99", "max", "goal"),
)


@dataclass(slots=True)
class Outcome:
    """All rounds of a campaign; times in seconds, one a round: of the last output to get there."""

    campaign: Campaign
    n: int = 0
    driven: int = 0
    """Rounds in which an output stood away from its safe value when the blow fell."""
    safe_s: list[float] = field(default_factory=list)
    proven_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, verdicts: Sequence[OutputVerdict], *, must_prove: bool) -> str:
        """Count a round; return what was wrong with it."""
        self.n += 1
        wrong = [v.trouble for v in verdicts if v.trouble]
        wrong += [
            f"{v.channel} was never proven"
            for v in verdicts
            if v.proven_s is None and not v.trouble and (must_prove or v.was_unsafe)
        ]
        moved = [v for v in verdicts if v.was_unsafe or (v.safe_s or 0) > 0]
        self.driven += bool(moved)
        self._time(self.safe_s, [v.safe_s for v in moved])
        self._time(self.proven_s, [v.proven_s for v in (verdicts if must_prove else moved)])
        slowest = max((v.safe_s or 0.0 for v in moved), default=0.0)
        if slowest > self.campaign.limit_s:
            wrong.append(f"safe after {slowest:.3f} s only; the limit is {self.campaign.limit_s:g}")
        if wrong:
            self.failures.append("; ".join(wrong))
        return "; ".join(wrong)

    def include(self, other: "Outcome") -> None:
        """Count the rounds of another bench, too."""
        self.n += other.n
        self.driven += other.driven
        self.safe_s += other.safe_s
        self.proven_s += other.proven_s
        self.failures += other.failures

    def fail(self, why: str) -> None:
        """Count a round that did not get to its end."""
        self.n += 1
        self.failures.append(why)

    @staticmethod
    def _time(times_s: list[float], found: Sequence[float | None]) -> None:
        if found and None not in found:
            times_s.append(max(value for value in found if value is not None))

    @property
    def judged_s(self) -> float | None:
        """The percentile that the goal is for; None without a figure."""
        times_s = self.proven_s if self.campaign.of == "proven" else self.safe_s
        return percentile(times_s, 99) if times_s else None

    @property
    def reached(self) -> bool:
        """Whether nothing failed and the goal was reached."""
        judged_s = self.judged_s
        return not self.failures and judged_s is not None and judged_s <= self.campaign.goal_s

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "campaign": self.campaign.name,
            "what": self.campaign.what,
            "n": self.n,
            "driven": self.driven,
            "failures": self.failures,
            "safe_s": self.safe_s,
            "proven_s": self.proven_s,
            "goal_s": self.campaign.goal_s,
            "goal_of": self.campaign.of,
            "reached": self.reached,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was seen."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _row(outcome: Outcome) -> tuple[str, ...]:
    campaign = outcome.campaign
    verdict = "reached" if outcome.reached else "MISSED"
    goal = f"{campaign.of} p99 <= {campaign.goal_s:g} s: {verdict}"
    counts = (str(outcome.n), str(outcome.driven), str(len(outcome.failures)))
    return (campaign.name, *counts, *_spread(outcome.safe_s), *_spread(outcome.proven_s), goal)


def _spread(times_s: Sequence[float]) -> tuple[str, str, str]:
    if not times_s:
        return ("-", "-", "-")
    p50, p99 = percentile(times_s, 50), percentile(times_s, 99)
    return (f"{p50:.3f}", f"{p99:.3f}", f"{max(times_s):.3f}")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table; seconds from the blow until the last output got there."""
    rows = [_HEADER, *(_row(outcome) for outcome in outcomes)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    lines = [
        " | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True))
        for row in rows
    ]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def conditions() -> str:
    """Return on what it was measured, as far as figures depend on it."""
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {load}"
    )


def write_figures(folder: Path, outcomes: Sequence[Outcome], notes: Sequence[str]) -> None:
    """Write drill.txt and drill.json."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([table(outcomes), "", *notes]) + "\n"
    (folder / "drill.txt").write_text(text)
    data = {"notes": list(notes), "campaigns": [outcome.as_json() for outcome in outcomes]}
    (folder / "drill.json").write_text(json.dumps(data, indent=2) + "\n")
