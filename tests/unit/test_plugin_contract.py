"""What a class must be to be a procedure: each refusal, in the words its author reads."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from capa.experiment.procedures.base import (
    ChannelRequirement,
    Problem,
    Procedure,
    ProcedureContext,
)
from capa.experiment.procedures.builtin.free_run import FreeRun
from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner
from capa.plugins.contract import faults_of


class Config(BaseModel):
    pass


async def _preflight(self: object, ctx: ProcedureContext) -> list[Problem]:
    return []


async def _run(self: object, ctx: ProcedureContext) -> None:
    return None


def a_class(**changes: Any) -> type:  # noqa: ANN401 - anything at all may stand in a class
    """A good class, with attributes changed; None takes one away."""
    parts = {
        "id": "x.y",
        "name": "X",
        "version": "1.0",
        "config_model": Config,
        "required_capabilities": (),
        "required_channels": (),
        "uses_method": False,
        "preflight": _preflight,
        "run": _run,
        **changes,
    }
    return type("X", (), {key: value for key, value in parts.items() if value is not _GONE})


_GONE = object()


def only_fault(**changes: Any) -> str:  # noqa: ANN401 - as above
    (fault,) = faults_of(a_class(**changes))
    return fault


@pytest.mark.parametrize("cls", [FreeRun, RecipeRunner, a_class()])
def test_a_good_class_has_no_faults(cls: type) -> None:
    assert faults_of(cls) == []


@pytest.mark.parametrize(
    ("name", "declaration"),
    [
        ("id", "ClassVar[str]"),
        ("name", "ClassVar[str]"),
        ("version", "ClassVar[str]"),
        ("config_model", "ClassVar[type[BaseModel]]"),
        ("required_capabilities", "ClassVar[tuple[str, ...]]"),
        ("required_channels", "ClassVar[tuple[ChannelRequirement, ...]]"),
        ("uses_method", "ClassVar[bool]"),
    ],
)
def test_each_class_variable_that_is_missing_is_named(name: str, declaration: str) -> None:
    assert only_fault(**{name: _GONE}) == f"`{name}` is missing: declare it as {declaration}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": 5}, "`id` must be a string; it is an int"),
        ({"id": " "}, "`id` is empty"),
        ({"id": "a b"}, "`id` 'a b' has white space in it"),
        ({"name": None}, "`name` must be a string; it is None"),
        ({"version": "abc"}, "`version` 'abc' is no PEP 440 version; write it like"),
        ({"version": 1.0}, "`version` must be a string; it is a float"),
        ({"config_model": dict}, "`config_model` must be a pydantic BaseModel subclass; it is the"),
        ({"config_model": Config()}, "must be a pydantic BaseModel subclass; it is a Config"),
        ({"required_capabilities": "setpoint"}, "must be a tuple of strings, as in"),
        ({"required_capabilities": ["setpoint"]}, "it is a list"),
        ({"required_capabilities": (3,)}, "`required_capabilities` must be a tuple of strings; 3"),
        ({"required_channels": ("heater.pv",)}, "'heater.pv' in it is a str"),
        ({"required_channels": ChannelRequirement(name="x")}, "it is a ChannelRequirement"),
        ({"uses_method": "no"}, "`uses_method` must be True or False; it is a str"),
        ({"run": lambda self, ctx: None}, "`run` must be `async def`"),
        ({"preflight": lambda self, ctx: []}, "`preflight` must be `async def`"),
        ({"run": 5}, "`run` must be `async def`"),
        ({"run": _GONE}, "`run` is missing: define it as `async def run(self, ctx)`"),
        ({"run": staticmethod(_run)}, "`run` must be an ordinary method"),
        ({"from_config": lambda self, raw: None}, "`from_config` must be a classmethod"),
        ({"plan_capture": _run}, "`plan_capture` must be an ordinary `def"),
        ({"custom_handler_ids": "a.b"}, "`custom_handler_ids` must be a tuple of strings"),
    ],
)
def test_what_is_of_the_wrong_kind_is_said(changes: dict[str, Any], says: str) -> None:
    assert says in only_fault(**changes)


def test_a_run_that_yields_is_no_coroutine() -> None:
    async def run(self: object, ctx: ProcedureContext) -> Any:  # noqa: ANN401 - wrong on purpose
        yield 1

    assert only_fault(run=run) == "`run` must be `async def` without `yield` in it"


def test_a_run_that_takes_no_context_can_not_be_called() -> None:
    async def run(self: object) -> None:
        return None

    assert "must take one argument besides self" in only_fault(run=run)


def test_a_dataclass_default_under_slots_reads_as_missing() -> None:
    @dataclass(slots=True)
    class Slotted(Procedure):
        id: str = "x.y"  # type: ignore[misc]  # the mistake under test: no ClassVar

    fault = next(fault for fault in faults_of(Slotted) if fault.startswith("`id`"))
    assert "a dataclass field, which only an instance has; declare it as ClassVar[str]" in fault


def test_a_dataclass_default_reads_as_missing_without_slots_too() -> None:
    @dataclass
    class Plain(Procedure):
        version: str = "1.0"  # type: ignore[misc]  # the mistake under test: no ClassVar
        tags: list[str] = field(default_factory=list)

    assert any(fault.startswith("`version` is missing: it is a") for fault in faults_of(Plain))


def test_a_property_is_no_class_variable() -> None:
    assert "`id` is missing: it is a property" in only_fault(id=property(lambda self: "x"))


def test_the_empty_bodies_of_the_protocol_are_no_definitions() -> None:
    class Bodiless(Procedure):
        id: ClassVar[str] = "x"

    faults = faults_of(Bodiless)
    assert "`run` is missing: define it as `async def run(self, ctx)`" in faults
    assert "`preflight` is missing: define it as `async def preflight(self, ctx)`" in faults


def test_every_fault_is_named_at_once() -> None:
    faults = faults_of(a_class(id=_GONE, version="abc", run=lambda self, ctx: None))
    assert len(faults) == 3


@pytest.mark.parametrize("thing", [_run, a_class()(), None, "text"])
def test_what_is_no_class_is_refused(thing: object) -> None:
    assert "not a class; the entry point must name a class" in faults_of(thing)[0]


@pytest.mark.parametrize(
    "version",
    ["0", "1.0", "2!1.0", "1.0a1", "1.0.beta-2", "1.0rc", "1.0-1", "1.0.post3", "1.0.dev0", "v1",
     "1.0+local.7", "1.0A1.POST2.DEV3"],
)  # fmt: skip
def test_the_spellings_of_pep_440_are_versions(version: str) -> None:
    assert faults_of(a_class(version=version)) == []


@pytest.mark.parametrize("version", ["abc", "1.", "1..0", "1.0-", "1.0+", "1.0 beta", "1.0\n", "१"])
def test_what_pep_440_does_not_know_is_no_version(version: str) -> None:
    assert "is no PEP 440 version" in only_fault(version=version)
