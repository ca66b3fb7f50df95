"""Driving the rig to its safe state, and proving that it got there.

A verdict is a value, recorded inside a shield that always has a deadline: an exception raised in
a cancelled scope can be swallowed by the next checkpoint. Children record and never raise, for a
child that raises would cancel its siblings and leave their valves open.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import trio

from capa.devices.link import Priority
from capa.runtime.rig import Rig

__all__ = ["ChannelVerdict", "Verdict", "all_proven", "drive_safe_state", "newest"]

RETRY_PAUSE_S = 0.05
ATTEMPT_BUDGET_S = 2.0
"""What one write may take before the others on its link get their turn again."""

OnWrite = Callable[[str, float], None]


class Verdict(StrEnum):
    """What is known of an output that was driven to its safe value.

    An output that was read back at another value is *unreachable*: its safe value was not
    reached, whatever the device acknowledged.
    """

    PROVEN = "proven"
    COMMANDED = "commanded"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class ChannelVerdict:
    """One output's verdict; ``value`` and ``readback`` in the channel's unit."""

    channel: str
    value: float
    verdict: Verdict
    readback: float | None
    detail: str
    at_s: float


def all_proven(verdicts: Mapping[str, ChannelVerdict]) -> bool:
    """Whether every output was read back at its safe value."""
    return all(verdict.verdict is Verdict.PROVEN for verdict in verdicts.values())


def newest(
    verdicts: Mapping[str, ChannelVerdict], known: Mapping[str, ChannelVerdict]
) -> dict[str, ChannelVerdict]:
    """Return ``verdicts``, or of an output what is ``known`` of it where that is newer.

    A run's verdicts arrive when its bundle is sealed; the safety monitor may meanwhile have reached
    an output that the run's end did not, or lost one that it did.
    """
    return {
        name: max(verdict, known.get(name, verdict), key=lambda one: one.at_s)
        for name, verdict in verdicts.items()
    }


async def drive_safe_state(
    rig: Rig, *, budget_s: float, stage: int = 0, on_write: OnWrite | None = None
) -> dict[str, ChannelVerdict]:
    """Write a stage's values, all links in parallel, and retry until proven or out of budget.

    Never raises, and is not interrupted by a cancellation from outside: it ends by itself within
    ``budget_s``. Whatever is not answered for by then is *unreachable*. ``on_write`` hears of
    each value before it is sent.
    """
    stages = rig.profile.safe_state
    wanted = stages[stage].set if stage < len(stages) else {}
    silence = f"no answer within {budget_s:g} s"
    verdicts = {
        channel: _verdict(channel, value, Verdict.UNREACHABLE, silence)
        for channel, value in wanted.items()
    }
    with trio.move_on_after(budget_s, shield=True):
        async with trio.open_nursery() as nursery:
            for writes in _by_link(rig, wanted).values():
                nursery.start_soon(_drive_link, rig, writes, verdicts, on_write)
    return verdicts


def _by_link(rig: Rig, wanted: Mapping[str, float]) -> Mapping[str, dict[str, float]]:
    writes: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for channel, value in wanted.items():
        writes[rig.link_of(channel)][channel] = value
    return writes


async def _drive_link(
    rig: Rig,
    writes: Mapping[str, float],
    verdicts: dict[str, ChannelVerdict],
    on_write: OnWrite | None,
) -> None:
    """Write and judge every output of one link, again and again until each is settled."""
    pending = dict(writes)
    while pending:
        for channel, value in tuple(pending.items()):
            if on_write is not None:
                on_write(channel, value)
            verdicts[channel] = await _attempt(rig, channel, value, verdicts[channel])
            if verdicts[channel].verdict is not Verdict.UNREACHABLE:
                del pending[channel]
        await trio.sleep(RETRY_PAUSE_S if pending else 0)


async def _attempt(rig: Rig, channel: str, value: float, before: ChannelVerdict) -> ChannelVerdict:
    """Write once and judge the answer; whatever goes wrong is a verdict, not an exception."""
    with trio.move_on_after(ATTEMPT_BUDGET_S):
        try:
            return await _write_and_judge(rig, channel, value)
        except Exception as error:  # noqa: BLE001 - recorded; raising would cancel the siblings
            detail = f"{type(error).__name__}: {error}"
            return _verdict(channel, value, Verdict.UNREACHABLE, detail, before.readback)
    detail = f"the driver did not return within {ATTEMPT_BUDGET_S:g} s"
    return _verdict(channel, value, Verdict.UNREACHABLE, detail, before.readback)


async def _write_and_judge(rig: Rig, channel: str, value: float) -> ChannelVerdict:
    ack = await rig.write(channel, value, priority=Priority.SAFE)
    if not ack.accepted:
        detail = f"refused by the device: {ack.detail}"
        return _verdict(channel, value, Verdict.UNREACHABLE, detail, ack.readback)
    if ack.readback is None:
        return _verdict(channel, value, Verdict.COMMANDED, "accepted; it can't be read back")
    tolerance = rig.tolerance(channel)
    if abs(ack.readback - value) <= tolerance:
        return _verdict(channel, value, Verdict.PROVEN, f"read back {ack.readback:g}", ack.readback)
    detail = f"accepted, but reads back {ack.readback:g}, not {value:g} (within {tolerance:g})"
    return _verdict(channel, value, Verdict.UNREACHABLE, detail, ack.readback)


def _verdict(
    channel: str, value: float, verdict: Verdict, detail: str, readback: float | None = None
) -> ChannelVerdict:
    return ChannelVerdict(channel, value, verdict, readback, detail, trio.current_time())
