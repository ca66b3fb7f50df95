"""What the service manager hears, and when it hears nothing."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from capad.heartbeats import Heartbeat, Heartbeats
from capad.supervision import Notifier, Supervisor


class Manager:
    """The far end of the notify socket."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")

    def heard(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify", monkeypatch)
    yield made
    made.close()


class Box:
    """A daemon as the supervisor sees it."""

    def __init__(self, notifier: Notifier) -> None:
        self.beat_at_s = 0.0
        self.status = "IDLE"
        self.busy = False
        heartbeats = Heartbeats()
        heartbeats.watch(lambda: {"engine": Heartbeat(self.beat_at_s, 2.0)})
        self.supervisor = Supervisor(
            notifier,
            heartbeats,
            status=lambda: self.status,
            needs_time=lambda: self.busy,
            log=structlog.get_logger(),
        )


@pytest.fixture
def box(manager: Manager) -> Iterator[Box]:
    notifier = Notifier(os.environ)
    yield Box(notifier)
    notifier.close()


async def test_the_watchdog_is_fed_while_every_vital_loop_is_fresh_and_no_longer(
    manager: Manager, box: Box, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        box.beat_at_s = trio.current_time()
        nursery.start_soon(box.supervisor.run)
        await trio.sleep(1.9)
        assert "WATCHDOG=1" in manager.heard()
        await trio.sleep(1.0)
        manager.heard()
        await trio.sleep(10.0)
        assert "WATCHDOG=1" not in manager.heard()
        box.beat_at_s = trio.current_time()
        await trio.sleep(1.0)
        assert "WATCHDOG=1" in manager.heard()
        nursery.cancel_scope.cancel()


async def test_the_watchdog_is_fed_at_least_three_times_in_its_period(
    manager: Manager, box: Box, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        box.beat_at_s = trio.current_time() + 100
        nursery.start_soon(box.supervisor.run)
        await trio.sleep(2.99)
        assert manager.heard().count("WATCHDOG=1") >= 3
        nursery.cancel_scope.cancel()


async def test_a_status_is_sent_when_it_changes_and_only_then(
    manager: Manager, box: Box, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.supervisor.run)
        await trio.sleep(3)
        box.status = "RUN x"
        await trio.sleep(3)
        said = [line for line in manager.heard() if line.startswith("STATUS=")]
        assert said == ["STATUS=IDLE", "STATUS=RUN x"]
        nursery.cancel_scope.cancel()


def test_a_name_in_the_status_can_neither_break_the_line_nor_its_encoding(
    manager: Manager, box: Box
) -> None:
    box.status = "RUN Öl\nREADY=1"
    box.supervisor.refresh()
    assert manager.heard() == ["STATUS=RUN Öl READY=1"]


async def test_more_time_is_asked_for_while_a_stop_goes_on(
    manager: Manager, box: Box, autojump_clock: MockClock
) -> None:
    box.busy = True
    box.supervisor.stopping()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.supervisor.run)
        await trio.sleep(12)
        nursery.cancel_scope.cancel()
    heard = manager.heard()
    assert heard[0] == "STOPPING=1"
    assert heard.count("EXTEND_TIMEOUT_USEC=20000000") >= 3


def test_without_a_service_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier({})
    notifier.send("READY=1")
    assert notifier.watchdog_s is None


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    environment = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert Notifier(environment).watchdog_s is None


def test_a_service_manager_that_does_not_read_never_stops_the_engine(
    manager: Manager, box: Box
) -> None:
    for index in range(2000):
        box.status = f"RUN {index}"
        box.supervisor.refresh()
    assert len(manager.heard()) < 2000
    box.supervisor.ready()
    assert manager.heard() == ["STATUS=RUN 1999", "READY=1"]


def test_a_sign_of_life_that_found_no_room_is_not_told_later(manager: Manager) -> None:
    notifier = Notifier(os.environ)
    for _ in range(2000):
        notifier.send("WATCHDOG=1")
    manager.heard()
    notifier.send("STATUS=stuck")
    assert manager.heard() == ["STATUS=stuck"]
    notifier.close()


def test_an_address_at_which_nobody_listens_is_like_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Notifier(os.environ).send("READY=1")
