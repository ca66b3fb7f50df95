"""Can the devices of a line be on it together: their addresses, and what their families say."""

from collections.abc import Hashable, Iterator, Sequence

from capa.config.draft import Draft
from capa.config.explain import shown
from capa.config.problems import Problem
from capa.devices.neighbours import ComparesAddresses, JudgesNeighbours, LineTrouble
from capa.devices.spec import DeviceSpec

__all__ = ["addresses", "neighbour_problems", "written"]


def addresses(device: DeviceSpec, family: object) -> Sequence[Hashable]:
    """Return what no other device may have: its address as written, and as its family takes it."""
    as_written = (device.link, device.address)
    if not isinstance(family, ComparesAddresses):
        return [as_written]
    try:
        return [as_written, (device.link, device.adapter, family.address_of(device))]
    except ValueError:
        return [as_written]  # reported with the options


def written(device: DeviceSpec) -> str:
    """Show the address that a profile gives a device."""
    return "none, for the usual one" if device.address is None else shown(device.address)


def neighbour_problems(draft: Draft) -> Iterator[Problem]:
    """Ask each device's family whether it can share its line with the others on it."""
    for index, device in draft.devices.items():
        others = [
            one for one in draft.devices.values() if one.link == device.link and one is not device
        ]
        for trouble in _troubles(device, others, draft.families.get(device.adapter)):
            option = () if trouble.option is None else ("options", trouble.option)
            yield draft.problem(
                "shared_line",
                ("devices", index, *option),
                trouble.message,
                trouble.hint,
                blocking=trouble.blocking,
            )


def _troubles(
    device: DeviceSpec, others: Sequence[DeviceSpec], family: object
) -> Sequence[LineTrouble]:
    if not others or not isinstance(family, JudgesNeighbours):
        return []
    try:
        return family.beside(device, others)
    except ValueError:
        return []  # reported with the options
