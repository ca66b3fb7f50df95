"""What a family can ask a port to find out whether one of its instruments is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["LineSettings", "OffersProbes", "Probe"]


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How a serial line may be set; the fields are those of a profile's link."""

    baud: int = 9600
    bytesize: int = 8
    parity: str = "N"
    stopbits: int = 1

    def __str__(self) -> str:
        """Return it as people write it: ``9600 8N1``."""
        return f"{self.baud} {self.bytesize}{self.parity}{self.stopbits}"


@dataclass(frozen=True, slots=True)
class Probe:
    """One question that changes nothing, for one address at one speed.

    ``request`` must be a pure read, to any instrument that might hear it and not only to this
    family's. ``asks`` says in words what it is ("read register 1880 of unit 3"). ``recognise``
    is given every byte that came back, and returns who answered ("EZ-ZONE PM"), or None if that
    was none of ours, or not yet all of it.
    """

    line: LineSettings
    address: int | str | None
    request: bytes
    asks: str
    recognise: Callable[[bytes], str | None]
    reply_s: float = 0.15
    """How long to listen; the wire's own time is added."""


@runtime_checkable
class OffersProbes(Protocol):
    """An ``AdapterFamily`` that ``capa devices discover`` can look for; optional."""

    def probes(self) -> Sequence[Probe]:
        """Return what to ask, the likeliest first; no I/O."""
        ...
