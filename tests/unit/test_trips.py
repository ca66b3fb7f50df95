"""Trips on disk: latched until cleared, and a file that can't be read is a trip."""

import fcntl
import json
import os
from pathlib import Path

import pytest
import structlog

from capa.errors import CapaError
from capa.runtime.safety_requests import answer, ask, open_box, take
from capa.runtime.trips import Trips, TripStore
from tests.support.engine import quiet_log


def tripped(folder: Path) -> tuple[Trips, TripStore]:
    trips, store = Trips(log=quiet_log()), TripStore(folder / "state")
    assert trips.latch("alarm over", "too hot", run_id="r1")
    return trips, store


def test_without_a_file_nothing_is_latched(tmp_path: Path) -> None:
    assert TripStore(tmp_path / "nowhere").load() == ()


def test_what_is_latched_is_there_again_after_a_restart(tmp_path: Path) -> None:
    trips, store = tripped(tmp_path)
    before = trips.unsaved
    trips.save(store)
    assert (before, trips.unsaved) == (True, False)
    (again,) = store.load()
    assert (again.rule, again.message, again.run_id) == ("alarm over", "too hot", "r1")


def test_the_same_rule_trips_once_and_keeps_its_first_words(tmp_path: Path) -> None:
    trips, _ = tripped(tmp_path)
    assert not trips.latch("alarm over", "still too hot")
    assert trips.text == "too hot"
    assert trips.latch("sensor pv", "broken")
    assert trips.text == "too hot; broken"


def test_clearing_is_recorded_with_name_reason_and_user(tmp_path: Path) -> None:
    trips, store = tripped(tmp_path)
    trips.save(store)
    trips.clear(by="maria", reason="looked at it", user="root")
    trips.save(store)
    assert store.load() == ()
    lines = [json.loads(line) for line in store.journal_file.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["latched", "cleared"]
    last = lines[1]
    assert (last["by"], last["user"], last["reason"]) == ("maria", "root", "looked at it")
    assert last["trips"][0]["message"] == "too hot"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000),
        *(b'{"trips": [{}]}', b'{"trips": 3}', b'{"trips": ""}', b'{"trips": {}}'),
    ],
    ids=lambda content: content[:16],
)
def test_a_file_that_cannot_be_read_is_a_trip_of_its_own(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trips.json").write_bytes(content)
    (trip,) = TripStore(tmp_path).load()
    assert "nobody knows what was latched" in trip.message


def test_what_could_not_be_saved_is_saved_later(tmp_path: Path) -> None:
    trips, store = tripped(tmp_path)
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(OSError, match="state"):
        trips.save(store)
    assert trips.unsaved
    (tmp_path / "state").unlink()
    trips.save(store)
    assert len(store.load()) == 1


# --- another program latches in the same files ----------------------------------------------------


def test_what_another_program_latched_stays_when_this_one_saves(tmp_path: Path) -> None:
    daemon, store = tripped(tmp_path)
    daemon.save(store)
    foreground = Trips(log=quiet_log())
    foreground.latch("sensor pv", "broken")
    foreground.save(store)
    assert [trip.message for trip in store.load()] == ["too hot", "broken"]
    daemon.clear(by="maria", reason="looked at it", user="root")
    daemon.save(store)
    assert [trip.message for trip in store.load()] == ["broken"]


def test_what_another_program_latched_is_taken_up_once_and_can_be_cleared(tmp_path: Path) -> None:
    foreground, store = tripped(tmp_path)
    foreground.latch("alarm over", "too hot")
    foreground.save(store)
    daemon = Trips(log=quiet_log())
    daemon.latch("sensor pv", "broken")
    assert [trip.message for trip in daemon.take_up(store.load())] == ["too hot"]
    assert daemon.text == "too hot; broken"
    assert daemon.take_up(store.load()) == ()
    daemon.clear(by="maria", reason="looked at it", user="root")
    assert daemon.take_up(store.load()) == ()  # the file is yet to be told
    assert daemon.latched == ()
    daemon.save(store)
    assert store.load() == ()


def test_a_damaged_file_whose_trip_was_cleared_is_replaced(tmp_path: Path) -> None:
    store = TripStore(tmp_path)
    store.file.write_text("{")
    trips = Trips(store.load(), log=quiet_log())
    trips.clear(by="maria", reason="looked at it", user="root")
    trips.save(store)
    assert store.load() == ()


def test_what_root_saves_is_left_to_whom_the_folder_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[int, int]] = {}

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        given[Path(f"/proc/self/fd/{descriptor}").readlink().name] = (uid, gid)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", fchown)
    trips, store = tripped(tmp_path)
    trips.save(store)
    whose = store.file.parent.stat()
    assert set(given.values()) == {(whose.st_uid, whose.st_gid)}
    assert any(name.startswith(".trips.json.") for name in given)
    assert "trips.jsonl" in given
    monkeypatch.setattr(os, "geteuid", lambda: 1971)
    given.clear()
    trips.latch("sensor pv", "broken")
    trips.save(store)
    assert given == {}


def test_a_link_in_the_journals_place_is_named_and_not_followed(tmp_path: Path) -> None:
    trips, store = tripped(tmp_path)
    (tmp_path / "state").mkdir()
    store.journal_file.symlink_to(tmp_path / "shadow")
    with pytest.raises(OSError, match="a link is in the way") as caught:
        trips.save(store)
    assert caught.value.filename == str(store.journal_file)
    assert not (tmp_path / "shadow").exists()
    assert [trip.message for trip in store.load()] == ["too hot"]


def test_a_folder_that_somebody_keeps_locked_keeps_no_trip_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capa.runtime.trips._PATIENCE_S", 0.02)
    store = TripStore(tmp_path)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(folder, fcntl.LOCK_SH)
    with structlog.testing.capture_logs() as logs:
        trips = Trips(log=structlog.get_logger())
        trips.latch("alarm over", "too hot")
        trips.save(store)
        assert [trip.message for trip in store.load()] == ["too hot"]
        os.close(folder)
        trips.latch("sensor pv", "broken")
        trips.save(store)
    warned = [log["message"] for log in logs if log["log_level"] == "warning"]
    assert warned == [f"another program keeps {tmp_path} locked; trips are saved all the same"]


@pytest.mark.parametrize("name", ["trips.json", "trips.jsonl"])
def test_the_file_that_can_not_be_written_is_named(tmp_path: Path, name: str) -> None:
    trips, store = tripped(tmp_path)
    (tmp_path / "state" / name).mkdir(parents=True)
    with pytest.raises(OSError, match="s a directory") as caught:
        trips.save(store)
    assert caught.value.filename == str(tmp_path / "state" / name)


def test_a_trip_is_logged_as_critical() -> None:
    with structlog.testing.capture_logs() as logs:
        Trips(log=structlog.get_logger()).latch("alarm over", "too hot")
    assert [(log["log_level"], log["message"]) for log in logs] == [("critical", "too hot")]


# --- requests by files ----------------------------------------------------------------------------


def test_a_request_is_taken_once_with_the_owner_of_its_file(tmp_path: Path) -> None:
    box = open_box(tmp_path)
    with pytest.raises(CapaError, match="did not answer"):
        ask(tmp_path, "show", within_s=0)
    assert list(box.iterdir()) == []  # nobody is there: nothing waits for whoever comes later
    (box / "1.request.json").write_text('{"do": "clear", "by": "maria", "reason": "x"}')
    (request,) = take(box)
    assert (request.do, request.by, request.reason) == ("clear", "maria", "x")
    assert request.user == box.owner()
    assert take(box) == []


def test_a_request_of_root_with_a_strict_umask_can_be_read_by_the_daemons_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, seen = open_box(tmp_path), list[int]()

    def look(_s: float) -> None:
        seen.extend(path.stat().st_mode & 0o777 for path in box.glob("*.request.json"))
        for request in take(box):
            answer(box, request.id, {"ok": True, "text": request.do})

    monkeypatch.setattr("capa.runtime.safety_requests.time.sleep", look)
    before = os.umask(0o077)
    try:
        assert ask(tmp_path, "show") == {"ok": True, "text": "show"}
    finally:
        os.umask(before)
    assert seen == [0o644]


def test_what_is_no_request_is_answered_as_such(tmp_path: Path) -> None:
    box = open_box(tmp_path)
    (box / "1.request.json").write_text("rubbish")
    (box / "2.request.json").symlink_to("/etc/passwd")
    (box / "3.request.json").write_bytes(b"x" * 100_000)
    (box / "4.request.json").write_text("[]")
    (box / "stranger").write_text("left alone")
    assert take(box) == []
    replies = sorted(path.name for path in box.iterdir())
    assert replies == ["1.reply.json", "2.reply.json", "3.reply.json", "4.reply.json", "stranger"]
    assert not json.loads((box / "1.reply.json").read_text())["ok"]


def test_without_a_daemon_the_folder_is_missed_in_words(tmp_path: Path) -> None:
    with pytest.raises(CapaError, match="is capad running"):
        ask(tmp_path, "show")


def test_an_answer_is_a_whole_file(tmp_path: Path) -> None:
    box = open_box(tmp_path)
    answer(box, "7", {"ok": True})
    assert json.loads((box / "7.reply.json").read_text()) == {"ok": True}
