"""Every channel of a run over time, with its steps and what went wrong: by matplotlib, an extra."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from capa.errors import BundleError
from capa.storage.binned import Binned, overview
from capa.storage.open import Bundle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plots_png", "plots_svg"]

_BINS = 1200
_WIDTH_IN, _PANEL_IN, _MARGIN_IN = 11.0, 1.5, 1.1
_COLORS = ("#0b5fa5", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0f766e")
_MOST_ALARMS = 60


@dataclass(frozen=True, slots=True)
class _Panel:
    """Channels that share an axis: of one thing and in one unit."""

    unit: str
    channels: tuple[Binned, ...]


def plots_png(bundle: Bundle) -> bytes:
    """Return one picture of all channels.

    Raises:
        BundleError: matplotlib is not installed, or the samples can't be read.
    """
    return _drawn(bundle, "png")


def plots_svg(bundle: Bundle) -> str:
    """Return the same as an ``<svg>`` element.

    Raises:
        BundleError: as ``plots_png``.
    """
    text = _drawn(bundle, "svg").decode()
    return text[text.index("<svg") :]


def _drawn(bundle: Bundle, kind: str) -> bytes:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise BundleError(
            "plots need matplotlib, which is an extra: pip install 'capa[report]'"
        ) from None
    found = overview(bundle, bins=_BINS)
    until_s, panels = found.until_s, _panels(found.channels)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": bundle.run_id, "font.size": 8.5}):
        figure = Figure(figsize=(_WIDTH_IN, _MARGIN_IN + _PANEL_IN * max(1, len(panels))))
        _fill(figure, bundle, panels, until_s)
        out = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(out, format=kind, dpi=110, metadata=metadata)
    return out.getvalue()


def _panels(found: Sequence[Binned]) -> list[_Panel]:
    """Put channels of one thing and one unit together: heater.setpoint beside heater.pv."""
    groups: dict[tuple[str, str], list[Binned]] = {}
    for each in found:
        groups.setdefault((each.channel.partition(".")[0], each.unit), []).append(each)
    return [_Panel(unit, tuple(channels)) for (_, unit), channels in groups.items()]


def _fill(figure: "Figure", bundle: Bundle, panels: Sequence[_Panel], until_s: float) -> None:
    divisor, unit = _time_unit(until_s)
    rows: list[Axes] = list(
        figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    )
    height_in = figure.get_figheight()
    figure.subplots_adjust(
        left=0.08, right=0.985, top=1 - 0.75 / height_in, bottom=0.45 / height_in, hspace=0.36
    )
    manifest = bundle.manifest
    title = f"{bundle.run_id}   {manifest.run_status}   {manifest.method or ''}"
    figure.suptitle(title.rstrip(), x=0.08, y=1 - 0.12 / height_in, ha="left", fontsize=10)
    for axes, panel in zip(rows, panels, strict=False):
        _draw_panel(axes, panel, until_s / _BINS / divisor)
    alarms = bundle.events(at_least="warning", limit=_MOST_ALARMS)
    for axes in rows:
        _mark(axes, bundle.steps, [event.at_s / divisor for event in alarms], divisor, until_s)
    _number_steps(rows[0], bundle.steps, divisor, until_s)
    rows[-1].set_xlabel(f"time since the run was armed ({unit})")
    rows[-1].set_xlim(0, max(until_s, 1e-3) / divisor)


def _draw_panel(axes: "Axes", panel: _Panel, slice_width: float) -> None:
    for place, channel in enumerate(panel.channels):
        color = _COLORS[place % len(_COLORS)]
        times = [(number + 0.5) * slice_width for number in channel.places]
        axes.fill_between(times, channel.lows, channel.highs, color=color, alpha=0.25, linewidth=0)
        drawn = _with_breaks(times, channel.means)
        axes.plot(*drawn, color=color, linewidth=1.1, label=channel.channel)
    axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-7, 9))
    axes.set_ylabel(panel.unit if panel.unit != "1" else "")
    axes.grid(visible=True, color="#dddddd", linewidth=0.5)
    axes.margins(y=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.005, 0.96), ncols=6, fontsize=7.5, frameon=False
    )


def _with_breaks(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], ...]:
    """Return a line that ends where a channel fell silent: no value is drawn that nobody measured.

    Silent is what takes more than five times the usual distance of its points.
    """
    distances = [later - earlier for earlier, later in pairwise(times)]
    longest = 5 * median(distances) if distances else 0.0
    at, seen = list(times[:1]), list(values[:1])
    for distance, time, value in zip(distances, times[1:], values[1:], strict=True):
        if distance > longest:
            at.append(time)
            seen.append(math.nan)
        at.append(time)
        seen.append(value)
    return at, seen


def _mark(
    axes: "Axes",
    steps: Sequence[dict[str, Any]],
    alarms_at: Sequence[float],
    divisor: float,
    until_s: float,
) -> None:
    for number, (entered, left) in enumerate(_spans(steps, divisor, until_s)):
        if number % 2:
            axes.axvspan(entered, left, color="#64748b", alpha=0.08, linewidth=0)
    for at in alarms_at:
        axes.axvline(at, color="#b91c1c", linewidth=0.8, linestyle=":")


def _number_steps(
    axes: "Axes", steps: Sequence[dict[str, Any]], divisor: float, until_s: float
) -> None:
    """Write the number and kind of each step above the first panel, where there is room."""
    width = max(until_s / divisor, 1e-9)
    for step, (entered, left) in zip(_timed(steps), _spans(steps, divisor, until_s), strict=True):
        share = (left - entered) / width
        number = int(step.get("index", 0)) + 1
        text = f"{number} {step.get('kind', '')}" if share > 0.07 else f"{number}"
        if share > 0.012:
            axes.text(
                (entered + left) / 2, 1.18, text, transform=axes.get_xaxis_transform(),
                ha="center", va="bottom", fontsize=7.5, color="#475569",
            )  # fmt: skip


def _timed(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [step for step in steps if step.get("entered_ns") is not None]


def _spans(
    steps: Sequence[dict[str, Any]], divisor: float, until_s: float
) -> list[tuple[float, float]]:
    """Return when each step began and ended; one that was never left goes on to the end."""
    found = []
    for step in _timed(steps):
        entered, left = step["entered_ns"], step.get("left_ns")
        left = until_s * 1e9 if left is None else left
        found.append((entered / 1e9 / divisor, left / 1e9 / divisor))
    return found


def _time_unit(until_s: float) -> tuple[float, str]:
    if until_s > 3 * 3600:
        return 3600.0, "h"
    return (60.0, "min") if until_s > 300 else (1.0, "s")
