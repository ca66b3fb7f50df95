"""Checks what a campaign of kills left, from its files alone: ``python tests/check_data.py DIR``.

Independent on purpose: nothing of the project is imported. The format of the bundle is taken from
``docs/bundle-format.md``, that of the spool from ``docs/spool.md``, and what happened on the wire
from the twin's own log. DIR holds ``spool/``, ``runs/``, ``twin/wire.jsonl``, and what the campaign
wrote down itself: ``drops.jsonl`` (name, sha256) and ``kills.jsonl`` (t_ns, wall_ns), times on the
monotonic clock of the twin's log.
"""

import hashlib
import json
import sqlite3
import sys
from bisect import bisect_left
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

STATES = ("queued", "active", "done", "failed", "rejected")
OVER = ("done", "failed", "rejected")
MAY_FOLLOW = {
    None: {"queued"},
    "queued": {"active", "rejected", "queued"},
    "active": {"queued", "done", "failed", "rejected", "active"},
}
LOST_S = 1.0
"""What a kill may cost of the samples."""
BESIDE_S = 0.4
"""How far a sample's time may lie from that of the reply in the twin's log, on a loaded machine."""
SAFE_VALUES = (20.0, 24.0, 0.0)
"""What the safe state sets, and what the twin begins with: not announced by a run."""
POLLS = {"gas_bus": ("410d", "purge.flow"), "balance_line": ("1b50", "balance.mass")}


@dataclass
class Findings:
    """What is wrong, and how much was looked at."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def check(self, good: object, what: str) -> bool:
        self.counts["checks"] += 1
        if not good:
            self.wrong.append(what)
        return bool(good)


@dataclass
class Bundle:
    path: Path
    manifest: dict[str, Any]
    began_ns: int
    events: list[tuple[int, str, dict[str, Any]]]
    """Time on the twin's clock, kind, metadata."""

    @property
    def recorded_until_ns(self) -> int:
        return self.began_ns + round(float(self.manifest["duration_s"] or 0) * 1e9)


def main(folder: Path) -> int:
    findings = check(folder)
    lines = [f"WRONG {line}" for line in findings.wrong]
    lines.append(json.dumps({"wrong": len(findings.wrong), **findings.counts}, sort_keys=True))
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if findings.wrong else 0


def check(folder: Path) -> Findings:
    """Check everything; the daemon has to be idle."""
    findings = Findings()
    drops, kills = _lines(folder / "drops.jsonl"), _lines(folder / "kills.jsonl")
    findings.counts["drops"], findings.counts["kills"] = len(drops), len(kills)
    offset_ns = _offset(kills)
    bundles = _bundles(folder / "runs", offset_ns, findings)
    _check_jobs(folder / "spool", drops, bundles, findings)
    wire = _lines(folder / "twin" / "wire.jsonl")
    _check_samples(bundles, kills, wire, findings)
    _check_intents(bundles, wire, findings)
    return findings


# --- jobs -----------------------------------------------------------------------------------------


def _check_jobs(
    spool: Path, drops: list[dict[str, Any]], bundles: list[Bundle], findings: Findings
) -> None:
    places: dict[str, list[tuple[str, Path]]] = {}
    for state in STATES:
        for folder in sorted((spool / state).iterdir()):
            findings.check(not folder.name.startswith("."), f"{folder}: was left behind")
            findings.counts[f"jobs {state}"] += 1
            _check_job(folder, state, bundles, places, findings)
    waiting = [f.name for f in (spool / "incoming").iterdir() if not f.name.startswith(".")]
    for drop in drops:
        found = places.get(drop["name"], [])
        count = len(found) + waiting.count(drop["name"])
        findings.check(count == 1, f"{drop['name']}: is in {count} places: {found}")
        for _, folder in found:
            digest = hashlib.sha256((folder / drop["name"]).read_bytes()).hexdigest()
            findings.check(digest == drop["sha256"], f"{folder}: is not what was dropped")
    jobs = {folder.name for found in places.values() for _, folder in found}
    for bundle in bundles:
        job = bundle.manifest.get("job")
        findings.check(job in jobs, f"{bundle.path}: belongs to no job ({job})")


def _check_job(
    folder: Path,
    state: str,
    bundles: list[Bundle],
    places: dict[str, list[tuple[str, Path]]],
    findings: Findings,
) -> None:
    try:
        job = json.loads((folder / "job.json").read_bytes())
    except (OSError, ValueError) as error:
        findings.check(False, f"{folder}: job.json can't be read: {error}")
        return
    places.setdefault(job["file"], []).append((state, folder))
    history = [move["state"] for move in job["history"]]
    findings.check(history and history[-1] == state, f"{folder}: its history ends with {history}")
    for before, after in zip([None, *history], history, strict=False):
        fits = after in MAY_FOLLOW.get(before, set())
        findings.check(fits, f"{folder}: {after} can't follow {before}: {history}")
    findings.check(state != "active", f"{folder}: is active, though nothing runs")
    runs = [b for b in bundles if b.manifest.get("job") == job["id"]]
    findings.check(len(runs) <= 1, f"{folder}: was run {len(runs)} times")
    good = [b for b in runs if _is_good(b)]
    if state == "done":
        findings.check(good, f"{folder}: is called done, and no bundle says so")
    elif good:
        findings.check(False, f"{folder}: is in {state}/, but {good[0].path.name} was completed")
    if state in OVER:
        _check_report(folder, state, findings)


def _check_report(folder: Path, state: str, findings: Findings) -> None:
    try:
        report = json.loads((folder / "report.json").read_bytes())
    except (OSError, ValueError) as error:
        findings.check(False, f"{folder}: report.json can't be read: {error}")
        return
    told = report["outcome"]
    findings.check(told == state, f"{folder}: its report says {told}")
    findings.check((folder / "report.txt").stat().st_size, f"{folder}: report.txt is empty")


def _is_good(bundle: Bundle) -> bool:
    manifest = bundle.manifest
    return (manifest["run_status"], manifest["bundle_status"]) == ("completed", "sealed")


# --- bundles --------------------------------------------------------------------------------------


def _bundles(runs: Path, offset_ns: int, findings: Findings) -> list[Bundle]:
    bundles = []
    for folder in sorted(runs.iterdir()):
        if not folder.is_dir():
            continue
        if not findings.check(not folder.name.startswith("."), f"{folder}: was left behind"):
            continue
        findings.counts["bundles"] += 1
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            bundles.append(_bundle(folder, manifest, offset_ns, findings))
        except (OSError, ValueError, sqlite3.Error) as error:
            findings.check(False, f"{folder}: can't be read: {error}")
    return bundles


def _bundle(folder: Path, manifest: dict[str, Any], offset_ns: int, findings: Findings) -> Bundle:
    status = manifest["bundle_status"]
    findings.counts[f"bundles {manifest['run_status']}"] += 1
    if findings.check(status == "sealed", f"{folder}: is {status}: {manifest['finalize_notes']}"):
        _check_sums(folder, manifest, findings)
    began_utc = datetime.fromisoformat(manifest["started_utc"])
    began_ns = round(began_utc.timestamp() * 1e9) - offset_ns
    rows = _event_rows(folder, findings)
    events = [(began_ns + row[1], row[3], json.loads(row[7])) for row in rows]
    if rows and len(rows[0]) > 8:
        _check_chain(folder, manifest, rows, findings)
    return Bundle(folder, manifest, began_ns, events)


def _check_sums(folder: Path, manifest: dict[str, Any], findings: Findings) -> None:
    sums = {}
    for line in (folder / "manifest.sha256").read_text().splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    unsummed = {"manifest.sha256", "manifest.sha256.sig"}
    differ = (present - unsummed) ^ set(sums)
    findings.check(not differ, f"{folder}: files and sums differ: {sorted(differ)}")
    for name, digest in sums.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        findings.check(found == digest, f"{folder}/{name}: differs from its sum")
    listed = set(manifest["files"]) | {"manifest.json"}
    findings.check(listed == set(sums), f"{folder}: manifest and sums list different files")


def _event_rows(folder: Path, findings: Findings) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{folder}/events.sqlite?mode=ro", uri=True)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        findings.check(verdict == "ok", f"{folder}/events.sqlite: {verdict}")
        rows = connection.execute("SELECT * FROM events ORDER BY id").fetchall()
    findings.counts["events"] += len(rows)
    numbers = [row[0] for row in rows]
    complete = numbers == list(range(1, len(rows) + 1))
    findings.check(complete, f"{folder}: event ids are not 1, 2, 3, ...")
    return rows


def _check_chain(
    folder: Path, manifest: dict[str, Any], rows: list[tuple[Any, ...]], findings: Findings
) -> None:
    expected = hashlib.sha256(manifest["run_id"].encode()).hexdigest()
    for row in rows:
        findings.check(row[8] == expected, f"{folder}: the chain of events breaks at {row[0]}")
        text = json.dumps(list(row[:9]), ensure_ascii=False, separators=(",", ":"))
        expected = hashlib.sha256(text.encode()).hexdigest()
    head = (manifest.get("events_chain") or {}).get("head")
    findings.check(not rows or head == expected, f"{folder}: the chain's head is another")


# --- samples and commands against the wire --------------------------------------------------------


def _check_samples(
    bundles: list[Bundle],
    kills: list[dict[str, Any]],
    wire: list[dict[str, Any]],
    findings: Findings,
) -> None:
    """Each poll reply of the twin within a run has its sample, up to 1 s before a kill."""
    for link, (request, channel) in POLLS.items():
        replies = _poll_replies(wire, link, request)
        for bundle in bundles:
            begin, end = _judged(bundle, kills)
            asked = replies[bisect_left(replies, begin) : bisect_left(replies, end)]
            if not asked:
                continue
            times = _sample_times(bundle, channel)
            missing = _unmatched(asked, times)
            findings.counts["replies"] += len(asked)
            findings.counts["samples"] += len(times)
            told = [f"{(t - bundle.began_ns) / 1e9:.2f} s" for t in missing[:5]]
            until = (end - bundle.began_ns) / 1e9
            findings.check(
                not missing,
                f"{bundle.path.name}: {len(missing)} of {len(asked)} replies on {link} have no"
                f" sample of {channel} (at {told}; judged until {until:.2f} s)",
            )


def _judged(bundle: Bundle, kills: list[dict[str, Any]]) -> tuple[int, int]:
    """Return from when to when every sample has to be there."""
    armed = [at for at, kind, _ in bundle.events if kind == "run.armed"]
    if not armed:  # killed before it recorded anything
        return 0, 0
    begin = armed[0] + round(0.3e9)
    if bundle.manifest["run_status"] != "crashed":
        return begin, bundle.recorded_until_ns - round(0.5e9)
    after = [kill["t_ns"] for kill in kills if kill["t_ns"] > bundle.began_ns]
    return begin, min(after) - round(LOST_S * 1e9) if after else bundle.recorded_until_ns


def _poll_replies(wire: list[dict[str, Any]], link: str, request: str) -> list[int]:
    times, asked = [], False
    for record in wire:
        if record["link"] != link:
            continue
        if record["event"] == "rx":
            asked = record["hex"] == request
        elif record["event"] == "tx" and asked:
            times.append(record["t_ns"])
            asked = False
    return times


def _sample_times(bundle: Bundle, channel: str) -> list[int]:
    path = bundle.path / "scalars.parquet"
    table = pq.read_table(path, columns=["channel", "t_mono_ns"])
    names, times = table["channel"].to_pylist(), table["t_mono_ns"].to_pylist()
    return sorted(
        bundle.began_ns + at for name, at in zip(names, times, strict=True) if name == channel
    )


def _unmatched(replies: list[int], samples: list[int]) -> list[int]:
    """Return the replies that have no sample of their own within ``BESIDE_S``."""
    beside = round(BESIDE_S * 1e9)
    missing, place = [], 0
    for reply in replies:
        while place < len(samples) and samples[place] < reply - beside:
            place += 1
        if place < len(samples) and samples[place] <= reply + beside:
            place += 1
        else:
            missing.append(reply)
    return missing


def _check_intents(bundles: list[Bundle], wire: list[dict[str, Any]], findings: Findings) -> None:
    """Each value that a run put onto the wire was announced in its bundle before."""
    intents = [
        (at, event["device"], float(event["value"]))
        for bundle in bundles
        for at, kind, event in bundle.events
        if kind == "command.intent" and isinstance(event.get("value"), int | float)
    ]
    intents.sort()
    times = [intent[0] for intent in intents]
    for record in wire:
        if record["event"] != "output" or record["field"] != "setpoint":
            continue
        value = float(record["value"])
        if any(abs(value - safe) < 1e-6 for safe in SAFE_VALUES):
            continue
        findings.counts["outputs"] += 1
        first = bisect_left(times, record["t_ns"] - round(5e9))
        last = bisect_left(times, record["t_ns"] + round(0.02e9))
        announced = any(
            device == record["device"] and abs(asked - value) < 0.006
            for _, device, asked in intents[first:last]
        )
        what = f"{record['device']} was set to {value} at {record['t_ns']}, and no event says so"
        findings.check(announced, what)


# --- files ----------------------------------------------------------------------------------------


def _offset(kills: list[dict[str, Any]]) -> int:
    """Return what to take from the wall clock to get the twin's."""
    offsets = sorted(kill["wall_ns"] - kill["t_ns"] for kill in kills)
    return int(offsets[len(offsets) // 2]) if offsets else 0


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
