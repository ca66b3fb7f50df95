"""Procedures come when they are first asked for, once."""

from capa.experiment.procedures.available import Procedures, why_missing
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.plugins.later import ProceduresLater


def test_nothing_is_loaded_before_somebody_looks_and_only_once_then() -> None:
    loads: list[str] = []

    def load() -> Procedures:
        loads.append("now")
        return Procedures({FreeRun.id: FreeRun}, {"lab.hold": "not trusted: edited"})

    later = ProceduresLater(load)
    assert loads == []
    later.warm()
    assert later[FreeRun.id] is FreeRun
    assert list(later) == [FreeRun.id]
    assert len(later) == 1
    assert loads == ["now"]
    assert why_missing(later, "lab.hold") == (
        "procedure 'lab.hold' is installed, but not trusted: edited"
    )
    assert why_missing(later, "lab.other") == why_missing({}, "lab.hold") == ""
