"""Procedures come when they are first asked for, once."""

from collections.abc import Mapping

from capa.experiment.procedures.base import Procedure
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.plugins.later import ProceduresLater


def test_nothing_is_loaded_before_somebody_looks_and_only_once_then() -> None:
    loads: list[str] = []

    def load() -> Mapping[str, type[Procedure]]:
        loads.append("now")
        return {FreeRun.id: FreeRun}

    later = ProceduresLater(load)
    assert loads == []
    later.warm()
    assert later[FreeRun.id] is FreeRun
    assert list(later) == [FreeRun.id]
    assert len(later) == 1
    assert loads == ["now"]
