"""Faults of a wire: what happens to bytes between a simulated device and the host."""

import random
import re
from typing import Final

from capa.devices.twin import TwinReply

__all__ = ["DEVICE_FAULTS", "LINE_FAULTS", "PORT_GONE", "LineFaults"]

LINE_FAULTS: Final = frozenset(
    {"silence", "mute", "delay", "noise", "truncate", "crc", "wrong_address", "doubled", "echo"}
)
"""``silence``: the device hears nothing. ``mute``: it hears and obeys, and its reply is lost.
``delay``: replies come ``value`` s late (1). ``noise``: ``value`` stray bytes (3) before a reply.
``truncate``: a reply is cut to ``value`` bytes (half). ``crc``: a byte at its end is wrong.
``wrong_address``: its first byte is another device's. ``doubled``: a reply comes twice. ``echo``:
the adapter hears what the host sends (the whole line's); with a ``value``, byte number so many of
it comes back wrong."""

PORT_GONE: Final = "port_gone"
"""The adapter is unplugged: the port vanishes, and comes back when the fault ends."""

DEVICE_FAULTS: Final = ("exception", "frozen", "sensor_break")
"""Which a device itself may have; some have others as well."""

DELAY_S: Final = 1.0
NOISE_BYTES: Final = 3


class LineFaults:
    """The faults that are active on one line, for all of it or for one device.

    Args:
        seed: what the noise depends on; the same noise at every run.
    """

    def __init__(self, seed: str) -> None:
        self._active: dict[tuple[str, str | None], float | None] = {}
        self._random = random.Random(seed)  # noqa: S311 - repeatable noise, not a secret

    def switch(self, kind: str, device: str | None, *, active: bool, value: float | None) -> None:
        """Begin or end a fault of ``LINE_FAULTS``; ``device`` None means the whole line."""
        if active:
            self._active[kind, device] = value
        else:
            self._active.pop((kind, device), None)

    def deafens(self, device: str) -> bool:
        """Whether the device hears nothing."""
        return bool(self._active) and self._has("silence", device)

    def echo(self, sent: bytes) -> bytes | None:
        """Return what the host hears of its own words; None where it hears nothing."""
        if not any(kind == "echo" for kind, _ in self._active):
            return None
        at = next(value for (kind, _), value in self._active.items() if kind == "echo")
        if at is None or not 0 <= int(at) < len(sent):
            return sent
        return sent[: int(at)] + bytes([sent[int(at)] ^ 0x15]) + sent[int(at) + 1 :]

    def shape(self, reply: TwinReply, device: str) -> TwinReply | None:
        """Return what becomes of a reply; None if nothing of it arrives."""
        if not self._active:
            return reply
        if self._has("mute", device):
            return None
        data, delay_s = reply.data, reply.delay_s
        if self._has("wrong_address", device):
            data = bytes([data[0] ^ 0x03]) + data[1:]
        if self._has("crc", device):
            data = _spoil_end(data)
        if self._has("truncate", device):
            data = data[: int(self._value("truncate", device, len(data) // 2))]
        if self._has("doubled", device):
            data += data
        if self._has("noise", device):
            count = int(self._value("noise", device, NOISE_BYTES))
            data = self._random.randbytes(count) + data
        if self._has("delay", device):
            delay_s += self._value("delay", device, DELAY_S)
        return TwinReply(data, delay_s) if data else None

    def _has(self, kind: str, device: str) -> bool:
        return (kind, device) in self._active or (kind, None) in self._active

    def _value(self, kind: str, device: str, default: float) -> float:
        own = self._active.get((kind, device))
        value = self._active.get((kind, None)) if own is None else own
        return default if value is None else value


def _spoil_end(data: bytes) -> bytes:
    """Change the last byte that is not a line's end."""
    at = len(re.sub(rb"[\r\n]+\Z", b"", data)) or len(data)
    return data[: at - 1] + bytes([data[at - 1] ^ 0x15]) + data[at:]
