"""Waiting for a channel to satisfy a condition, woken by its samples."""

import operator
from collections.abc import Callable, Mapping
from enum import StrEnum

import trio

from capa.channels.sample import Sample
from capa.errors import CapaError
from capa.experiment.method import EndCondition
from capa.experiment.procedures.base import DataSource, Stop

__all__ = ["SilentChannelError", "WaitEnd", "first_of", "satisfied_by", "until_satisfied"]

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}


class WaitEnd(StrEnum):
    """What ended a wait."""

    CONDITION = "condition"
    DURATION = "duration"
    TIMEOUT = "timeout"
    STOPPED = "stopped"


class SilentChannelError(CapaError):
    """A channel that somebody waits for has brought nothing usable for too long."""


def satisfied_by(condition: EndCondition, sample: Sample) -> bool:
    """Whether a sample ends the wait; an unusable one (NaN, sensor fault) never does."""
    return sample.usable and _COMPARE[condition.op](sample.value, condition.value)


async def until_satisfied(bus: DataSource, condition: EndCondition, stale_after_s: float) -> None:
    """Return at the first sample that satisfies; only samples from now on count.

    Raises:
        SilentChannelError: no usable sample for ``stale_after_s``. Error samples of a dead
            device are not a sign of life.
    """
    with bus.subscribe(condition.channel) as feed:
        patience = trio.CancelScope(deadline=trio.current_time() + stale_after_s)
        with patience:
            while True:
                for sample in await feed.get():
                    if satisfied_by(condition, sample):
                        return
                    if sample.usable:
                        patience.deadline = trio.current_time() + stale_after_s
    raise SilentChannelError(
        f"{condition.channel}: no usable sample for {stale_after_s:g} s while waiting for "
        f"{condition.op} {condition.value:g}; check the device behind the channel"
    )


async def first_of(
    bus: DataSource, condition: EndCondition | None, stale_after_s: float, stop: Stop
) -> WaitEnd:
    """Return at the condition or at the stop, whichever comes first.

    Raises:
        SilentChannelError: the condition's channel stopped delivering.
    """
    if condition is None:
        await stop.wait()
        return WaitEnd.STOPPED
    ends: list[WaitEnd | SilentChannelError] = []
    async with trio.open_nursery() as race:

        async def watch_channel() -> None:
            try:
                await until_satisfied(bus, condition, stale_after_s)
            except SilentChannelError as silence:
                ends.append(silence)
            else:
                ends.append(WaitEnd.CONDITION)
            race.cancel_scope.cancel()

        async def watch_stop() -> None:
            await stop.wait()
            ends.append(WaitEnd.STOPPED)
            race.cancel_scope.cancel()

        race.start_soon(watch_channel)
        race.start_soon(watch_stop)
    if isinstance(ends[0], SilentChannelError):
        raise ends[0]
    return ends[0]
