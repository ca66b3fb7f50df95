"""A step's ``safety_overrides``: put in force for its length, on record, always restored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from capa.experiment.method import AlarmOverride
from capa.runtime.active import ActiveRun
from capa.runtime.safety_book import RuleBook

__all__ = ["overriding"]


@contextmanager
def overriding(
    active: ActiveRun, rules: RuleBook | None, overrides: Sequence[AlarmOverride], step: str
) -> Iterator[None]:
    """Put a step's overrides in force, on record; restored however the step ends."""
    if rules is None:
        yield
        return
    ids = sorted({override.alarm_id for override in overrides})
    try:
        with rules.overridden(overrides):
            _tell(active, rules, "applied", ids, step)
            yield
    finally:
        _tell(active, rules, "restored", ids, step)


def _tell(active: ActiveRun, rules: RuleBook, what: str, ids: Sequence[str], step: str) -> None:
    settings = {alarm_id: rules.in_force(alarm_id) for alarm_id in ids}
    said = ", ".join(f"alarm {alarm_id} {setting}" for alarm_id, setting in settings.items())
    active.log.warning("safety.override", message=f"{step}: {what}: {said}")
    active.event(
        f"safety.override.{what}",
        f"{step}: {said}",
        severity="warning",
        metadata={"step": step, "alarms": settings},
        source="safety",
    )
