"""A few devices, opened to be looked at: no poll loops, no channels, nothing is written."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from capa.devices.adapter import AdapterFamily, DeviceAdapter
from capa.devices.link import Connector
from capa.devices.registry import LinkClass, RunnableLink
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.devices.tap import Passed, tapped

__all__ = ["OpenDevice", "Tell", "open_devices"]

Tell = Callable[[str, Passed], None]
"""Hears of every chunk, with the name of its link."""


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """A device, its driver, and the link that it is on."""

    spec: DeviceSpec
    link_spec: LinkSpec
    link: RunnableLink
    adapter: DeviceAdapter


@asynccontextmanager
async def open_devices(
    links: Sequence[LinkSpec],
    devices: Sequence[DeviceSpec],
    *,
    families: Mapping[str, AdapterFamily],
    connectors: Mapping[str, Connector],
    link_class: LinkClass,
    only: Collection[str] | None = None,
    tell: Tell | None = None,
) -> AsyncIterator[Mapping[str, OpenDevice]]:
    """Open the links of some devices (all unless ``only`` says which); yield them by name.

    Links that do not open say why in ``why_down``, and are tried again meanwhile. ``connectors``
    are found by a link's name first, then by its transport.

    Raises:
        LookupError: a family or a transport that is not installed.
    """
    chosen = [spec for spec in devices if only is None or spec.name in only]
    by_name = {spec.name: spec for spec in links}
    async with trio.open_nursery() as nursery:
        running: dict[str, RunnableLink] = {}
        for name in dict.fromkeys(spec.link for spec in chosen):
            connector = _connector(by_name[name], connectors)
            if tell is not None:
                connector = tapped(connector, partial(tell, name))
            running[name] = link_class(by_name[name], connector)
            # A port that is slow to open must not hold up the others.
            nursery.start_soon(running[name].run)  # noqa: ASYNC113
        yield {
            spec.name: OpenDevice(
                spec,
                by_name[spec.link],
                running[spec.link],
                families[spec.adapter].create(spec, running[spec.link]),
            )
            for spec in chosen
        }
        nursery.cancel_scope.cancel()


def _connector(spec: LinkSpec, connectors: Mapping[str, Connector]) -> Connector:
    connector = connectors.get(spec.name) or connectors.get(spec.transport)
    if connector is None:
        raise LookupError(f"link {spec.name}: transport {spec.transport!r} is not installed")
    return connector
