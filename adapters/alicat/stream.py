"""The simulated device that sends data frames by itself, as somebody left it."""

import math
from collections.abc import Sequence

from adapters.alicat.codec import EOL
from adapters.alicat.options import AlicatTwinOptions
from adapters.alicat.twin import AlicatTwin
from capa.devices.lines import LineCollector
from capa.devices.spec import DeviceSpec
from capa.devices.twin import PlantPort, TwinReply

__all__ = ["StreamingTwin", "make_twin"]

_USUAL_S = 0.05
_DEAF_S = 0.2


class StreamingTwin(AlicatTwin):
    """Streams from the start; its letter is then ``@``, shown as a space by newer firmware.

    To a poll it is deaf meanwhile, having no letter. ``@@ A`` (newer) or ``@@=A`` (older) gives it
    one and ends the stream; ``A@ @`` or ``A@=@`` begins it. A letter that was given takes 0.2 s,
    during which it hears nothing.
    """

    def __init__(self, spec: DeviceSpec, plant: PlantPort) -> None:
        super().__init__(spec, plant)
        self._sign = " " if self._ways.is_modern else "="
        self._commands = LineCollector(EOL)
        self._streams = True
        self._sent_at_s = plant.now_s()
        self._hears_from_s = -math.inf

    def receive(self, chunk: bytes) -> Sequence[TwinReply]:
        """Heed what begins and ends a stream; answer the rest only between streams."""
        replies: list[TwinReply] = []
        for line in self._commands.feed(chunk):
            text = line.decode("ascii", "replace").upper()
            if self._plant.now_s() < self._hears_from_s:
                continue
            if self._streams and text.startswith(f"@@{self._sign}") and text[3:].isalpha():
                self._streams, self._unit = False, text[3:4]
                self._hears_from_s = self._plant.now_s() + _DEAF_S
                if self._options.acknowledges_letter:
                    replies.append(TwinReply(self._data_frame()))
            elif text == f"{self._unit}@{self._sign}@":
                self._streams, self._sent_at_s = True, self._plant.now_s()
            elif not self._streams:
                replies += super().receive(line + EOL)
        return replies

    def unasked(self) -> Sequence[TwinReply]:
        """Return the frame that is due."""
        now_s = self._plant.now_s()
        if not self._streams or now_s - self._sent_at_s < (self._options.stream_s or _USUAL_S):
            return []
        self._sent_at_s = now_s
        letter = b" " if self._ways.is_modern else b"@"
        return [TwinReply(letter + self._data_frame()[1:])]


def make_twin(spec: DeviceSpec, plant: PlantPort) -> AlicatTwin:
    """Make one of either kind: a line with a device that streams must be listened to."""
    streams = AlicatTwinOptions.model_validate(spec.twin).stream_s is not None
    return StreamingTwin(spec, plant) if streams else AlicatTwin(spec, plant)
