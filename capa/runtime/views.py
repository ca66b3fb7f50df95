"""What a procedure gets of the engine's parts: what it is promised, and nothing else of them.

The parts are held by closures, so that no attribute leads from a view to what it stands for: not
to the gate's trips and manual commands, not to publishing on the data bus, not to closing the
bundle, not to a command in somebody else's name, not to a driver.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from capa.channels.sample import Sample
from capa.devices.adapter import CommandResult, DeviceCommand
from capa.experiment.procedures.base import (
    AdapterView,
    DataSource,
    Dispatcher,
    EventWriter,
    Feed,
    Issuer,
)
from capa.runtime.rig import Rig
from capa.storage.bundle import BundleWriter

__all__ = ["adapter_views", "data_view", "dispatcher_view", "event_view", "issuer_view"]


def dispatcher_view(gate: Dispatcher) -> Dispatcher:
    """Return the one way through the gate."""

    class View:
        __slots__ = ()

        async def dispatch(self, device: str, command: DeviceCommand) -> CommandResult:
            return await gate.dispatch(device, command)

    return View()


def issuer_view(authorization: Issuer) -> Issuer:
    """Return what issues the run's commands, in its own name only."""

    class View:
        __slots__ = ()

        @property
        def id(self) -> str:
            return authorization.id

        @property
        def issued_by(self) -> str:
            return authorization.issued_by

        @property
        def armed(self) -> bool:
            return authorization.armed

        def issue(self, *, kind: str, target: str, payload: Mapping[str, Any]) -> DeviceCommand:
            return authorization.issue(kind=kind, target=target, payload=payload)

    return View()


def data_view(bus: DataSource) -> DataSource:
    """Return what reads the data bus."""

    class View:
        __slots__ = ()

        def latest(self, channel: str) -> Sample | None:
            return bus.latest(channel)

        def age_s(self, channel: str) -> float | None:
            return bus.age_s(channel)

        def subscribe(self, *channels: str, maxlen: int = 1024) -> Feed:
            return bus.subscribe(*channels, maxlen=maxlen)

    return View()


def event_view(bundle: BundleWriter) -> EventWriter:
    """Return what writes events into the bundle, and says which and where it is."""

    class View:
        __slots__ = ()

        @property
        def run_id(self) -> str:
            return bundle.run_id

        @property
        def path(self) -> Path:
            return bundle.path

        def write_event(
            self,
            *,
            kind: str,
            message: str,
            severity: Literal["debug", "info", "warning", "error", "critical"] = "info",
            source: str,
            t_mono_ns: int,
            t_utc: datetime,
            metadata: Mapping[str, Any] | None = None,
        ) -> None:
            bundle.write_event(
                kind=kind,
                message=message,
                severity=severity,
                source=source,
                t_mono_ns=t_mono_ns,
                t_utc=t_utc,
                metadata=metadata,
            )

    return View()


def adapter_views(rig: Rig) -> Mapping[str, AdapterView]:
    """Return what a procedure may know of each device."""
    views = {
        name: AdapterView(
            device.name,
            device.family,
            device.resource_id,
            frozenset(device.capabilities),
            MappingProxyType(dict(device.fields)),
        )
        for name, device in rig.devices.items()
    }
    return MappingProxyType(views)
