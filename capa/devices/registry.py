"""Find instrument families, transports, the link class and twin servers among entry points.

Loading is by name: a daemon imports the drivers that its profile uses and no others. An entry
that does not load is reported and left out, so that one broken plug-in takes nothing else with it.
"""

from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import trio

from capa.devices.adapter import AdapterFamily
from capa.devices.link import Connector, Link
from capa.devices.spec import LinkSpec
from capa.errors import CapaError

__all__ = [
    "LinkClass",
    "RunnableLink",
    "family_names",
    "load_connectors",
    "load_families",
    "load_link_class",
    "load_twins",
    "transport_names",
]

_ADAPTERS, _LINKS, _TWINS = "capa.adapters", "capa.links", "capa.twins"
_LINK_CLASS = "link"


class RunnableLink(Link, Protocol):
    """A link with its own task, and a way to hear that it went up or down."""

    on_change: Callable[[bool], None]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the pipe open until cancelled."""
        ...


LinkClass = Callable[[LinkSpec, Connector], RunnableLink]


def family_names() -> frozenset[str]:
    """Return the names that ``adapter = "..."`` may take; imports no driver."""
    return frozenset(entry_points(group=_ADAPTERS).names)


def transport_names() -> frozenset[str]:
    """Return the names that ``transport = "..."`` may take; imports no driver."""
    return frozenset(entry_points(group=_LINKS).names) - {_LINK_CLASS}


def load_families(only: Collection[str] | None = None) -> dict[str, AdapterFamily]:
    """Load instrument families by name; all of them unless ``only`` says which."""
    return _load(_ADAPTERS, only)


def load_connectors(only: Collection[str] | None = None) -> dict[str, Connector]:
    """Load what opens a link, by transport."""
    return _load(_LINKS, transport_names() if only is None else set(only) - {_LINK_CLASS})


def load_twins(only: Collection[str] | None = None) -> dict[str, Callable[..., Any]]:
    """Load simulator servers by name."""
    return _load(_TWINS, only)


def load_link_class() -> LinkClass:
    """Load the class that runs one exchange at a time over any connector's pipe.

    Raises:
        CapaError: the distribution's own entry is missing or broken.
    """
    found: dict[str, LinkClass] = _load(_LINKS, {_LINK_CLASS})
    try:
        return found[_LINK_CLASS]
    except KeyError:
        raise CapaError(
            f"no entry point '{_LINK_CLASS}' in the group {_LINKS}: the installation is damaged; "
            "install capa again"
        ) from None


def _load(group: str, only: Collection[str] | None) -> dict[str, Any]:
    loaded: dict[str, Any] = {}
    for entry in entry_points(group=group):
        if only is None or entry.name in only:
            _load_one(entry, loaded)
    return loaded


def _load_one(entry: EntryPoint, into: dict[str, Any]) -> None:
    try:
        into[entry.name] = entry.load()
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything when it is imported
        import structlog  # here: it takes 0.2 s, which a twin or a tool has no other need of

        structlog.get_logger(__name__).warning(
            "plugin.broken",
            group=entry.group,
            name=entry.name,
            target=entry.value,
            message=f"'{entry.name}' in {entry.group} does not load: {error!r}; it is left out",
        )
