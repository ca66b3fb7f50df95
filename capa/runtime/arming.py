"""What must hold before a run is armed; nothing here touches a device or a bundle."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import trio
from pydantic import ValidationError

from capa.channels.registry import ChannelRegistry
from capa.config.explain import did_you_mean
from capa.config.problems import Problem
from capa.errors import said_by
from capa.experiment.procedures.base import (
    ChannelRequirement,
    Procedure,
    ProcedureContext,
    ProcedureError,
    ResolvedRecordingPlan,
)
from capa.runtime.lag import watch_lag
from capa.runtime.rig import Rig

__all__ = [
    "PREFLIGHT_BUDGET_S",
    "NoBundleYet",
    "blocked",
    "is_blocking",
    "make_procedure",
    "plan_recording",
    "procedure_problems",
    "rig_problems",
]

PREFLIGHT_BUDGET_S = 10.0


class NoBundleYet:
    """Stands where the bundle writer will be, and refuses: preflight comes before the bundle."""

    def write_event(self, **_event: object) -> NoReturn:
        """Refuse."""
        raise ProcedureError("preflight can't write events: the bundle is opened after it")


def is_blocking(problem: Problem) -> bool:
    """Whether a problem stands against arming."""
    return problem.blocking


def make_procedure(
    cls: type[Procedure], config: Mapping[str, Any], version: str | None
) -> Procedure | list[Problem]:
    """Make a procedure from ``procedure.config``, or say what is wrong with it."""
    if version is not None and version != cls.version:
        return [
            Problem(
                code="procedure.version",
                message=f"the experiment asks for {cls.id} {version}, installed is {cls.version}",
                hint="install that version, or change the experiment",
            )
        ]
    try:
        made = _construct(cls, dict(config))
    except ValidationError as error:
        return [_config_problem(cls, detail) for detail in error.errors()]
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a constructor may raise anything
        return [_raised(cls, "from_config", error)]
    if not (hasattr(made, "preflight") and hasattr(made, "run")):
        return [
            Problem(
                code="procedure.from_config_result",
                message=f"{cls.id}: from_config returned {made!r}",
                hint="return an instance of the class, as in `return cls(...)`",
            )
        ]
    return made


def _construct(cls: type[Procedure], config: dict[str, Any]) -> Procedure:
    from_config = getattr(cls, "from_config", None)
    if from_config is not None:
        made: Procedure = from_config(config)
        return made
    return cls(**cls.config_model.model_validate(config).model_dump())


def _config_problem(cls: type[Procedure], detail: Mapping[str, Any]) -> Problem:
    place = ".".join(str(part) for part in detail["loc"])
    return Problem(
        code="procedure.config",
        where=f"procedure.config.{place}" if place else "procedure.config",
        message=f"{cls.id}: {detail['msg']} (got {detail['input']!r})",
        hint="known keys: " + ", ".join(cls.config_model.model_fields),
    )


def plan_recording(
    procedure: Procedure, registry: ChannelRegistry
) -> ResolvedRecordingPlan | list[Problem]:
    """Ask the procedure what to record, once; without an answer everything is recorded."""
    cls, default = type(procedure), ResolvedRecordingPlan(recorded_channels=registry.names)
    try:
        plan_capture = getattr(procedure, "plan_capture", None)
        plan = default if plan_capture is None else plan_capture(default)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything
        return [_raised(cls, "plan_capture", error)]
    if plan is None:
        return default
    if not isinstance(plan, ResolvedRecordingPlan):
        return [
            Problem(
                code="procedure.plan_capture_result",
                message=f"{cls.id}: plan_capture returned {plan!r}",
                hint="return a ResolvedRecordingPlan, or None to record everything",
            )
        ]
    unknown = [name for name in plan.recorded_channels if name not in registry]
    return [_unknown_recorded(cls, name, registry) for name in unknown] or plan


def _unknown_recorded(cls: type[Procedure], name: str, registry: ChannelRegistry) -> Problem:
    return Problem(
        code="procedure.plan_capture_channel",
        message=f"{cls.id}: plan_capture asks for {name!r}, and no channel is called so",
        hint=did_you_mean(str(name), registry.names),
    )


async def procedure_problems(
    rig: Rig, procedure: Procedure, ctx: ProcedureContext, *, budget_s: float = PREFLIGHT_BUDGET_S
) -> list[Problem]:
    """Return what the procedure lacks on this rig, and what it says itself."""
    problems, lags_s = _requirement_problems(rig, procedure), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_lag, lags_s.append, time.perf_counter())
        problems += await _own_problems(procedure, ctx, budget_s)
        nursery.cancel_scope.cancel()
    return problems + [blocked(type(procedure), "preflight", lag_s) for lag_s in lags_s]


def blocked(cls: type[Procedure], where: str, lag_s: float) -> Problem:
    """Name who blocked the loop before the run; not reason enough to refuse it."""
    return Problem(
        code="procedure.blocked_loop",
        message=f"{cls.id}: {where} blocked the loop for {lag_s:.1f} s: nothing on the rig went on",
        blocking=False,
        hint="have it compute and read files in anyio.to_thread.run_sync",
    )


def rig_problems(
    rig: Rig, *, trip: str, raised: Mapping[str, str] = MappingProxyType({})
) -> list[Problem]:
    """A tripped rig, one with a silent device that must answer, or in alarm, arms nothing."""
    problems = [
        Problem(
            code="rig.alarm",
            message=words,
            where=rule,
            hint="the run can begin once this has cleared",
        )
        for rule, words in raised.items()
    ]
    if trip:
        problems.append(
            Problem(
                code="rig.tripped",
                message=f"the rig is tripped: {trip}",
                hint="mend the cause, then: capa safety clear --by NAME --reason TEXT",
            )
        )
    silent = (spec for spec in rig.profile.devices if not rig.answers(spec.name))
    return problems + [
        Problem(
            code="rig.device_silent",
            message=f"{spec.name} does not answer: {rig.health(spec.name).detail}",
            blocking=spec.required,
            where=f"device {spec.name} on link {spec.link}",
            hint="check power, cable and address",
        )
        for spec in silent
    ]


def _requirement_problems(rig: Rig, procedure: Procedure) -> list[Problem]:
    offered = {flag for device in rig.devices.values() for flag in device.capabilities}
    missing = [flag for flag in procedure.required_capabilities if flag not in offered]
    problems = [
        Problem(
            code="procedure.capability",
            message=f"{procedure.id} needs a device that can {flag!r}; {rig.profile_file} has none",
        )
        for flag in missing
    ]
    lacking = (wanted for wanted in procedure.required_channels if not _has(rig, wanted))
    return problems + [_channel_problem(rig, procedure, wanted) for wanted in lacking]


def _has(rig: Rig, wanted: ChannelRequirement) -> bool:
    specs = (rig.registry.resolve(name).spec for name in rig.registry.names)
    return any(
        wanted.name in (None, spec.name)
        and wanted.kind in (None, spec.kind)
        and (spec.commandable or not wanted.commandable)
        for spec in specs
    )


def _channel_problem(rig: Rig, procedure: Procedure, wanted: ChannelRequirement) -> Problem:
    what = " ".join(
        part
        for part in (
            "a commandable" if wanted.commandable else "a",
            f"{wanted.kind} channel" if wanted.kind else "channel",
            f"called {wanted.name!r}" if wanted.name else "",
        )
        if part
    )
    return Problem(
        code="procedure.channel",
        message=f"{procedure.id} needs {what}; {rig.profile_file} has none",
        hint=wanted.reason or None,
    )


async def _own_problems(
    procedure: Procedure, ctx: ProcedureContext, budget_s: float
) -> list[Problem]:
    """Ask the procedure itself, within a deadline; a raise or rubbish is one blocking problem."""
    cls, began_s = type(procedure), time.perf_counter()
    with trio.move_on_after(budget_s):
        try:
            problems = await procedure.preflight(ctx)
        except ProcedureError as error:
            return [Problem(code="procedure.error", message=str(error))]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything
            return [_raised(cls, "preflight", error)]
        if time.perf_counter() - began_s > budget_s:
            return [_late(cls, budget_s)]  # it blocked the loop: no deadline wakes in there
        if isinstance(problems, list) and all(isinstance(one, Problem) for one in problems):
            return problems
        return [
            Problem(
                code="procedure.preflight_result",
                message=f"{cls.id}: preflight returned {problems!r}",
                hint="return a list of Problem; an empty one means: good to arm",
            )
        ]
    return [_late(cls, budget_s)]


def _late(cls: type[Procedure], budget_s: float) -> Problem:
    return Problem(
        code="procedure.preflight_hangs",
        message=f"{cls.id}: preflight did not return within {budget_s:g} s",
        hint="preflight checks configuration; waiting and device reads belong into run",
    )


def _raised(cls: type[Procedure], where: str, error: BaseException) -> Problem:
    return Problem(
        code=f"procedure.{where}_raised",
        message=f"{cls.id}: {where} raised {said_by(error)}",
        hint="report this to the author of the procedure",
    )
