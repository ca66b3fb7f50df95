"""Where a run is, in numbers and in one line for a person."""

from dataclasses import dataclass, replace

import trio

from capa.channels.registry import ChannelRegistry
from capa.experiment.executor import MethodExecutor, StepActivity
from capa.runtime.databus import DataBus

__all__ = ["RunProgress", "progress_of", "spoken_s"]

_MINUTE_S, _HOUR_S = 60, 3600


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run's place in its method; ``step`` counts from 1 and is 0 where no step runs.

    ``from_value`` is where the target is now, ``to_value`` where the step takes it. ``within``
    names the part of a longer undertaking (``replicate 2/5``), ``status`` is the procedure's own
    word on it (``ctx.metadata["status"]``).
    """

    run_id: str
    method: str | None
    step: int
    steps: int
    kind: str = ""
    target: str | None = None
    unit: str = ""
    from_value: float | None = None
    to_value: float | None = None
    condition: str = ""
    seconds_left: float | None = None
    within: str = ""
    status: str = ""
    ending: str = ""
    """What is done once the procedure is over: the run's steps are no news then."""

    def describe(self) -> str:
        """Return e.g. ``step 3/7 ramp heater.setpoint 412.5 -> 600 degC, 12 min left``."""
        doing = (self.ending,) if self.ending else (self.status, self._place())
        return ": ".join(part for part in (self.within, *doing) if part)

    def _place(self) -> str:
        if not self.step:
            if self.status:
                return ""
            return "recording" if self.method is None else f"{self.method}: between steps"
        words = [f"step {self.step}/{self.steps}", self.kind, self.target or "", self._values()]
        line = " ".join(word for word in words if word)
        if self.condition:
            line += f" until {self.condition}"
        if self.seconds_left:
            line += f", {spoken_s(self.seconds_left)} left"
        return line

    def _values(self) -> str:
        if self.to_value is None:
            return ""
        start = "" if self.from_value is None else f"{self.from_value:.1f} -> "
        return f"{start}{self.to_value:g} {self.unit}".rstrip()


def progress_of(
    run_id: str,
    executor: MethodExecutor,
    bus: DataBus,
    registry: ChannelRegistry,
    *,
    within: str = "",
    status: str = "",
    ending: str = "",
) -> RunProgress:
    """Look at an executor and say where it is."""
    found = _place_of(run_id, executor, bus, registry)
    if not (within or status or ending):
        return found
    return replace(found, within=within, status=status, ending=ending)


def _place_of(
    run_id: str, executor: MethodExecutor, bus: DataBus, registry: ChannelRegistry
) -> RunProgress:
    method, activity = executor.method, executor.activity
    name = None if method is None else method.name
    steps = 0 if method is None else len(method.steps)
    if activity is None:
        return RunProgress(run_id, name, 0, steps)
    return _of_step(run_id, name, steps, activity, bus, registry)


def _of_step(
    run_id: str,
    method: str | None,
    steps: int,
    activity: StepActivity,
    bus: DataBus,
    registry: ChannelRegistry,
) -> RunProgress:
    step = activity.step
    target = getattr(step, "target", None)
    name = None if target is None else target.name
    latest = None if name is None else bus.latest(name)
    condition = activity.condition
    left_s = None if activity.ends_at_s is None else activity.ends_at_s - trio.current_time()
    return RunProgress(
        run_id=run_id,
        method=method,
        step=activity.index + 1,
        steps=max(steps, activity.index + 1),
        kind=step.kind,
        target=name,
        unit=registry.resolve(name).spec.unit if name is not None and name in registry else "",
        from_value=latest.value if latest is not None and latest.usable else None,
        to_value=getattr(step, "end_value", getattr(step, "value", None)),
        condition=f"{condition.channel} {condition.op} {condition.value:g}" if condition else "",
        seconds_left=None if left_s is None else max(0.0, left_s),
    )


def spoken_s(seconds: float) -> str:
    """Say how long that is, e.g. ``2 h 5 min``."""
    if seconds >= _HOUR_S:
        return f"{int(seconds // _HOUR_S)} h {int(seconds % _HOUR_S // _MINUTE_S)} min"
    if seconds >= _MINUTE_S:
        return f"{round(seconds / _MINUTE_S)} min"
    return f"{round(seconds)} s"
