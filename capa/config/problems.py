"""What is wrong with a file, where, and what would be right."""

from collections.abc import Sequence
from dataclasses import dataclass

from capa.errors import CapaError

__all__ = ["Problem", "ProblemsError"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong, or odd (``blocking=False``), with a file, a run or a rig.

    ``code`` is stable and dotted (``method.unknown_field``), for filters; ``message`` says what
    is wrong; ``hint`` says what would be right. ``where`` is the place in the file's own terms
    (``step 3 (ramp), field rate_per_seconds``).
    """

    code: str
    message: str
    blocking: bool = True
    file: str | None = None
    line: int | None = None
    where: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        """One line a person can act on: ``file:12: step 3 (ramp), field x: wrong; do this``."""
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        parts = [part for part in (place, self.where, self.message) if part]
        text = ": ".join(parts)
        return f"{text}; {self.hint}" if self.hint else text


class ProblemsError(CapaError):
    """A file that can't be used, with every problem found in it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep the problems; the error's text has one a line."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
