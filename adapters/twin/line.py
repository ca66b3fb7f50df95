"""One simulated line: the devices on it, its faults, and the order of their replies."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from adapters.twin.faults import LineFaults
from adapters.twin.plant import TwinSettings
from adapters.twin.wirelog import WireLog
from capa.devices.spec import LinkSpec
from capa.devices.twin import SpeaksUnasked, TwinDevice, TwinReply, WearsOut

__all__ = ["Due", "TwinLine"]

USB_PACKET: Final = 62
"""Payload bytes of a full packet of an FTDI adapter, which does not wait for its timer."""

_BEHIND_S: Final = 0.1
"""How much may wait for the wire while a device still begins to speak unasked."""


@dataclass(frozen=True, slots=True)
class Due:
    """Bytes that leave at ``at_s``."""

    at_s: float
    data: bytes


class TwinLine:
    """What happens on a line, without any I/O: ``accept`` takes what the host sent.

    All devices hear everything. One replies at a time, in the order of the requests.
    """

    def __init__(
        self,
        spec: LinkSpec,
        devices: Sequence[TwinDevice],
        *,
        log: WireLog,
        settings: TwinSettings,
    ) -> None:
        self.spec = spec
        self.devices = tuple(devices)
        self._talkers = [device for device in self.devices if isinstance(device, SpeaksUnasked)]
        self.faults = LineFaults(spec.name)
        self._log = log
        self._idle_s = settings.idle_s
        self._character_s = spec.character_s if settings.wire_timing else 0.0
        self._usb_s = settings.usb_latency_s
        self._heard_at_s = -math.inf
        self._free_at_s = -math.inf
        self._outputs: dict[tuple[str, str], float] = {}
        self._worn = {device: 0 for device in self.devices if isinstance(device, WearsOut)}

    @property
    def name(self) -> str:
        """The link's name in the profile."""
        return self.spec.name

    @property
    def talkative(self) -> bool:
        """Whether a device on it may speak without being asked, so that it must be listened to."""
        return bool(self._talkers)

    def unasked(self, now_s: float) -> list[Due]:
        """Return what devices say of themselves since the last look.

        While the wire is behind none is asked, so that a stream that is too fast for it loses
        lines, as behind a UART, and what waits for something does not get lost.
        """
        if self._free_at_s - now_s > _BEHIND_S:
            return []
        return [
            due
            for device in self._talkers
            for raw in device.unasked()
            if (reply := self.faults.shape(raw, device.name)) is not None
            for due in self._schedule(reply, 0, now_s)
        ]

    def accept(self, chunk: bytes, now_s: float) -> list[Due]:
        """Log bytes from the host, let the devices have them, and return their replies."""
        self._log.rx(self.name, chunk)
        if now_s - self._heard_at_s > self._idle_s:
            for device in self.devices:
                device.line_idle()
        self._heard_at_s = now_s
        due = self.unasked(now_s)
        if (echo := self.faults.echo(chunk)) is not None:
            due += self._schedule(TwinReply(echo), 0, now_s)
        hearing = [each for each in self.devices if not self.faults.deafens(each.name)]
        said = [(device, device.receive(chunk)) for device in hearing]
        if any(replies for _, replies in said):
            self._end_the_frame(device for device, replies in said if not replies)
        for device, replies in said:
            for raw in replies:
                if (reply := self.faults.shape(raw, device.name)) is not None:
                    due += self._schedule(reply, len(chunk), now_s)
        self.log_outputs()
        return due

    @staticmethod
    def _end_the_frame(others: Iterable[TwinDevice]) -> None:
        """One device answers, so what another has half heard was no request: another protocol's.

        On the wire the silences about a reply say so; a process sees none of them.
        """
        for device in others:
            device.line_idle()

    def misheard(self, chunk: bytes) -> None:
        """Log bytes that came at another speed than the line's: no device knows them for bytes."""
        self._log.misheard(self.name, chunk)

    def sending(self, data: bytes) -> None:
        """Log bytes that are about to leave."""
        self._log.tx(self.name, data)

    def log_outputs(self) -> None:
        """Log every output, and every count of memory writes, that is not what it was."""
        for device in self.devices:
            for field, value in device.outputs().items():
                if self._outputs.get((device.name, field)) != value:
                    self._outputs[device.name, field] = value
                    self._log.output(self.name, device.name, field, value)
        for device, before in self._worn.items():
            if (writes := device.nv_writes) != before:
                self._worn[device] = writes
                self._log.memory(self.name, device.name, writes)

    def _schedule(self, reply: TwinReply, heard: int, now_s: float) -> list[Due]:
        begins_s = max(now_s + heard * self._character_s + reply.delay_s, self._free_at_s)
        end_s = self._free_at_s = begins_s + len(reply.data) * self._character_s
        if self._usb_s <= 0:
            return [Due(end_s, reply.data)]
        return list(self._through_usb(reply.data, end_s))

    def _through_usb(self, data: bytes, end_s: float) -> Iterator[Due]:
        """Hand bytes over as an FTDI adapter does: full packets at once, the rest at its timer."""
        full = len(data) - len(data) % USB_PACKET
        for at in range(0, full, USB_PACKET):
            last = at + USB_PACKET
            yield Due(end_s - (len(data) - last) * self._character_s, data[at:last])
        if full < len(data):
            tick_s = math.ceil(end_s / self._usb_s - 1e-9) * self._usb_s
            yield Due(tick_s, data[full:])
