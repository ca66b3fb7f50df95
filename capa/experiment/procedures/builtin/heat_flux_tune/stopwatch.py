"""Time that stands still while a tune is paused."""

__all__ = ["Stopwatch"]


class Stopwatch:
    """Counts active seconds from ``now_s`` on; budgets are kept by it."""

    def __init__(self, now_s: float) -> None:
        self._begun_s = now_s
        self._lost_s = 0.0
        self._paused_at_s: float | None = None

    @property
    def paused(self) -> bool:
        """Whether it stands still."""
        return self._paused_at_s is not None

    def pause(self, now_s: float) -> bool:
        """Stand still; False if it does already."""
        if self.paused:
            return False
        self._paused_at_s = now_s
        return True

    def resume(self, now_s: float) -> bool:
        """Go on; False if it goes already."""
        if self._paused_at_s is None:
            return False
        self._lost_s += now_s - self._paused_at_s
        self._paused_at_s = None
        return True

    def active_s(self, now_s: float) -> float:
        """Return the seconds since the beginning, pauses apart."""
        until_s = now_s if self._paused_at_s is None else self._paused_at_s
        return until_s - self._begun_s - self._lost_s
