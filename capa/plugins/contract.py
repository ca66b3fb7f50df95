"""What a class must be to be a procedure, told in words its author can act on.

The class is looked at, never an instance: nothing of the plug-in runs here.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from pydantic import BaseModel

from capa.experiment.procedures.base import ChannelRequirement, Procedure

__all__ = ["faults_of"]

# The version scheme of PEP 440 (https://peps.python.org/pep-0440/): epoch, release, pre-, post-
# and development release, local label, with the spellings that its normalisation accepts.
_PEP_440 = re.compile(
    r"v?(?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*"
    r"(?:[-_.]?(?:alpha|a|beta|b|preview|pre|c|rc)[-_.]?[0-9]*)?"
    r"(?:-[0-9]+|[-_.]?(?:post|rev|r)[-_.]?[0-9]*)?"
    r"(?:[-_.]?dev[-_.]?[0-9]*)?"
    r"(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.IGNORECASE | re.ASCII,
)

_DECLARED = {
    "id": "ClassVar[str]",
    "name": "ClassVar[str]",
    "version": "ClassVar[str]",
    "config_model": "ClassVar[type[BaseModel]]",
    "required_capabilities": "ClassVar[tuple[str, ...]]",
    "required_channels": "ClassVar[tuple[ChannelRequirement, ...]]",
    "uses_method": "ClassVar[bool]",
}
_DESCRIPTORS = (property, MemberDescriptorType, GetSetDescriptorType, dataclasses.Field)
_MISSING: Any = object()


def faults_of(candidate: object) -> list[str]:
    """Return everything that keeps an object from being a procedure; empty for a good one."""
    if not inspect.isclass(candidate):
        return [f"it is {_kind(candidate)}, not a class; the entry point must name a class"]
    if getattr(candidate, "_is_protocol", False):
        return ["it is a Protocol; leave `Protocol` out of its bases"]
    faults = [fault for name in _DECLARED if (fault := _variable_fault(candidate, name))]
    faults += [fault for name in ("preflight", "run") if (fault := _method_fault(candidate, name))]
    faults += [fault for check in _OPTIONAL if (fault := check(candidate))]
    left = sorted(getattr(candidate, "__abstractmethods__", ()))
    if left:
        faults.append(f"it is abstract: define {_listed(left)}")
    return faults


def _variable_fault(cls: type, name: str) -> str | None:
    value, declaration = _static(cls, name), _DECLARED[name]
    if value is _MISSING:
        return f"`{name}` is missing: declare it as {declaration}"
    if isinstance(value, _DESCRIPTORS) or name in _field_names(cls):
        return (
            f"`{name}` is missing: it is {_instance_only(value)}, which only an instance has; "
            f"declare it as {declaration}"
        )
    return _VALUES[name](name, value)


def _instance_only(value: object) -> str:
    return "a property" if isinstance(value, property) else "a dataclass field"


def _field_names(cls: type) -> frozenset[str]:
    if not dataclasses.is_dataclass(cls):
        return frozenset()
    return frozenset(field.name for field in dataclasses.fields(cls))


def _id_fault(name: str, value: object) -> str | None:
    if fault := _text_fault(name, value):
        return fault
    spaced = any(mark.isspace() or not mark.isprintable() for mark in str(value))
    return f"`{name}` {value!r} has white space in it" if spaced else None


def _text_fault(name: str, value: object) -> str | None:
    if not isinstance(value, str):
        return f"`{name}` must be a string; it is {_kind(value)}"
    return None if value.strip() else f"`{name}` is empty"


def _version_fault(name: str, value: object) -> str | None:
    if fault := _text_fault(name, value):
        return fault
    if _PEP_440.fullmatch(str(value)):
        return None
    return f"`{name}` {value!r} is no PEP 440 version; write it like '1.0.0' or '2.1rc1'"


def _model_fault(name: str, value: object) -> str | None:
    if inspect.isclass(value) and issubclass(value, BaseModel):
        return None
    return f"`{name}` must be a pydantic BaseModel subclass; it is {_kind(value)}"


def _strings_fault(name: str, value: object) -> str | None:
    return _tuple_fault(name, value, str, "strings", '("setpoint",)')


def _channels_fault(name: str, value: object) -> str | None:
    example = '(ChannelRequirement(name="heater.pv"),)'
    return _tuple_fault(name, value, ChannelRequirement, "ChannelRequirement", example)


def _tuple_fault(name: str, value: object, item: type, items: str, example: str) -> str | None:
    if not isinstance(value, tuple):
        return f"`{name}` must be a tuple of {items}, as in {example}; it is {_kind(value)}"
    wrong = next((one for one in value if not isinstance(one, item)), None)
    if wrong is None:
        return None
    return f"`{name}` must be a tuple of {items}; {wrong!r} in it is {_kind(wrong)}"


def _bool_fault(name: str, value: object) -> str | None:
    return (
        None if isinstance(value, bool) else f"`{name}` must be True or False; it is {_kind(value)}"
    )


_VALUES: dict[str, Callable[[str, object], str | None]] = {
    "id": _id_fault,
    "name": _text_fault,
    "version": _version_fault,
    "config_model": _model_fault,
    "required_capabilities": _strings_fault,
    "required_channels": _channels_fault,
    "uses_method": _bool_fault,
}


def _method_fault(cls: type, name: str) -> str | None:
    """Judge ``preflight`` or ``run``; the Protocol's own empty body is not a definition."""
    value = _static(cls, name)
    if value is _MISSING or value is vars(Procedure).get(name) or value is None:
        return f"`{name}` is missing: define it as `async def {name}(self, ctx)`"
    if isinstance(value, (staticmethod, classmethod)):
        return f"`{name}` must be an ordinary method: `async def {name}(self, ctx)`"
    if inspect.isasyncgenfunction(value):
        return f"`{name}` must be `async def` without `yield` in it"
    if not inspect.iscoroutinefunction(value):
        return f"`{name}` must be `async def`"
    try:
        inspect.signature(value).bind(None, None)
    except TypeError:
        return f"`{name}` must take one argument besides self: `async def {name}(self, ctx)`"
    return None


def _from_config_fault(cls: type) -> str | None:
    value = _static(cls, "from_config")
    if value is _MISSING or isinstance(value, (classmethod, staticmethod)):
        return None
    return "`from_config` must be a classmethod: `@classmethod def from_config(cls, raw)`"


def _plan_capture_fault(cls: type) -> str | None:
    value = _static(cls, "plan_capture")
    if value is _MISSING:
        return None
    if inspect.iscoroutinefunction(value) or not callable(value):
        return "`plan_capture` must be an ordinary `def plan_capture(self, default_plan)`"
    return None


def _handlers_fault(cls: type) -> str | None:
    value = _static(cls, "custom_handler_ids")
    if value is _MISSING:
        return None
    if isinstance(value, (tuple, frozenset)) and all(isinstance(one, str) for one in value):
        return None
    return "`custom_handler_ids` must be a tuple of strings, declared as ClassVar[tuple[str, ...]]"


_OPTIONAL: tuple[Callable[[type], str | None], ...] = (
    _from_config_fault,
    _plan_capture_fault,
    _handlers_fault,
)


def _static(cls: type, name: str) -> Any:  # noqa: ANN401 - a plug-in may put anything there
    """Look an attribute up as the class has it, without running a descriptor of the plug-in."""
    return inspect.getattr_static(cls, name, _MISSING)


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    noun = "None" if value is None else type(value).__name__
    return noun if value is None else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
