"""Procedures that are loaded when they are first asked for: a rig is made safe without them."""

import threading
from collections.abc import Callable, Iterator, Mapping

from capa.experiment.procedures.available import Procedures
from capa.experiment.procedures.base import Procedure

__all__ = ["ProceduresLater"]


class ProceduresLater(Mapping[str, type[Procedure]]):
    """A mapping of procedures by id that ``load`` fills, once, at the first look into it.

    Call ``warm`` in a thread to have them ready before somebody waits for them.
    """

    def __init__(self, load: Callable[[], Procedures]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._found: Procedures | None = None

    def warm(self) -> None:
        """Load them now, if that has not been done. Blocks."""
        self._procedures()

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why each procedure that was refused was, by the id it was installed under."""
        return self._procedures().left_out

    def __getitem__(self, key: str) -> type[Procedure]:
        return self._procedures()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._procedures())

    def __len__(self) -> int:
        return len(self._procedures())

    def _procedures(self) -> Procedures:
        with self._loading:
            if self._found is None:
                self._found = self._load()
            return self._found
