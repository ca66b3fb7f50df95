"""What a method is going to do, as a table of times, before anything does it."""

from collections.abc import Mapping, Sequence

from capa.config.hardware import SafeStage
from capa.experiment.method import (
    EndCondition,
    HoldStep,
    Method,
    RampStep,
    SafeShutdownStep,
    SetpointStep,
    Step,
    WaitStep,
)
from capa.experiment.procedures.base import ChannelRequirement, Procedure

__all__ = ["outline", "outline_config"]


def outline(method: Method, units: Mapping[str, str], start: Mapping[str, float]) -> list[str]:
    """Return one line a step: when it begins, what it does, how long it takes.

    ``units`` are the channels' units, ``start`` is what the outputs are when the run begins. Past
    a step that takes as long as it takes, times count from its end.
    """
    known = dict(start)
    lines, at_s, since = [], 0.0, ""
    for number, step in enumerate(method.steps, 1):
        took_s = _duration_s(step, known)
        lines.append(f"{_clock(at_s)}{since}  step {number} {_words(step, units)}{_takes(took_s)}")
        if took_s is None:
            at_s, since = 0.0, f" after step {number}"
        else:
            at_s += took_s
        _remember(step, known)
    lines.append(f"{_clock(at_s)}{since}  end: the rig's safe state is driven and proven")
    return lines


def _duration_s(step: Step, known: Mapping[str, float]) -> float | None:
    if isinstance(step, HoldStep | WaitStep) and step.end_condition is not None:
        return None
    if isinstance(step, RampStep) and step.duration_s is None:
        start = known.get(step.target.name) if step.start_value is None else step.start_value
        if start is None or not step.rate_per_second:
            return None
        return abs(step.end_value - start) / abs(step.rate_per_second)
    if isinstance(step, SetpointStep):
        return 0.0
    duration_s: float | None = getattr(step, "duration_s", None)
    return 0.0 if isinstance(step, SafeShutdownStep) and duration_s is None else duration_s


def _remember(step: Step, known: dict[str, float]) -> None:
    match step:
        case HoldStep() | SetpointStep():
            known[step.target.name] = step.value
        case RampStep():
            known[step.target.name] = step.end_value
        case SafeShutdownStep():
            known.update(step.cool_target)
        case _:
            pass


def _words(step: Step, units: Mapping[str, str]) -> str:
    target = getattr(step, "target", None)
    value = getattr(step, "end_value", getattr(step, "value", None))
    words: list[str] = [step.kind]
    if target is not None:
        words += [target.name, f"-> {value:g} {units.get(target.name, '')}".rstrip()]
    if isinstance(step, SafeShutdownStep):
        words += [f"{name} -> {value:g}" for name, value in step.cool_target.items()]
    condition: EndCondition | None = getattr(step, "end_condition", None)
    if condition is not None:
        unit = units.get(condition.channel, "")
        words.append(
            f"until {condition.channel} {condition.op} {condition.value:g} {unit}".rstrip()
        )
    longest_s = getattr(step, "timeout_s", None) or (condition and getattr(step, "duration_s", 0))
    if longest_s:
        words.append(f"(at most {longest_s:g} s)")
    said = getattr(step, "message", None) or getattr(step, "handler_id", None) or step.notes
    return " ".join(words) + (f" ({said})" if said else "")


def _takes(took_s: float | None) -> str:
    if took_s is None:
        return ", as long as it takes"
    return f", {took_s:g} s" if took_s else ""


def _clock(at_s: float) -> str:
    minutes, seconds = divmod(round(at_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def outline_config(
    cls: type[Procedure], config: Mapping[str, object], stages: Sequence[SafeStage]
) -> list[str]:
    """Return what is known of a run that its procedure's own code drives: its settings.

    Those that the experiment does not give are shown with their defaults.
    """
    about = (cls.__doc__ or cls.name).strip().splitlines()[0]
    settings = cls.config_model.model_validate(dict(config)).model_dump(mode="json")
    lines = [f"{cls.name} {cls.version}: {about}", "no steps: its own code decides, with"]
    lines += [f"  {key} = {value!r}" for key, value in settings.items()]
    lines += [f"needs {_wanted(one)}" for one in cls.required_channels]
    first = stages[0].set if stages else {}
    safe = ", ".join(f"{name} = {value:g}" for name, value in first.items())
    lines.append(f"end: the rig's safe state is driven and proven ({safe or 'nothing to drive'})")
    return lines


def _wanted(one: ChannelRequirement) -> str:
    what = f"channel {one.name}" if one.name else f"a channel of kind {one.kind}"
    return f"{what}{', commandable' if one.commandable else ''}"
