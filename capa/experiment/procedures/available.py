"""The procedures that may run here, and why others that are installed may not."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from capa.experiment.procedures.base import Procedure

__all__ = ["Procedures", "TellsWhatIsLeftOut", "why_missing"]


@runtime_checkable
class TellsWhatIsLeftOut(Protocol):
    """A mapping of procedures that also knows of those that were refused."""

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why each one was refused, by the id it was installed under."""
        ...


class Procedures(dict[str, type[Procedure]]):
    """What may run, by id; ``left_out`` says what may not, and why."""

    def __init__(
        self, found: Mapping[str, type[Procedure]], left_out: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(found)
        self.left_out = dict(left_out or {})


def why_missing(procedures: Mapping[str, type[Procedure]], procedure_id: str) -> str:
    """Say why an installed procedure may not run; empty if none of that id is installed."""
    if not isinstance(procedures, TellsWhatIsLeftOut):
        return ""
    reason = procedures.left_out.get(procedure_id)
    return "" if reason is None else f"procedure {procedure_id!r} is installed, but {reason}"
