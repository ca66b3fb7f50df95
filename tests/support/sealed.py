"""Bundles that are sealed and tiny, made in a millisecond: for what looks at many of them."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from capa.storage.manifest import BundleStatus, FileEntry, Manifest, RunStatus, write_manifest
from capa.storage.sums import SUMS_FILE, format_sums

__all__ = ["sealed_at"]

_DATA = b"10.5\n"


def sealed_at(
    root: Path,
    ended: datetime,
    *,
    job: int | None = None,
    tags: tuple[str, ...] = (),
    bundle_status: BundleStatus = "sealed",
    run_status: RunStatus = "completed",
) -> Path:
    """A whole bundle of a run that ended at a time, and that was the job of a number."""
    digest = hashlib.sha256(_DATA).hexdigest()
    run_id = f"{ended.astimezone(UTC):%Y%m%d-%H%M%S}-{0 if job is None else job:04x}"
    path = root / run_id
    path.mkdir(parents=True)
    (path / "data.txt").write_bytes(_DATA)
    manifest = Manifest(
        run_id=run_id,
        run_status=run_status,
        bundle_status=bundle_status,
        started_utc=ended,
        ended_utc=ended,
        operator={"id": "anna"},
        method="small",
        job=None if job is None else f"{job:06d}-20261120-131500-small",
        tags=tags,
        files={"data.txt": FileEntry(sha256=digest, size=len(_DATA))},
    )
    write_manifest(path, manifest)
    told = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / SUMS_FILE).write_bytes(format_sums({"data.txt": digest, "manifest.json": told}))
    return path
