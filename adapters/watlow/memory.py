"""The non-volatile memory of the simulated controller, and what it costs to write to it."""

from collections.abc import Mapping

__all__ = ["NonVolatileMemory"]

_SAVE_EVERY_S = 5.0


class NonVolatileMemory:
    """Saves what was written, at most once in five seconds and only if it changed.

    Watlow RUI/Gateway manual. The memory is rated for about a million writes (EZ-ZONE
    Communications manual), which a ramp at one write every five seconds uses up in 58 days.
    """

    def __init__(self, values: Mapping[int, float]) -> None:
        self.writes = 0
        self._saved = dict(values)
        self._saved_at_s = float("-inf")
        self._dirty = False

    def changed(self) -> None:
        """Note that a saved parameter has a new value."""
        self._dirty = True

    def tick(self, now_s: float, values: Mapping[int, float]) -> None:
        """Save what is due."""
        if self._dirty and now_s - self._saved_at_s >= _SAVE_EVERY_S:
            self._saved = dict(values)
            self._saved_at_s = now_s
            self._dirty = False
            self.writes += 1

    def recall(self) -> dict[int, float]:
        """Return what survives a power cut."""
        self._dirty = False
        return dict(self._saved)
