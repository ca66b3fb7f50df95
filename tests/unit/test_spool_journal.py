"""The journal of a job: its history, who dropped it, what was seen before, who may read it."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capa.config.problems import ProblemsError
from capad import spool_folders
from capad.holding import Hold
from capad.jobs import Job, JobState
from capad.lock import ServiceLock
from capad.reports import rejection
from capad.seen import Seen
from capad.spool_folders import SpoolFolders


@pytest.fixture
def folders(tmp_path: Path) -> SpoolFolders:
    return opened(tmp_path)


def opened(tmp_path: Path) -> SpoolFolders:
    made = SpoolFolders(tmp_path / "spool", max_bytes=1000)
    made.prepare()
    return made


def dropped(folders: SpoolFolders, name: str = "a.method.toml", text: str = "x = 1\n") -> Job:
    (folders.incoming / name).write_text(text)
    job = folders.claim(name, folders.look()[name])
    assert job is not None
    return job


def told(folders: SpoolFolders, job: Job) -> dict[str, object]:
    said = json.loads((folders.path(job) / "job.json").read_text())
    assert isinstance(said, dict)
    return said


def test_the_history_tells_every_state_with_its_time(folders: SpoolFolders) -> None:
    job = folders.move(dropped(folders), JobState.ACTIVE)
    job = folders.move(job, JobState.QUEUED, "furnace does not answer")
    job = folders.move(folders.move(job, JobState.ACTIVE), JobState.DONE, "completed")
    history = told(folders, job)["history"]
    assert isinstance(history, list)
    states = [move["state"] for move in history]
    assert states == ["queued", "active", "queued", "active", "done"]
    assert history[2]["note"] == "furnace does not answer"
    times = [datetime.fromisoformat(move["at_utc"]) for move in history]
    assert times == sorted(times)


def test_the_job_tells_when_its_file_was_dropped(folders: SpoolFolders) -> None:
    before = datetime.now(UTC)
    said = told(folders, dropped(folders))
    when = datetime.fromisoformat(str(said["dropped_utc"]))
    assert timedelta(seconds=-1) < when - before < timedelta(seconds=10)


def test_a_kill_between_the_record_and_the_move_is_put_right(tmp_path: Path) -> None:
    folders = opened(tmp_path)
    job = dropped(folders)
    ahead = replace(job, history=(*job.history, spool_folders._move(JobState.ACTIVE, "")))
    folders.save(ahead)
    again = opened(tmp_path)
    again.put_right()
    (found,) = again.jobs(JobState.QUEUED)
    assert [move.state for move in found.history] == ["queued", "active", "queued"]
    assert "after a restart" in found.history[-1].note
    again.put_right()
    assert list(again.jobs(JobState.QUEUED)) == [found]


def test_identical_content_is_a_second_job_that_names_the_first(folders: SpoolFolders) -> None:
    first = dropped(folders, "a.method.toml")
    second = dropped(folders, "b.method.toml")
    third = dropped(folders, "c.method.toml", "x = 2\n")
    assert (first.earlier, third.earlier) == (None, None)
    assert second.earlier is not None
    assert second.earlier.job == first.id
    report = rejection(second, [])
    assert f"dropped before: job {first.id}" in report.as_text()
    assert json.loads(report.as_json())["seen_before"]["job"] == first.id


def test_content_is_recognized_after_a_restart_too(tmp_path: Path) -> None:
    first = dropped(opened(tmp_path))
    opened(tmp_path).move(first, JobState.REJECTED)
    second = dropped(opened(tmp_path))
    assert second.earlier is not None
    assert second.earlier.job == first.id


def test_a_job_folder_that_cannot_be_read_is_no_reason_not_to_claim(folders: SpoolFolders) -> None:
    broken = folders.root / "done" / "000001-20260101-000000-x"
    broken.mkdir()
    (broken / "job.json").write_text("{")
    assert Seen(folders.root).find("0" * 64) is None
    assert dropped(folders).earlier is None


def test_a_job_of_an_older_capad_is_still_read(folders: SpoolFolders) -> None:
    job = dropped(folders)
    said = told(folders, job)
    for key in ("dropped_utc", "seen_before", "priority", "not_before"):
        del said[key]
    (folders.path(job) / "job.json").write_text(json.dumps(said))
    (found,) = folders.jobs(JobState.QUEUED)
    assert (found.priority, found.not_before, found.earlier) == (0, None, None)


def test_a_queued_file_that_was_edited_is_not_run(folders: SpoolFolders) -> None:
    job = dropped(folders)
    (folders.path(job) / job.kept).write_text("x = 3\n")
    with pytest.raises(ProblemsError, match="changed while it waited"):
        folders.content(job)


def test_whatever_the_umask_reports_can_be_read_by_who_dropped_the_file(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folders = opened(tmp_path)
        job = folders.move(dropped(folders), JobState.REJECTED)
        report = rejection(job, [])
        folders.report(job, report.as_json(), report.as_text())
        folder = folders.path(job)
        for name in ("report.txt", "report.json", "job.json"):
            assert (folder / name).stat().st_mode & 0o777 == 0o644, name
        for place in (folder, folder.parent):
            assert place.stat().st_mode & 0o777 == 0o755, place
    finally:
        os.umask(before)


def test_a_clock_that_was_set_back_by_a_year_shows_in_the_history(
    folders: SpoolFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dropped(folders)
    past = datetime.now(UTC) - timedelta(days=365)
    monkeypatch.setattr(spool_folders, "utc_now", lambda: past)
    job = folders.move(job, JobState.ACTIVE)
    assert "clock was set back" in job.history[-1].note
    later = dropped(folders, "b.method.toml", "x = 9\n")
    assert sorted([later.id, job.id]) == [job.id, later.id]


def test_a_rename_whose_answer_got_lost_was_done_all_the_same(
    folders: SpoolFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def lossy(self: Path, target: Path) -> Path:
        rename(self, target)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "rename", lossy)
    job = folders.move(dropped(folders), JobState.ACTIVE)
    monkeypatch.undo()
    assert [found.id for found in folders.jobs(JobState.ACTIVE)] == [job.id]


def test_a_second_daemon_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    first, second = ServiceLock(tmp_path, "runs"), ServiceLock(tmp_path, "runs")
    first.acquire()
    with pytest.raises(ProblemsError, match=rf"another daemon records.*pid {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_fresh_lock_of_another_machine_is_respected_and_an_old_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / ".capad.lock"
    file.write_text("77 another-box\n")
    with pytest.raises(ProblemsError, match="pid 77 on another-box"):
        ServiceLock(tmp_path).acquire()
    os.utime(file, (1_000_000_000, 1_000_000_000))
    lock = ServiceLock(tmp_path)
    lock.acquire()
    assert file.read_text().startswith(f"{os.getpid()} ")
    lock.release()


def open_files() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


def test_a_record_that_is_a_folder_costs_no_descriptor(folders: SpoolFolders) -> None:
    record = folders.path(dropped(folders)) / "job.json"
    record.unlink()
    record.mkdir()
    before = open_files()
    assert list(folders.jobs(JobState.QUEUED)) == []
    assert open_files() == before


def test_a_hold_lasts_until_it_is_removed_or_released(tmp_path: Path) -> None:
    hold = Hold(tmp_path)
    hold.ask("x crashed\nand more")
    hold.write()
    hold.see(hold.read())
    assert hold.held == "x crashed"
    assert hold.path.stat().st_mode & 0o777 == 0o664
    hold.release()
    assert hold.read() is None
    hold.release()


def test_anything_that_is_called_hold_is_a_hold(tmp_path: Path) -> None:
    hold = Hold(tmp_path)
    hold.path.mkdir()
    before = open_files()
    said = hold.read()
    assert said is not None
    assert "can't be read" in said
    assert open_files() == before, "it is read at each rescan"
