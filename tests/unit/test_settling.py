"""When a dropped file counts as complete."""

import os
import stat
from dataclasses import replace

from capad.settling import Settling, Stamp

SETTLE_S = 0.25


def stamp(size: int = 10, *, mtime_ns: int = 0, age_s: float = 0.0) -> Stamp:
    return Stamp(inode=1, size=size, mtime_ns=mtime_ns, mode=stat.S_IFREG, uid=0, age_s=age_s)


def names(settling: Settling, now_s: float) -> list[str]:
    return [name for name, _ in settling.due(now_s)]


def test_a_file_is_taken_once_it_has_been_still_for_the_settle_time() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"a": stamp()}, 0.0)
    assert names(settling, 0.24) == []
    settling.look({"a": stamp()}, 0.25)
    assert names(settling, 0.25) == ["a"]


def test_a_file_that_is_still_being_written_starts_to_settle_anew_with_every_change() -> None:
    settling = Settling(SETTLE_S)
    for tick in range(20):
        settling.look({"a": stamp(size=tick)}, tick * 0.1)
        assert names(settling, tick * 0.1) == []
    settling.look({"a": stamp(size=19)}, 2.2)
    assert names(settling, 2.2) == ["a"]


def test_the_time_since_the_rename_counts_so_that_the_watchers_delay_is_not_paid_twice() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"a": stamp(age_s=0.08)}, 1.0)
    assert settling.next_at_s(1.0) == 1.0 + SETTLE_S - 0.08


def test_however_old_a_file_is_it_is_looked_at_twice() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"a": stamp(age_s=3600)}, 0.0)
    assert names(settling, 0.0) == []
    assert names(settling, 0.05) == ["a"]


def test_a_file_from_the_future_gets_no_credit() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"a": stamp(age_s=-7200)}, 0.0)
    assert settling.next_at_s(0.0) == SETTLE_S


def test_a_change_while_it_settles_earns_no_credit_either() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"a": stamp(size=1)}, 0.0)
    settling.look({"a": stamp(size=2, age_s=0.2)}, 0.2)
    assert settling.next_at_s(0.2) == 0.2 + SETTLE_S


def test_files_that_settle_together_are_taken_together_by_name() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"b": stamp()}, 0.0)
    settling.look({"b": stamp(), "a": stamp()}, 0.03)
    assert names(settling, 0.25) == []
    assert settling.next_at_s(0.25) == 0.28
    assert names(settling, 0.28) == ["a", "b"]


def test_a_stream_of_files_does_not_put_the_first_off_for_ever() -> None:
    settling = Settling(SETTLE_S)
    seen: dict[str, Stamp] = {}
    for tick in range(40):
        seen[f"f{tick:02}"] = stamp()
        settling.look(seen, tick * 0.04)
    assert "f00" in names(settling, 0.31)


def test_a_half_copied_file_does_not_keep_another_one_waiting() -> None:
    settling = Settling(SETTLE_S)
    for tick in range(6):
        settling.look({"a": stamp(size=tick), "b": stamp()}, tick * 0.05)
    assert names(settling, 0.27) == ["b"]


def test_names_are_ordered_by_their_bytes() -> None:
    settling = Settling(SETTLE_S)
    odd = os.fsdecode(b"\xff.method.toml")
    settling.look({"ä": stamp(), odd: stamp(), "z": stamp(), "B": stamp()}, 0.0)
    assert names(settling, 0.25) == ["B", "z", "ä", odd]


def test_a_file_that_vanished_is_forgotten() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"a": stamp()}, 0.0)
    settling.look({}, 0.1)
    assert names(settling, 1.0) == []
    assert len(settling) == 0


def test_a_file_that_was_replaced_settles_anew() -> None:
    settling = Settling(SETTLE_S)
    settling.look({"a": stamp()}, 0.0)
    settling.look({"a": replace(stamp(), inode=2)}, 0.2)
    assert names(settling, 0.3) == []
