"""Whatever bytes a file's name has, its job can be named, ordered, stored and shown."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from capad.jobs import (
    Job,
    JobState,
    Move,
    is_temporary,
    job_id,
    kept_name,
    kind_of,
    sequence_of,
    shown_name,
)
from capad.spool_folders import SpoolFolders

NOW = datetime(2026, 11, 20, 13, 15, tzinfo=UTC)
name_bytes = (
    st.binary(min_size=1, max_size=255)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda raw: raw not in (b".", b".."))
)
names = name_bytes.map(os.fsdecode)


@given(name=names)
def test_any_name_is_shown_as_printable_text(name: str) -> None:
    shown = shown_name(name)
    assert shown.isprintable()
    shown.encode("utf-8")


@given(name=names, sequence=st.integers(1, 10**9))
def test_a_job_id_is_a_plain_folder_name_that_tells_its_number(name: str, sequence: int) -> None:
    folder = job_id(sequence, NOW, name)
    assert folder.isascii()
    assert "/" not in folder
    assert len(folder) < 100
    assert sequence_of(folder) == sequence


@given(name=names, first=st.integers(1, 999_998), step=st.integers(1, 1000))
def test_job_ids_sort_in_the_order_of_their_numbers(name: str, first: int, step: int) -> None:
    later = min(first + step, 999_999)
    assert job_id(first, NOW, name) < job_id(later, NOW, "a")


@given(name=names)
def test_a_job_survives_its_own_json(name: str) -> None:
    job = Job(
        id=job_id(1, NOW, name),
        name=name,
        kept=kept_name(name),
        owner="alice",
        uid=1971,
        state=JobState.QUEUED,
        sha256="0" * 64,
        history=(Move(JobState.QUEUED, NOW.isoformat()),),
    )
    assert Job.from_json(json.loads(json.dumps(job.to_json())), JobState.QUEUED) == job


@given(stem=names)
def test_a_name_that_is_kept_never_collides_with_our_own_files(stem: str) -> None:
    for ours in ("job.json", "report.json", "report.txt"):
        assert kept_name(ours) != ours
    assert kept_name(stem) not in ("job.json", "report.json", "report.txt")


@given(name=names)
def test_temporary_names_stay_temporary_whatever_they_hold(name: str) -> None:
    assert is_temporary(f".{name}")
    for end in ("~", ".part", ".tmp", ".swp", ".filepart"):
        assert is_temporary(f"{name}{end}")


@given(name=names)
def test_any_name_that_the_disk_takes_is_claimed_and_found_again(name: str) -> None:
    name = name[:200] if len(os.fsencode(name[:200])) <= 200 else name[:50]
    with TemporaryDirectory() as folder:
        folders = SpoolFolders(Path(folder), max_bytes=1000)
        folders.prepare()
        (folders.incoming / name).write_bytes(b"x")
        seen = folders.look()
        if is_temporary(name):
            assert seen == {}
            return
        job = folders.claim(name, seen[name])
        assert job is not None
        assert list(folders.jobs(JobState.QUEUED)) == [job]
        assert folders.content(job) == b"x"
        assert kind_of(name) in (None, "method", "experiment")
