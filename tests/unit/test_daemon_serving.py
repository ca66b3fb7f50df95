"""Whatever ends the daemon's service of a rig, the rig is left safe before its links close."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from capad.console import Console
from capad.daemon import Daemon, Options
from capad.settings import Settings
from capad.supervision import Notifier
from tests.support.engine import quiet_log


class Rig:
    """Stands where the open rig would be, and notes in which order it was left."""

    def __init__(self) -> None:
        self.story: list[str] = []

    @asynccontextmanager
    async def opened(self, _parts: object) -> AsyncIterator["Rig"]:
        try:
            yield self
        finally:
            self.story.append("links closed")

    async def become_safe(self, _bench: object) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def leave_safe(self, _bench: object) -> None:
        await trio.sleep(2)
        self.story.append("made safe")

    async def work(self, *_given: object) -> None:
        await trio.sleep_forever()


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
async def daemon(rig: Rig, tmp_path: Path) -> Daemon:
    settings = Settings.model_validate(
        {"spool": {"root": tmp_path / "spool"}, "runtime": {"dir": tmp_path / "run"}}
    )
    notifier = Notifier({})
    one: Any = Daemon(
        settings, Options(), console=Console(None), notifier=notifier, log=quiet_log()
    )
    one._opening = one._safing = one._working = rig
    daemon: Daemon = one
    return daemon


async def serve(daemon: Daemon) -> None:
    parts: Any = None
    async with trio.open_nursery() as nursery:
        await daemon._serve(nursery, parts)


async def test_a_daemon_that_is_cancelled_makes_the_rig_safe_first(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig
) -> None:
    with trio.move_on_after(60):
        await serve(daemon)
    assert rig.story == ["made safe", "links closed"]


async def test_a_bug_in_the_daemon_makes_the_rig_safe_before_it_is_told(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(*_given: object) -> None:
        await trio.sleep(1)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(rig, "work", work)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await serve(daemon)
    assert rig.story == ["made safe", "links closed"]


async def test_safing_that_hangs_does_not_make_a_daemon_that_never_ends(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_bench: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(rig, "leave_safe", hang)
    with trio.move_on_after(60):
        await serve(daemon)
    assert rig.story == ["links closed"]
    assert trio.current_time() < 100
