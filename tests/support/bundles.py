"""Bundles for tests: on disk or in virtual time, with a few lines to fill and read them."""

import json
import sqlite3
import subprocess
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio

from capa.channels.sample import Sample
from capa.clock import RunClock
from capa.storage.bundle import BundleWriter
from capa.storage.events import Severity

__all__ = [
    "ANCHOR",
    "CLOCK",
    "messages",
    "new_writer",
    "read_json",
    "say",
    "sha256sum_check",
    "unsealed_bundle",
]

ANCHOR = datetime(2026, 11, 20, 13, 15, tzinfo=UTC)
CLOCK = RunClock(anchor_s=0.0, anchor_utc=ANCHOR)


def new_writer(
    root: Path, run_id: str = "20261120-131500-0001", *, threaded: bool = False
) -> BundleWriter:
    """A writer, in the calling thread unless ``threaded``; channels a (degC) and b (g)."""
    return BundleWriter.create(
        root,
        run_id,
        CLOCK,
        files={"method.toml": "x = 1\n"},
        manifest={},
        channels={"a": "degC", "b": "g"},
        threaded=threaded,
    )


def say(
    writer: BundleWriter, message: str, *, severity: Severity = "info", at_s: float = 0
) -> None:
    """Write an event that says this."""
    writer.write_event(
        kind="test.said",
        message=message,
        severity=severity,
        source="test",
        t_mono_ns=CLOCK.ns_at(at_s),
        t_utc=ANCHOR + timedelta(seconds=at_s),
    )


def messages(path: Path) -> list[str]:
    """The messages of every event of a bundle, in order."""
    with closing(sqlite3.connect(path / "events.sqlite")) as connection:
        return [row[0] for row in connection.execute("SELECT message FROM events ORDER BY id")]


def read_json(path: Path) -> dict[str, Any]:
    """The manifest, as anybody would read it."""
    loaded: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return loaded


def sha256sum_check(path: Path) -> "subprocess.CompletedProcess[str]":
    """What the real tool says of the sums."""
    return subprocess.run(
        ["sha256sum", "--strict", "-c", "manifest.sha256"],
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )


def unsealed_bundle(
    root: Path, samples: Iterable[Sample] = (), texts: Iterable[str] = ("begun",)
) -> Path:
    """A closed, unsealed bundle of a completed run with these samples and events."""

    async def record() -> Path:
        writer = new_writer(root)
        for text in texts:
            say(writer, text)
        writer.write_samples(list(samples))
        await writer.committed()
        await writer.close(run_status="completed", exit_reason="the method is done", extra={})
        return writer.path

    return trio.run(record)
