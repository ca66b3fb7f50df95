"""The spool on disk: claims, moves, refusals; what a kill leaves half-done is completed."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from capa.config.problems import ProblemsError
from capad import spool_folders
from capad.jobs import IllegalMoveError, Job, JobState, kept_name
from capad.spool_folders import SpoolFolders, owner_name


@pytest.fixture
def folders(tmp_path: Path) -> SpoolFolders:
    made = SpoolFolders(tmp_path / "spool", max_bytes=1000)
    made.prepare()
    return made


def drop(folders: SpoolFolders, name: str, text: str = "x = 1\n") -> Path:
    path = folders.incoming / name
    path.write_text(text)
    return path


def claim(folders: SpoolFolders, name: str) -> Job:
    job = folders.claim(name, folders.look()[name])
    assert job is not None
    return job


def refusal(folders: SpoolFolders, job: Job) -> str:
    with pytest.raises(ProblemsError) as caught:
        folders.content(job)
    return str(caught.value)


def test_a_claimed_file_is_in_the_queue_with_its_job_file_and_nowhere_else(
    folders: SpoolFolders,
) -> None:
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")
    assert list(folders.incoming.iterdir()) == []
    assert sorted(p.name for p in folders.path(job).iterdir()) == ["a.method.toml", "job.json"]
    said = json.loads((folders.path(job) / "job.json").read_text())
    assert said["owner"] == owner_name(os.getuid())
    assert said["sha256"]
    assert [move["state"] for move in said["history"]] == ["queued"]


def test_the_same_file_dropped_twice_is_two_jobs(folders: SpoolFolders) -> None:
    first = (drop(folders, "a.method.toml"), claim(folders, "a.method.toml"))[1]
    second = (drop(folders, "a.method.toml"), claim(folders, "a.method.toml"))[1]
    assert [job.id for job in folders.jobs(JobState.QUEUED)] == [first.id, second.id]
    assert first.sha256 == second.sha256


def test_a_file_that_is_removed_while_it_is_claimed_is_no_error_and_no_job(
    folders: SpoolFolders,
) -> None:
    path = drop(folders, "a.method.toml")
    seen = folders.look()["a.method.toml"]
    path.unlink()
    assert folders.claim("a.method.toml", seen) is None
    assert list((folders.root / "queued").iterdir()) == []


def test_a_file_that_changes_while_it_is_claimed_is_given_back(folders: SpoolFolders) -> None:
    path = drop(folders, "a.method.toml")
    seen = folders.look()["a.method.toml"]
    path.write_text("more than before\n")
    assert folders.claim("a.method.toml", seen) is None
    assert path.read_text() == "more than before\n"
    assert list((folders.root / "queued").iterdir()) == []


def test_numbering_goes_on_where_the_last_daemon_stopped(folders: SpoolFolders) -> None:
    drop(folders, "a.method.toml")
    job = folders.move(claim(folders, "a.method.toml"), JobState.REJECTED)
    again = SpoolFolders(folders.root, max_bytes=1000)
    again.prepare()
    drop(again, "b.method.toml")
    assert claim(again, "b.method.toml").id > job.id


def test_a_claim_that_a_kill_cut_short_is_completed_at_the_next_start(
    folders: SpoolFolders,
) -> None:
    staged = folders.root / "queued" / ".000007-20261120-131500-a"
    staged.mkdir()
    (staged / "a.method.toml").write_text("x = 1\n")
    (job,) = folders.complete_staged()
    assert (job.id, job.name) == ("000007-20261120-131500-a", "a.method.toml")
    assert list(folders.jobs(JobState.QUEUED)) == [job]


def test_a_claim_that_a_kill_cut_short_before_the_rename_leaves_nothing(
    folders: SpoolFolders,
) -> None:
    (folders.root / "queued" / ".000007-20261120-131500-a").mkdir()
    assert folders.complete_staged() == []
    assert list((folders.root / "queued").iterdir()) == []


def test_a_file_named_like_one_of_ours_is_kept_under_another_name(folders: SpoolFolders) -> None:
    drop(folders, "report.txt")
    job = folders.move(claim(folders, "report.txt"), JobState.REJECTED)
    folders.report(job, "{}", "the report")
    assert (folders.path(job) / "report.txt").read_text() == "the report"
    assert (folders.path(job) / "dropped-report.txt").read_text() == "x = 1\n"


@pytest.mark.parametrize(
    "name", ["dropped-a.method.toml", "report.txt", "a.capa-tmp", f"job.json{'x' * 247}"]
)
def test_a_claim_that_a_kill_cut_short_keeps_its_file_whatever_its_name_is(
    folders: SpoolFolders, name: str
) -> None:
    staged = folders.root / "queued" / ".000007-20261120-131500-a"
    staged.mkdir()
    drop(folders, name).rename(staged / kept_name(name))
    (job,) = folders.complete_staged()
    assert (folders.path(job) / job.kept).read_text() == "x = 1\n"
    assert job.name == name if len(name) < 248 else job.name.startswith("job.json")


def test_a_name_that_is_too_long_for_a_prefix_is_cut_and_taken(folders: SpoolFolders) -> None:
    name = f"job.json{'x' * 235}.method.toml"
    drop(folders, name)
    job = claim(folders, name)
    assert (job.name, len(job.kept)) == (name, 255)
    assert folders.content(job) == b"x = 1\n"


def test_strangers_in_the_queues_folder_are_left_alone_and_stop_nobody(
    folders: SpoolFolders,
) -> None:
    queued = folders.root / "queued"
    (queued / ".nfs0001").write_text("")
    (queued / "000099-stray").write_text("")
    (queued / ".snapshot").mkdir()
    (queued / ".snapshot" / "a").write_text("")
    before = sorted(queued.rglob("*"))
    folders.prepare()
    assert folders.complete_staged() == []
    folders.put_right()
    assert sorted(queued.rglob("*")) == before
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")
    assert list(folders.jobs(JobState.QUEUED)) == [job]


def test_a_file_from_past_the_calendar_is_claimed(folders: SpoolFolders) -> None:
    drop(folders, "a.method.toml")
    stamp = replace(folders.look()["a.method.toml"], changed_ns=10**21)
    job = folders.claim("a.method.toml", stamp)
    assert job is not None
    assert str(job.dropped_utc).startswith("9999-12-31")


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"id": 5}', "[" * 100_000])
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.ACTIVE])
def test_a_job_whose_record_is_damaged_is_told_anew_from_its_file(
    folders: SpoolFolders, state: JobState, text: str | None
) -> None:
    drop(folders, "report.txt")
    job = claim(folders, "report.txt")
    if state is JobState.ACTIVE:
        job = folders.move(job, state)
    record = folders.path(job) / "job.json"
    record.unlink()
    if text is not None:
        record.write_text(text)
    folders.prepare()
    (found,) = folders.jobs(state)
    assert (found.id, found.name, found.sha256) == (job.id, "report.txt", job.sha256)
    assert "made anew" in found.history[-1].note
    kept = folders.path(found) / "job.json.damaged"
    assert (kept.read_text() if kept.exists() else None) == text
    folders.prepare()
    assert list(folders.jobs(state)) == [found]


def replaced_by_a_folder(record: Path) -> None:
    record.unlink()
    record.mkdir()


def replaced_by_a_pipe(record: Path) -> None:
    record.unlink()
    os.mkfifo(record)


def replaced_by_a_loop(record: Path) -> None:
    record.unlink()
    record.symlink_to(record)


@pytest.mark.parametrize("spoil", [replaced_by_a_folder, replaced_by_a_pipe, replaced_by_a_loop])
def test_a_record_that_is_no_file_is_kept_aside_and_stops_nobody(
    folders: SpoolFolders, spoil: Callable[[Path], None]
) -> None:
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")
    spoil(folders.path(job) / "job.json")
    assert list(folders.jobs(JobState.QUEUED)) == []
    folders.prepare()
    (found,) = folders.jobs(JobState.QUEUED)
    assert found.sha256 == job.sha256
    assert os.path.lexists(folders.path(found) / "job.json.damaged")


def test_a_record_that_may_not_be_read_is_kept_aside_and_stops_nobody(
    folders: SpoolFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")
    denied = (folders.path(job) / "job.json").stat().st_ino
    honest = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if os.path.lexists(path) and os.lstat(path).st_ino == denied:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return honest(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    folders.prepare()
    assert [found.id for found in folders.jobs(JobState.QUEUED)] == [job.id]
    assert (folders.path(job) / "job.json.damaged").stat().st_ino == denied


def test_a_folder_that_may_not_be_written_into_is_a_stranger_and_stops_nobody(
    folders: SpoolFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.method.toml", "b.method.toml"):
        drop(folders, name)
        claim(folders, name)
    first, second = folders.jobs(JobState.QUEUED)
    for job in (first, second):
        (folders.path(job) / "job.json").unlink()
    refuse_writing(monkeypatch, first)
    folders.prepare()
    assert [job.id for job in folders.jobs(JobState.QUEUED)] == [second.id]


def test_a_history_that_may_not_be_put_right_stops_nobody(
    folders: SpoolFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.method.toml", "b.method.toml"):
        drop(folders, name)
        claim(folders, name)
    first, second = folders.jobs(JobState.QUEUED)
    for job in (first, second):  # as a kill before the move to active/ leaves them
        said = (folders.path(job) / "job.json").read_text()
        (folders.path(job) / "job.json").write_text(said.replace('"queued"', '"active"'))
    refuse_writing(monkeypatch, first)
    folders.put_right()
    ends = [job.history[-1].state for job in folders.jobs(JobState.QUEUED)]
    assert ends == [JobState.ACTIVE, JobState.QUEUED]


def refuse_writing(monkeypatch: pytest.MonkeyPatch, into: Job) -> None:
    honest = SpoolFolders.save

    def save(of: SpoolFolders, job: Job) -> Job:
        if job.id == into.id:
            raise PermissionError(errno.EACCES, "Permission denied")
        return honest(of, job)

    monkeypatch.setattr(SpoolFolders, "save", save)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_record_that_cannot_be_read_just_now_is_left_as_it_is(
    folders: SpoolFolders, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")

    def fail(_path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(spool_folders, "_read_at_once", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            folders.prepare()
    folders.prepare()
    assert [found.history for found in folders.jobs(JobState.QUEUED)] == [job.history]
    assert not (folders.path(job) / "job.json.damaged").exists()


def test_a_record_that_is_damaged_again_leaves_the_first_one_as_it_was_kept(
    folders: SpoolFolders,
) -> None:
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")
    for text in ("first", "second", "third"):
        (folders.path(job) / "job.json").write_text(text)
        folders.prepare()
    kept = {path.name: path.read_text() for path in folders.path(job).glob("job.json.*")}
    names = ("job.json.damaged", "job.json.damaged.2", "job.json.damaged.3")
    assert kept == dict(zip(names, ("first", "second", "third"), strict=True))
    assert [found.id for found in folders.jobs(JobState.QUEUED)] == [job.id]


def test_a_copy_of_a_jobs_folder_is_a_job_of_its_own_number(folders: SpoolFolders) -> None:
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")
    copy = folders.root / "queued" / "000042-20261120-131500-copy"
    shutil.copytree(folders.path(job), copy)
    assert [found.id for found in folders.jobs(JobState.QUEUED)] == [job.id, copy.name]


def test_a_symlink_is_refused_and_what_it_points_to_is_not_touched(
    folders: SpoolFolders, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    (folders.incoming / "a.method.toml").symlink_to(secret)
    assert "is a symbolic link" in refusal(folders, claim(folders, "a.method.toml"))
    assert secret.read_text() == "not yours"


def test_a_directory_is_refused(folders: SpoolFolders) -> None:
    (folders.incoming / "a.method.toml").mkdir()
    assert "is a directory" in refusal(folders, claim(folders, "a.method.toml"))


def test_a_named_pipe_is_refused_without_being_opened(folders: SpoolFolders) -> None:
    os.mkfifo(folders.incoming / "a.method.toml")
    assert "is a named pipe" in refusal(folders, claim(folders, "a.method.toml"))


def test_a_file_that_is_too_large_is_refused_by_its_size(folders: SpoolFolders) -> None:
    drop(folders, "a.method.toml", "x" * 1001)
    assert "1001 bytes; at most 1000" in refusal(folders, claim(folders, "a.method.toml"))


def test_only_the_listed_owners_files_are_run(tmp_path: Path) -> None:
    folders = SpoolFolders(tmp_path, max_bytes=1000, owners=("alice",))
    folders.prepare()
    drop(folders, "a.method.toml")
    said = refusal(folders, claim(folders, "a.method.toml"))
    assert "whose files are not run here" in said
    assert "alice" in said


def test_names_that_say_that_a_file_is_not_complete_are_not_looked_at(
    folders: SpoolFolders,
) -> None:
    for name in (".a.method.toml", "a.method.toml~", "a.method.toml.part", "a.TMP", "a.swp"):
        drop(folders, name)
    assert folders.look() == {}


def test_a_finished_job_goes_nowhere_any_more(folders: SpoolFolders) -> None:
    drop(folders, "a.method.toml")
    job = folders.move(
        folders.move(claim(folders, "a.method.toml"), JobState.ACTIVE), JobState.DONE
    )
    with pytest.raises(IllegalMoveError, match="is done; it cannot become active"):
        folders.move(job, JobState.ACTIVE)
    assert [found.id for found in folders.jobs(JobState.DONE)] == [job.id]


def test_every_move_is_in_the_jobs_history(folders: SpoolFolders) -> None:
    drop(folders, "a.method.toml")
    job = folders.move(claim(folders, "a.method.toml"), JobState.ACTIVE)
    job = folders.move(job, JobState.FAILED, "aborted")
    said = json.loads((folders.path(job) / "job.json").read_text())
    assert [(m["state"], m["note"]) for m in said["history"]] == [
        ("queued", ""),
        ("active", ""),
        ("failed", "aborted"),
    ]


def test_a_file_that_cannot_be_moved_uses_up_no_numbers(
    folders: SpoolFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(folders, "a.method.toml")
    honest = Path.rename

    def refused(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "rename", refused)
    for _ in range(3):
        with pytest.raises(PermissionError):
            claim(folders, "a.method.toml")
    monkeypatch.setattr(Path, "rename", honest)
    assert claim(folders, "a.method.toml").id.startswith("000001-")


def test_what_a_killed_writer_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    folders = SpoolFolders(tmp_path / "spool", max_bytes=1000)
    folders.prepare()
    drop(folders, "a.method.toml")
    job = claim(folders, "a.method.toml")
    left = [
        folders.root / ".hold.0badcafe.capa-tmp",
        folders.path(job) / ".job.json.0badcafe.capa-tmp",
    ]
    theirs = folders.incoming / ".mine.0badcafe.capa-tmp"
    for path in (*left, theirs):
        path.write_text("{")
    SpoolFolders(tmp_path / "spool", max_bytes=1000).prepare()
    assert not any(path.exists() for path in left)
    assert theirs.exists()
    assert [one.id for one in folders.jobs(JobState.QUEUED)] == [job.id]
