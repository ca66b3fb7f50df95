"""The report of a run: one HTML file that needs no other, no script and no network."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import Any

from capa.storage.ended import left_as, outcome_of, unknown_end
from capa.storage.open import Bundle, RecordedEvent
from capa.storage.plots import plots_svg

__all__ = ["report_html"]

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;color:#1e293b;max-width:1120px;margin:2em auto;
padding:0 1em}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:1.8em 0 .5em;border-bottom:1px solid #cbd5e1}
table{border-collapse:collapse;width:100%;font-size:13px}th{text-align:left;color:#475569}
th,td{padding:.2em .8em .2em 0;vertical-align:top;border-bottom:1px solid #eef2f7}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.badge{display:inline-block;padding:.1em .6em;border-radius:.3em;color:#fff;font-weight:600}
.good{background:#15803d}.bad{background:#b91c1c}.warn td{color:#b45309}.error td{color:#b91c1c}
svg{width:100%;height:auto}details{margin:.5em 0}summary{cursor:pointer;color:#0b5fa5}
code{font-size:12px;overflow-wrap:anywhere}
@media print{details{display:block}body{margin:0}}
"""
_MOST_ROWS = 5000


def report_html(bundle: Bundle) -> str:
    """Return the report.

    Raises:
        BundleError: matplotlib is not installed, or the bundle can't be read.
    """
    parts = [
        _header(bundle),
        "<h2>Channels over time</h2>",
        plots_svg(bundle),
        _section("Steps", _steps(bundle)),
        _section("Safe state", _verdicts(bundle)),
        _section("Quality", _quality(bundle)),
        _section("Warnings and worse", _event_table(bundle.events(at_least="warning"))),
        _folded("Commands", _commands(bundle)),
        _folded("All events", _event_table(bundle.events(limit=_MOST_ROWS))),
        _section("Notes", _notes(bundle)),
        _folded("Files", _files(bundle)),
    ]
    title = escape(f"Run {bundle.run_id}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _header(bundle: Bundle) -> str:
    manifest = bundle.manifest
    good = manifest.run_status == "completed" and manifest.bundle_status == "sealed"
    badge = f'<span class="badge {"good" if good else "bad"}">{escape(manifest.run_status)}</span>'
    facts = {
        "Why it ended": manifest.exit_reason,
        "Bundle": manifest.bundle_status,
        "Began": _utc(manifest.started_utc),
        "Ended": _utc(manifest.ended_utc),
        "Took": "" if manifest.duration_s is None else f"{manifest.duration_s:.1f} s",
        "Method": manifest.method,
        "Rig": manifest.profile,
        "Procedure": _words(manifest.procedure),
        "Operator": _words(manifest.operator),
        "Sample": _words(manifest.sample),
        "Tags": ", ".join(manifest.tags),
        "Job": manifest.job,
        "Authorization": manifest.authorization_id,
    }
    rows = [(name, value) for name, value in facts.items() if value]
    return f"<h1>Run {escape(bundle.run_id)} {badge}</h1>{_table((), rows)}"


def _steps(bundle: Bundle) -> str:
    rows = []
    for step in bundle.steps:
        entered, left = step.get("entered_ns"), step.get("left_ns")
        took = None if entered is None or left is None else (left - entered) / 1e9
        number = int(step.get("index", 0)) + 1
        begun = None if entered is None else entered / 1e9
        told = step.get("hold") or step.get("ramp") or {}
        cells = [number, step.get("kind"), step.get("target"), begun, took]
        rows.append([*cells, outcome_of(step, bundle.manifest), _words(told)])
    heads = ("#", "Kind", "Target", "At (s)", "Took (s)", "Outcome", "Measured")
    return _table(heads, rows) if rows else ""


def _verdicts(bundle: Bundle) -> str:
    found = left_as(bundle.manifest)
    if not found:
        words = unknown_end(bundle.manifest)
        return f"<p>{escape(words)}</p>" if words else ""
    rows = [(it.channel, it.value, it.verdict, it.readback, it.by, it.detail) for it in found]
    heads = ("Channel", "Safe value", "Verdict", "Read back", "By", "")
    return _table(heads, rows, ["" if it.verdict == "proven" else "error" for it in found])


def _quality(bundle: Bundle) -> str:
    entries = {name: it.model_dump() for name, it in bundle.manifest.quality.items()}
    if not entries:
        return ""
    keys = [key for key in next(iter(entries.values())) if not key.endswith("_ns")]
    units = bundle.channels()
    rows = [
        (name, units.get(name), *(told.get(key) for key in keys)) for name, told in entries.items()
    ]
    return _table(("Channel", "Unit", *(key.replace("_", " ") for key in keys)), rows)


def _commands(bundle: Bundle) -> str:
    rows = []
    for event in bundle.events(kind="command.result", limit=_MOST_ROWS):
        told = json.loads(event.metadata_json)
        accepted = "accepted" if told.get("accepted") else f"refused: {told.get('detail')}"
        cells = (event.at_s, told.get("channel"), told.get("value"), told.get("readback"))
        rows.append((*cells, accepted, told.get("issued_by")))
    heads = ("At (s)", "Channel", "Value", "Read back", "Answer", "In the name of")
    return _table(heads, rows) if rows else ""


def _event_table(events: Sequence[RecordedEvent]) -> str:
    classes = {"warning": "warn", "error": "error", "critical": "error"}
    rows = [(e.at_s, e.severity, e.kind, e.source, e.message) for e in events]
    marks = [classes.get(event.severity, "") for event in events]
    return _table(("At (s)", "Severity", "Kind", "Source", ""), rows, marks) if rows else ""


def _notes(bundle: Bundle) -> str:
    problems = [str(each.get("message", each)) for each in bundle.manifest.problems]
    lines = [*problems, *bundle.manifest.finalize_notes]
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _files(bundle: Bundle) -> str:
    found = bundle.manifest.files.items()
    return _table(
        ("File", "Bytes", "Rows", "SHA-256"), [(n, it.size, it.rows, it.sha256) for n, it in found]
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>" if content else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]], marks: Sequence[str] = ()) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = []
    for number, row in enumerate(rows):
        mark = f' class="{marks[number]}"' if number < len(marks) and marks[number] else ""
        lines.append(f"<tr{mark}>{''.join(_cell(value) for value in row)}</tr>")
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{''.join(lines)}</table>"


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="n">{value:.6g}</td>' if isinstance(value, float) else _whole(value)
    return f"<td>{escape('' if value is None else str(value))}</td>"


def _whole(value: int) -> str:
    return f'<td class="n">{value}</td>'


def _words(value: object) -> str:
    """Say a small table in a line."""
    if isinstance(value, dict):
        told = {key: item for key, item in value.items() if item not in (None, "", {}, [])}
        return ", ".join(f"{key} {_words(item)}" for key, item in told.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value or "")


def _utc(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
