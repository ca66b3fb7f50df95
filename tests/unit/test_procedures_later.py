"""Procedures come when they are first asked for, once; built-ins wait for nobody's plug-in."""

from capa.experiment.procedures.available import Procedures, why_missing
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.plugins.later import ProceduresLater


class Lab(FreeRun):
    """Somebody's plug-in."""


def test_nothing_is_loaded_before_somebody_looks_and_only_once_then() -> None:
    loads: list[str] = []

    def load() -> Procedures:
        loads.append("all")
        return Procedures(
            {FreeRun.id: FreeRun, "lab.one": Lab}, {"lab.hold": "not trusted: edited"}
        )

    later = ProceduresLater(load, builtins=lambda: Procedures({}))
    assert loads == []
    later.warm()
    assert later[FreeRun.id] is FreeRun
    assert later["lab.one"] is Lab
    assert list(later) == [FreeRun.id, "lab.one"]
    assert len(later) == 2
    assert loads == ["all"]
    assert why_missing(later, "lab.hold") == (
        "procedure 'lab.hold' is installed, but not trusted: edited"
    )
    assert why_missing(later, "lab.other") == why_missing({}, "lab.hold") == ""


def test_who_asks_for_a_built_in_does_not_wait_for_the_plug_ins() -> None:
    loads: list[str] = []

    def ours() -> Procedures:
        loads.append("built-ins")
        return Procedures({FreeRun.id: FreeRun, RecipeRunner.id: RecipeRunner})

    def hangs() -> Procedures:
        raise AssertionError("a plug-in was asked for")

    later = ProceduresLater(hangs, builtins=ours)
    assert later[FreeRun.id] is FreeRun
    assert later.get(RecipeRunner.id) is RecipeRunner
    assert FreeRun.id in later
    assert loads == ["built-ins"]
