"""When is a flux steady? Mean, noise and slope over a window; pure."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SteadyRules", "Window", "WindowStats", "stats_of", "why_unsteady"]

_FULL = 0.9
"""The share of the window that samples must span: the first one rarely falls on its beginning."""


@dataclass(frozen=True, slots=True)
class WindowStats:
    """A window in three numbers. ``noise`` is the standard deviation about the fitted line.

    About the line and not about the mean, so that a slow drift shows in the slope alone and a
    nervous gauge in the noise alone.
    """

    count: int
    span_s: float
    mean: float
    noise: float
    slope_per_s: float


@dataclass(frozen=True, slots=True)
class SteadyRules:
    """What a steady window must look like; in the value's unit, and per second."""

    window_s: float
    min_samples: int
    max_noise: float
    max_slope_per_s: float


def stats_of(points: Sequence[tuple[float, float]]) -> WindowStats | None:
    """Fit a line to (time, value) by least squares; None for fewer than two instants."""
    count = len(points)
    if count < 2:
        return None
    mean_t = math.fsum(t for t, _ in points) / count
    mean_v = math.fsum(v for _, v in points) / count
    spread = math.fsum((t - mean_t) ** 2 for t, _ in points)
    if spread <= 0:
        return None
    slope = math.fsum((t - mean_t) * (v - mean_v) for t, v in points) / spread
    left = math.fsum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in points)
    noise = math.sqrt(left / max(count - 2, 1))
    return WindowStats(count, points[-1][0] - points[0][0], mean_v, noise, slope)


def why_unsteady(stats: WindowStats | None, rules: SteadyRules) -> str:
    """Return what stands against calling it steady; empty when it is."""
    if stats is None or stats.span_s < _FULL * rules.window_s:
        span_s = 0.0 if stats is None else stats.span_s
        return f"only {span_s:.0f} of {rules.window_s:g} s are seen"
    if stats.count < rules.min_samples:
        return f"only {stats.count} of {rules.min_samples} samples in {rules.window_s:g} s"
    if not stats.noise <= rules.max_noise:
        return f"noise {stats.noise:.3g} is above {rules.max_noise:g} kW/m^2"
    if not abs(stats.slope_per_s) <= rules.max_slope_per_s:
        return (
            f"slope {60 * stats.slope_per_s:.3g} is beyond "
            f"{60 * rules.max_slope_per_s:g} kW/m^2 per min"
        )
    return ""


class Window:
    """The samples of the last ``window_s``, from ``begin`` on."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, float]] = deque()
        self._from_s = -math.inf

    def begin(self, from_s: float) -> None:
        """Forget everything; samples older than ``from_s`` will not count."""
        self._points.clear()
        self._from_s = from_s

    def add(self, at_s: float, value: float) -> None:
        """Add a usable sample; one that is not newer than the last is left out."""
        points = self._points
        if at_s < self._from_s or (points and at_s <= points[-1][0]):
            return
        points.append((at_s, value))
        while points[0][0] < at_s - self._window_s:
            points.popleft()

    def stats(self) -> WindowStats | None:
        """Return what the window shows now; None before there are two samples."""
        return stats_of(tuple(self._points))
