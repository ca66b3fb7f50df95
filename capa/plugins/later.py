"""Procedures that are loaded when they are first asked for: a rig is made safe without them.

Built-ins never wait for what others have installed: a plug-in that hangs at import delays those
who ask for a plug-in, and nobody else.
"""

import threading
from collections.abc import Callable, Iterator, Mapping

from capa.experiment.procedures.available import Procedures
from capa.experiment.procedures.base import Procedure
from capa.plugins.policy import Policy

__all__ = ["ProceduresLater", "procedures_under"]


class ProceduresLater(Mapping[str, type[Procedure]]):
    """A mapping of procedures by id that is filled, once, at the first look into it.

    ``builtins`` loads those that are looked at first; ``load`` loads all there are, these
    included. Call ``warm`` in a thread to have them ready before somebody waits for them.
    """

    def __init__(
        self, load: Callable[[], Procedures], *, builtins: Callable[[], Procedures]
    ) -> None:
        self._builtins = _Once(builtins)
        self._all = _Once(load)

    def warm(self) -> None:
        """Load them now, if that has not been done. Blocks."""
        self._all.get()

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why each procedure that was refused was, by the id it was installed under."""
        return self._all.get().left_out

    def __getitem__(self, key: str) -> type[Procedure]:
        ours = self._builtins.get()
        return ours[key] if key in ours else self._all.get()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all.get())

    def __len__(self) -> int:
        return len(self._all.get())


class _Once:
    """What ``load`` returns, which is called by the first who asks, in whatever thread."""

    def __init__(self, load: Callable[[], Procedures]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._found: Procedures | None = None

    def get(self) -> Procedures:
        with self._loading:
            if self._found is None:
                self._found = self._load()
            return self._found


def procedures_under(rule: Policy) -> ProceduresLater:
    """Return what may run under a policy; imported, and hashed, once somebody asks."""

    def builtins() -> Procedures:
        from capa.plugins.discovery import load_builtins

        return load_builtins()

    def load() -> Procedures:
        from capa.plugins.discovery import load_procedures

        return load_procedures(rule)

    return ProceduresLater(load, builtins=builtins)
