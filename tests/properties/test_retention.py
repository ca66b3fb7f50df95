"""The promise of retention: whatever lies in the folder, only what was whole and old goes."""

import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from capa.storage.retention import Limits, pin_file, prune
from tests.support.sealed import sealed_at

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

STATES = (
    "whole",
    "altered",
    "cut",
    "stranger",
    "unsealed",
    "unsummed",
    "empty",
    "pinned",
    "tagged",
)


def _made(root: Path, number: int, days_ago: int, state: str) -> Path:
    path = sealed_at(
        root,
        NOW - timedelta(days=days_ago, seconds=number),
        job=number,
        bundle_status="finalizing" if state == "unsealed" else "sealed",
        tags=("keep",) if state == "tagged" else (),
    )
    spoiled = {
        "altered": ("data.txt", b"10.6\n"),
        "cut": ("data.txt", b"10"),
        "stranger": ("x", b""),
    }
    spoiled["empty"] = ("manifest.json", b"")
    if state in spoiled:
        name, data = spoiled[state]
        (path / name).write_bytes(data)
    elif state == "unsummed":
        (path / "manifest.sha256").unlink()
    elif state == "pinned":
        pin_file(root, path.name).touch()
    return path


def _whole(path: Path) -> bool:
    """What a stranger to our code says of a bundle."""
    done = subprocess.run(
        ["sha256sum", "--strict", "--status", "-c", "manifest.sha256"],
        cwd=path,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, 400), st.sampled_from(STATES)), max_size=8),
    max_age_days=st.one_of(st.none(), st.integers(1, 300)),
    low_disk=st.booleans(),
    min_runs=st.integers(1, 3),
    clock_error_days=st.sampled_from([0, 0, 365, -365]),
)
def test_only_whole_unpinned_old_bundles_go_and_never_the_newest(
    runs: list[tuple[int, str]],
    max_age_days: int | None,
    low_disk: bool,
    min_runs: int,
    clock_error_days: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = {_made(root, n, days, state): state for n, (days, state) in enumerate(runs, 1)}
        may_go = {path for path, state in made.items() if state == "whole" and _whole(path)}
        newest = set(sorted(made)[-min_runs:])
        limits = Limits(max_age_days, 1 if low_disk else None, min_runs)
        now = NOW + timedelta(days=clock_error_days)
        list(prune(root, limits, by="capad", now_utc=now, free_bytes=lambda path: 0))
        gone = {path for path in made if not path.exists()}
        assert gone <= may_go - newest
        told = root / "removed.jsonl"
        lines = told.read_text().splitlines() if told.exists() else []
        assert len(lines) == len(gone)
        if low_disk:
            protected = newest | set(list(made)[-min_runs:])
            assert may_go - protected <= gone
