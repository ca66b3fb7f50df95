"""The pages that ``capa bundle`` prints: plain text, with plots made of blocks."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capa.cli.bundle_common import printable
from capa.errors import BundleError
from capa.storage.catalog import RunRow
from capa.storage.ended import left_as, outcome_of, unknown_end
from capa.storage.lock import is_held
from capa.storage.open import Bundle, RecordedEvent
from capa.storage.removal import Removed
from capa.storage.retention import pin_file

if TYPE_CHECKING:
    from capa.storage.binned import Binned

__all__ = [
    "clock",
    "event_line",
    "list_lines",
    "removed_lines",
    "show_lines",
    "sparkline",
    "table_lines",
]

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLOT_WIDTH = 40
_MOST_EVENTS = 12
_MOST_TEXT = 60
_MOST_DIGEST = 12


def list_lines(rows: Sequence[RunRow], root: Path) -> list[str]:
    """Return the table of ``capa bundle list``; times are local."""
    if not rows:
        return [f"{root}: no such run"]
    columns = ["RUN", "STARTED", "TOOK", "STATUS", "BUNDLE", "SAFE", "OPERATOR", "METHOD", "SAMPLE"]
    return table_lines(columns, [_list_cells(row, root) for row in rows])


def removed_lines(removed: Sequence[Removed], root: Path) -> list[str]:
    """Return the table of ``capa bundle list --removed``; times are local."""
    if not removed:
        return [f"{root}: nothing was ever removed from here"]
    columns = ["RUN", "ENDED", "STATUS", "OPERATOR", "METHOD", "REMOVED", "WHY", "BY", "MANIFEST"]
    rows = []
    for it in removed:
        times = [_local(_at(text)) for text in (it.ended_utc, it.removed_utc)]
        digest = it.manifest_sha256[:_MOST_DIGEST]
        what = (it.run_status, it.operator, it.method[:_MOST_TEXT])
        rows.append([it.run_id, times[0], *what, times[1], it.why, it.by, digest])
    return table_lines(columns, rows)


def show_lines(bundle: Bundle) -> list[str]:
    """Return the page of ``capa bundle show``."""
    lines = [
        *_head(bundle),
        *_section("Steps", _steps(bundle)),
        *_section("Safe state", _verdicts(bundle)),
        *_section("Channels", _channels(bundle)),
        *_section("Warnings and worse", _warnings(bundle)),
        *_section("Notes", _notes(bundle)),
    ]
    return [printable(line) for line in lines]


def event_line(event: RecordedEvent, *, as_json: bool = False) -> str:
    """Return one event as a line."""
    if as_json:
        told = event._asdict()
        text = told.pop("metadata_json")
        try:
            told["metadata"] = json.loads(text)
        except ValueError:  # an altered row
            told["metadata"] = text
        return json.dumps(told, ensure_ascii=False)
    mark = "" if event.severity in ("debug", "info") else f"{event.severity.upper()} "
    return printable(f"{clock(event.at_s)}  {event.kind:<24} {mark}{event.message}".rstrip())


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return rows under their heads, each column as wide as it has to be."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def clock(seconds: float | None) -> str:
    """Return a duration as ``0:01:23.4``."""
    if seconds is None:
        return "-"
    tenths = round(abs(seconds) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and tenths else ""
    return f"{sign}{hours}:{minutes:02d}:{rest // 10:02d}.{rest % 10}"


def sparkline(binned: "Binned") -> str:
    """Draw the mean of each slice of the time as one of eight blocks; blank where there is none."""
    low = min(binned.means, default=0.0)
    span = max(binned.means, default=0.0) - low
    top = len(_BLOCKS) - 1
    line = [" "] * _PLOT_WIDTH
    for place, mean in zip(binned.places, binned.means, strict=True):
        line[place] = _BLOCKS[round((mean - low) / span * top) if span else 0]
    return "".join(line)


def _head(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    operator = manifest.operator
    who = operator.get("name") or operator.get("id") if isinstance(operator, dict) else operator
    lines = [
        f"Run {manifest.run_id}: {manifest.run_status.upper()}, bundle {manifest.bundle_status}",
        f"  {manifest.exit_reason}" if manifest.exit_reason else "",
        f"  {_local(manifest.started_utc)} for {clock(manifest.duration_s)}"
        f"{'' if manifest.ended_utc else ' (it has not ended)'}",
        f"  method {manifest.method or '-'}, rig {manifest.profile or '-'}, operator {who or '-'}",
    ]
    if manifest.sample:
        told = ", ".join(f"{key} {value}" for key, value in manifest.sample.items())
        lines.append(f"  sample: {told}")
    if manifest.tags:
        lines.append(f"  tags: {', '.join(manifest.tags)}")
    if manifest.job:
        lines.append(f"  job {manifest.job}")
    return [*(line for line in lines if line), f"  {bundle.path}"]


def _steps(bundle: Bundle) -> list[str]:
    rows = []
    for step in bundle.steps:
        entered, left = step.get("entered_ns"), step.get("left_ns")
        begun = None if entered is None else entered / 1e9
        took = None if entered is None or left is None else (left - entered) / 1e9
        number = int(step.get("index", 0)) + 1
        cells = [number, step.get("kind"), step.get("target") or "", clock(begun), clock(took)]
        rows.append([*cells, outcome_of(step, bundle.manifest), _achieved(step)])
    columns = ("#", "KIND", "TARGET", "AT", "TOOK", "OUTCOME", "ACHIEVED")
    return table_lines(columns, rows) if rows else []


def _achieved(step: dict[str, Any]) -> str:
    """Say in a few words how well a hold was held or a ramp was followed, where it is known."""
    hold, ramp = step.get("hold"), step.get("ramp")
    if isinstance(hold, dict) and hold.get("mean") is not None:
        within = hold.get("within_fraction")
        share = "" if within is None else f", {within:.0%} within {_number(hold.get('band'))}"
        return f"{_number(hold['mean'])} of {_number(hold.get('value'))}{share}"
    if isinstance(ramp, dict) and ramp.get("achieved_rate_per_s") is not None:
        asked = _number(ramp.get("asked_rate_per_s"))
        return f"{_number(ramp['achieved_rate_per_s'])} of {asked} per s"
    return ""


def _verdicts(bundle: Bundle) -> list[str]:
    rows = [
        (it.channel, _number(it.value), it.verdict, it.by, it.detail)
        for it in left_as(bundle.manifest)
    ]
    if not rows:
        return [words] if (words := unknown_end(bundle.manifest)) else []
    return table_lines(("CHANNEL", "SAFE VALUE", "VERDICT", "BY", ""), rows)


def _channels(bundle: Bundle) -> list[str]:
    from capa.storage.binned import overview

    try:
        found = overview(bundle, bins=_PLOT_WIDTH)
    except BundleError as error:
        return [str(error)]
    columns = ("CHANNEL", "UNIT", "FIRST", "MIN", "MAX", "LAST", "SAMPLES", "GAPS", "")
    return table_lines(columns, [_channel_cells(bundle, each) for each in found.channels])


def _channel_cells(bundle: Bundle, it: "Binned") -> list[str]:
    bounds = [_number(value) for value in (it.first, it.low, it.high, it.last)]
    gaps = _gaps(bundle, it.channel)
    return [it.channel, it.unit, *bounds, str(it.samples), gaps, sparkline(it)]


def _gaps(bundle: Bundle, name: str) -> str:
    entry = bundle.manifest.quality.get(name)
    told = {} if entry is None else entry.model_dump()
    if told.get("gaps") is None:
        return "?"
    longest = told.get("longest_gap_s")
    return f"{told['gaps']} ({longest:.1f} s)" if told["gaps"] and longest else str(told["gaps"])


def _warnings(bundle: Bundle) -> list[str]:
    try:
        found = bundle.events(at_least="warning")
    except BundleError as error:
        return [str(error)]
    lines = [event_line(event) for event in found[:_MOST_EVENTS]]
    left = len(found) - len(lines)
    more = f"... and {left} more: capa bundle events {bundle.run_id} --at-least warning"
    return [*lines, more] if left > 0 else lines


def _notes(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    problems = [str(p.get("message", p)) for p in manifest.problems]
    recorder = manifest.recorder
    lost = []
    if recorder is not None and recorder.samples_dropped + recorder.samples_lost:
        lost.append(f"{recorder.samples_dropped + recorder.samples_lost} samples were not recorded")
    if recorder is not None and recorder.events_lost:
        lost.append(f"{recorder.events_lost} events were not recorded")
    return [*problems, *manifest.finalize_notes, *lost, *_unsealed(bundle)]


def _unsealed(bundle: Bundle) -> list[str]:
    """Say why it is not sealed, and what to do: nothing, while somebody is at it."""
    manifest, name = bundle.manifest, bundle.path.resolve().name
    if manifest.bundle_status == "sealed":
        return []
    if manifest.bundle_status == "verification_failed":
        return [f"does not verify: capa bundle verify {name}"]
    if not is_held(bundle.path):
        return [f"not sealed: capa bundle finalize {name}"]
    if manifest.run_status == "running":
        return [f"it is being recorded: capa bundle events {name} --follow"]
    return ["it is being sealed just now"]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def _list_cells(row: RunRow, root: Path) -> list[str]:
    started = _at(row.started_utc)
    kept = " (kept)" if pin_file(root, row.folder).exists() else ""
    sample = json.loads(row.sample)
    shown = str(sample.get("id") or ", ".join(f"{k} {v}" for k, v in sample.items()))
    took = clock(row.duration_s)
    who = (row.operator, row.method or row.procedure, shown)
    texts = (row.run_status, row.bundle_status + kept, row.safe or "-", *who)
    return [row.folder, _local(started), took, *(text[:_MOST_TEXT] for text in texts)]


def _at(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _local(at: datetime | None) -> str:
    return "-" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
