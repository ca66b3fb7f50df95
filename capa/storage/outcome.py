"""How a run ended, from its events: for a run whose manifest could not say so any more."""

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

from capa.storage.chain import walk_chain
from capa.storage.inflight import EVENTS_FILE, connect_for_reading, create_events, is_orphaned
from capa.storage.manifest import GUARD_FILE
from capa.storage.repaired import repaired
from capa.storage.work import Work

__all__ = ["INTERRUPTED", "close_times", "finish_events", "settle_outcome"]

INTERRUPTED = "interrupted: whatever recorded this run ended without closing it"
_TIME = "CASE WHEN typeof(t_mono_ns) = 'integer' AND t_mono_ns < 9e18 THEN t_mono_ns END"
"""The time of an event, unless the row was altered."""
_ENDED_AS = ("completed", "aborted", "crashed")


def finish_events(work: Work) -> None:
    """Make one sound file of the events, and follow their chain."""
    file = work.path / EVENTS_FILE
    missing = not file.exists() and not is_orphaned(file)
    path = repaired(work, EVENTS_FILE, create_events)
    if missing:
        work.note(f"{EVENTS_FILE} was missing; this one is empty")
    with closing(connect_for_reading(path)) as connection:
        query = f"SELECT count(*), coalesce(max({_TIME}), 0) FROM events"  # noqa: S608 - our own
        work.rows[EVENTS_FILE], last_ns = connection.execute(query).fetchone()
        _follow_chain(work, connection)
    work.last_ns = max(work.last_ns, last_ns)


def _follow_chain(work: Work, connection: sqlite3.Connection) -> None:
    columns = [row[1] for row in connection.execute("PRAGMA table_info(events)")]
    if "prev_hash" not in columns:
        work.note("the events are of format 1, which has no chain")
        return
    chain = walk_chain(connection.execute("SELECT * FROM events ORDER BY id"), work.manifest.run_id)
    entry = {"rows": chain.rows, "head": chain.head, "breaks": chain.breaks}
    work.update(events_chain=entry)
    if chain.breaks:
        places = ", ".join(map(str, chain.breaks[:10]))
        work.note(f"the chain of the events is broken at row {places}")


def settle_outcome(work: Work) -> None:
    """Decide how the run ended, and write it down.

    A manifest that still says ``running`` is one that could not be written at the end (a full
    disk), or that nobody was left to write. The event ``run.ended`` tells which.
    """
    if work.manifest.run_status == "running":
        with closing(connect_for_reading(work.path / EVENTS_FILE)) as connection:
            ended = _last_facts(connection, "run.ended")
            verdicts = _verdicts(connection)
        if ended.get("run_status") in _ENDED_AS:
            work.note("how the run ended is from its events: its manifest was not written any more")
            reason = str(ended.get("exit_reason", ""))
            work.update(run_status=ended["run_status"], exit_reason=reason)
        else:
            work.update(run_status="crashed", exit_reason=INTERRUPTED)
        if not work.manifest.verdicts:
            work.manifest = work.manifest.merged({"verdicts": verdicts})
    _take_guard_record(work)
    work.update(bundle_status="finalizing")
    work.save()


def _last_facts(connection: sqlite3.Connection, kind: str) -> dict[str, Any]:
    query = "SELECT metadata_json FROM events WHERE kind = ? ORDER BY id DESC LIMIT 1"
    row = connection.execute(query, (kind,)).fetchone()
    return {} if row is None else _facts(row[0])


def _verdicts(connection: sqlite3.Connection) -> dict[str, Any]:
    query = "SELECT metadata_json FROM events WHERE kind = 'safe_state.verdict' ORDER BY id"
    found = [_facts(text) for (text,) in connection.execute(query)]
    return {facts["channel"]: facts for facts in found if isinstance(facts.get("channel"), str)}


def _facts(text: object) -> dict[str, Any]:
    try:
        facts = json.loads(str(text))
    except ValueError:  # an altered row: the chain says so
        return {}
    return facts if isinstance(facts, dict) else {}


def _take_guard_record(work: Work) -> None:
    """Take what the guardian wrote into the manifest; the file itself stays as it is."""
    path = work.path / GUARD_FILE
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        work.note(f"{GUARD_FILE} can't be read: {error}")
        return
    if isinstance(record, dict):
        work.update(guard=record)


def close_times(work: Work) -> None:
    """Give an interrupted run the time of its last record as its end."""
    started = work.manifest.started_utc
    if work.manifest.ended_utc is None and started is not None:
        ended = started + timedelta(microseconds=work.last_ns / 1000)
        work.update(ended_utc=ended, duration_s=work.last_ns / 1e9)
