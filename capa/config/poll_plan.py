"""Can each line carry the polls that its devices are to have: the sum, before anything starts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from capa.config.draft import Draft
from capa.config.problems import Problem
from capa.devices.adapter import AdapterFamily
from capa.devices.poll_cost import TellsPollCost
from capa.devices.spec import DeviceSpec, LinkSpec

__all__ = ["LinePlan", "PollShare", "line_plans", "poll_plan_problems"]

FULL: Final = 1.0
TIGHT: Final = 0.9
"""Above this a command finds the line busy nearly always, and a retry has no room."""
_NOT_TIMED: Final = frozenset({"tcp"})
"""Transports without a speed of their own."""


@dataclass(frozen=True, slots=True)
class PollShare:
    """What one device takes of its line."""

    device: str
    poll_s: float
    poll_hz: float

    @property
    def share(self) -> float:
        """The share of the line's time; 1 is all of it."""
        return self.poll_s * self.poll_hz


@dataclass(frozen=True, slots=True)
class LinePlan:
    """What the polls of all devices take of one line.

    ``unknown`` are devices whose families do not tell; they are not in the sum.
    """

    link: str
    shares: tuple[PollShare, ...]
    unknown: tuple[str, ...] = ()

    @property
    def load(self) -> float:
        """The share of the line's time that is needed; more than 1 can't be had."""
        return sum(share.share for share in self.shares)

    def __str__(self) -> str:
        """Say the sum: ``needs 14.2 ms of every 10 ms: heater 9.1 ms, ...``."""
        period_s = 1 / max((share.poll_hz for share in self.shares), default=1.0)
        parts = ", ".join(
            f"{share.device} {share.share * period_s * 1000:.3g} ms "
            f"({share.poll_s * 1000:.3g} ms a poll at {share.poll_hz:g} Hz)"
            for share in self.shares
        )
        return (
            f"needs {self.load * period_s * 1e3:.3g} ms of every {period_s * 1e3:.3g} ms: {parts}"
        )

    @property
    def remedy(self) -> str:
        """Say which lower rate would do, or that the line has to be faster."""
        return (
            f"multiply every poll_hz on it by {TIGHT / self.load:.2g} or less, raise the baud rate "
            "here and at the instruments, or put some of them on a line of their own"
        )


def line_plans(
    links: Iterable[LinkSpec],
    devices: Sequence[DeviceSpec],
    families: Mapping[str, AdapterFamily],
) -> Iterator[LinePlan]:
    """Yield the sum for each line that has a speed; devices with bad options are left out."""
    for link in links:
        if link.transport in _NOT_TIMED or link.port.startswith("socket://"):
            continue
        shares, unknown = [], []
        for device in devices:
            if device.link != link.name:
                continue
            poll_s = _poll_s(device, link, families.get(device.adapter))
            if poll_s is None:
                unknown.append(device.name)
            else:
                shares.append(PollShare(device.name, poll_s, device.poll_hz))
        yield LinePlan(link.name, tuple(shares), tuple(unknown))


def _poll_s(device: DeviceSpec, link: LinkSpec, family: object) -> float | None:
    if not isinstance(family, TellsPollCost):
        return None
    try:
        costs = family.poll_cost(device)
    except ValueError:
        return None  # reported with the device's options
    return sum(cost.line_s(link) for cost in costs)


def poll_plan_problems(draft: Draft) -> Iterator[Problem]:
    """Report lines that can't carry their polls, and those that only just can."""
    index_of = {link.name: index for index, link in draft.links.items()}
    devices = list(draft.devices.values())
    for plan in line_plans(draft.links.values(), devices, draft.families):
        if plan.load <= TIGHT:
            continue
        path = ("links", index_of[plan.link])
        message = f"polling its devices {plan}"
        full = plan.load > FULL
        code = "line_too_slow" if full else "line_nearly_full"
        yield draft.problem(code, path, message, plan.remedy, blocking=full)
