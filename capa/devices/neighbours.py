"""What a family knows of sharing a line: when two addresses are one, who can't stand whom."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from capa.devices.spec import DeviceSpec

__all__ = ["ComparesAddresses", "JudgesNeighbours", "LineTrouble"]


@dataclass(frozen=True, slots=True)
class LineTrouble:
    """Why a device can't share its line with the others, or had better not.

    ``option`` is the one in ``[devices.options]`` that it is about. ``blocking`` says that the
    profile must not load.
    """

    message: str
    hint: str | None = None
    option: str | None = None
    blocking: bool = True


@runtime_checkable
class ComparesAddresses(Protocol):
    """An ``AdapterFamily`` in which one address may be written in several ways; optional.

    Without it two devices have the same address where the profile says the same.
    """

    def address_of(self, spec: DeviceSpec) -> Hashable:
        """Return what the device answers to; equal for two that would answer together.

        Raises:
            ValueError: it is no address of this family.
        """
        ...


@runtime_checkable
class JudgesNeighbours(Protocol):
    """An ``AdapterFamily`` to whose devices it matters who else is on their line; optional."""

    def beside(self, spec: DeviceSpec, others: Sequence[DeviceSpec]) -> Sequence[LineTrouble]:
        """Return what is wrong with a device on a line with these others, of any family; no I/O.

        Raises:
            ValueError: the options do not fit the family.
        """
        ...
