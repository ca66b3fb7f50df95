"""Procedures that are loaded when they are first asked for: a rig is made safe without them."""

import threading
from collections.abc import Callable, Iterator, Mapping

from capa.experiment.procedures.base import Procedure

__all__ = ["ProceduresLater"]


class ProceduresLater(Mapping[str, type[Procedure]]):
    """A mapping of procedures by id that ``load`` fills, once, at the first look into it.

    Call ``warm`` in a thread to have them ready before somebody waits for them.
    """

    def __init__(self, load: Callable[[], Mapping[str, type[Procedure]]]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._found: Mapping[str, type[Procedure]] | None = None

    def warm(self) -> None:
        """Load them now, if that has not been done. Blocks."""
        self._procedures()

    def __getitem__(self, key: str) -> type[Procedure]:
        return self._procedures()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._procedures())

    def __len__(self) -> int:
        return len(self._procedures())

    def _procedures(self) -> Mapping[str, type[Procedure]]:
        with self._loading:
            if self._found is None:
                self._found = self._load()
            return self._found
