"""What a device's polls cost its line, as far as its family knows beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from capa.devices.spec import DeviceSpec, LinkSpec

__all__ = ["ExchangeCost", "TellsPollCost"]


@dataclass(frozen=True, slots=True)
class ExchangeCost:
    """One kind of exchange that a poll consists of.

    ``request`` and ``reply`` are characters on the wire. ``reply_s`` is how long the device
    thinks in between, as its manual or a measurement has it; ``gap_s`` the silence that its
    protocol wants before a request. ``per_poll`` is how many of it a poll takes on average: one
    that is made at every fifth poll costs 0.2.
    """

    request: int
    reply: int
    reply_s: float = 0.0
    gap_s: float = 0.0
    per_poll: float = 1.0

    def line_s(self, link: LinkSpec) -> float:
        """How long one poll's share of it occupies a line; an echo takes no time of its own."""
        gap_s = self.gap_s if link.gap_s is None else link.gap_s
        wire_s = (self.request + self.reply) * link.character_s
        return self.per_poll * (gap_s + wire_s + self.reply_s)


@runtime_checkable
class TellsPollCost(Protocol):
    """An ``AdapterFamily`` whose polls can be held against their line; optional.

    Devices of a family without it are left out of the sum, which then is too small.
    """

    def poll_cost(self, spec: DeviceSpec) -> Sequence[ExchangeCost]:
        """Return the exchanges of one poll; no I/O.

        Raises:
            ValueError: the options do not fit the family.
        """
        ...
