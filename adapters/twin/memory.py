"""The same twins on pipes without wires: in this process, in this clock, virtual or not."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import trio

from adapters.links.memory import MemoryStream
from adapters.twin.line import Due, TwinLine
from adapters.twin.plant import Plant
from adapters.twin.rig import TwinRig
from adapters.twin.wirelog import WireLog
from capa.devices.adapter import AdapterFamily
from capa.devices.link import Connector
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import LinkClosedError

__all__ = ["MemoryPort", "TwinHandle", "twin_connectors"]


class TwinProfile(Protocol):
    """What is needed of a hardware profile."""

    @property
    def links(self) -> Sequence[LinkSpec]: ...
    @property
    def devices(self) -> Sequence[DeviceSpec]: ...
    @property
    def twin(self) -> Mapping[str, Any]: ...


class TwinHandle:
    """What a test or a rehearsal holds of the twins behind its links."""

    def __init__(self, rig: TwinRig, wire: list[dict[str, Any]]) -> None:
        self._rig = rig
        self.wire = wire
        """Records as in ``wire.jsonl``; ``t_ns`` is trio's clock."""

    @property
    def plant(self) -> Plant:
        """The physics."""
        return self._rig.plant

    def outputs(self) -> dict[str, float]:
        """Return what every device drives, as ``device.field``, in the field's unit."""
        return self._rig.outputs()

    def nv_writes(self) -> dict[str, int]:
        """Return how often each device that has one has written its non-volatile memory."""
        return self._rig.nv_writes()

    def fault(
        self,
        kind: str,
        *,
        link: str | None = None,
        device: str | None = None,
        active: bool = True,
        value: float | None = None,
    ) -> None:
        """Begin or end a fault; ``CapaError`` if there is no such link, device or fault."""
        self._rig.fault(kind, link=link, device=device, active=active, value=value)


class MemoryPort:
    """A connector's far side: hands out streams, and takes them away when the port is gone."""

    def __init__(self, line: TwinLine) -> None:
        self._line = line
        self._present = True
        self._stream: MemoryStream | None = None

    async def connect(self, spec: LinkSpec) -> trio.abc.Stream:
        """Open the pipe, as a ``Connector``; one at a time, as a serial port."""
        await trio.lowlevel.checkpoint()
        if not self._present:
            raise LinkClosedError(f"link {spec.name}: no such port; the twin's fault has it gone")
        self._hang_up()
        look = self._look if self._line.talkative else None
        self._stream = MemoryStream(self._on_send, look=look)
        return self._stream

    def switch(self, *, present: bool) -> None:
        """Make the port vanish, or return."""
        self._present = present
        if not present:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.hang_up()
            self._stream = None

    def _on_send(self, data: bytes) -> None:
        self._deliver(self._line.accept(data, trio.current_time()))

    def _look(self) -> None:
        self._deliver(self._line.unasked(trio.current_time()))

    def _deliver(self, all_due: list[Due]) -> None:
        stream = self._stream
        for due in all_due:
            if stream is not None:
                stream.deliver(due.data, at_s=due.at_s, when_read=self._line.sending)


def twin_connectors(
    profile: TwinProfile, families: Mapping[str, AdapterFamily]
) -> tuple[dict[str, Connector], TwinHandle]:
    """Make twins of all devices of a profile, and a connector for each link, by its name.

    Needs a running trio loop, whose clock is the plant's, and no nursery: a twin acts when it
    is spoken to, and the plant catches up when somebody looks.

    Raises:
        CapaError: a setting of the plant that does not fit, or a family that is not installed.
        ValueError: options that do not fit a family.
    """
    wire: list[dict[str, Any]] = []
    log = WireLog(wire.append, lambda: round(trio.current_time() * 1e9))
    rig = TwinRig(
        profile.links, profile.devices, profile.twin, families, log=log, clock=trio.current_time
    )
    ports = {name: MemoryPort(line) for name, line in rig.lines.items()}
    rig.ports.update(ports)
    for line in rig.lines.values():
        line.log_outputs()
    return {name: partial(MemoryPort.connect, port) for name, port in ports.items()}, TwinHandle(
        rig, wire
    )
