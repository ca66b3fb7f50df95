"""Whatever ends the daemon's service of a rig, the rig is left safe before its links close."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from capa.config.problems import Problem, ProblemsError
from capad.console import Console
from capad.daemon import Daemon, Options
from capad.settings import Settings
from capad.supervision import Notifier
from tests.support.engine import quiet_log


class Rig:
    """Stands where the open rig would be, and notes in which order it was left."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.of: list[object] = []
        self.busy, self.waited = "", False

    @asynccontextmanager
    async def opened(self, parts: object) -> AsyncIterator["Rig"]:
        self.of.append(parts)
        try:
            yield self
        finally:
            self.story.append("links closed")

    async def become_safe(self, _bench: object) -> bool:
        await trio.lowlevel.checkpoint()
        self.story.append("became safe")
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
    assert rig.story == ["became safe", "made safe", "links closed"]


async def test_a_bug_in_the_daemon_makes_the_rig_safe_before_it_is_told(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(*_given: object) -> None:
        await trio.sleep(1)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(rig, "work", work)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await serve(daemon)
    assert rig.story == ["became safe", "made safe", "links closed"]


async def test_safing_that_hangs_does_not_make_a_daemon_that_never_ends(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_bench: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(rig, "leave_safe", hang)
    with trio.move_on_after(60):
        await serve(daemon)
    assert rig.story == ["became safe", "links closed"]
    assert trio.current_time() < 100


# --- a rig that another program had ---------------------------------------------------------------


async def at_once(work: Callable[..., object], *given: object, **_named: object) -> object:
    """Stand in for a thread: virtual time can't wait for one."""
    await trio.lowlevel.checkpoint()
    return work(*given)


async def serve_on(daemon: Daemon, parts: object) -> None:
    given: Any = parts
    async with trio.open_nursery() as nursery:
        await daemon._serve_on(nursery, given)


async def test_a_daemon_that_got_the_rig_as_it_was_told_to_end_makes_it_safe_and_starts_nothing(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig
) -> None:
    daemon._service.stopping = "SIGTERM"
    with trio.move_on_after(60):
        await serve_on(daemon, "parts")
    assert rig.story == ["made safe", "links closed"]


async def test_a_simulated_rig_is_not_started_to_be_ended(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig
) -> None:
    daemon._service.options = Options(twin=True)
    daemon._service.stopping = "SIGTERM"
    await serve_on(daemon, "parts")
    assert rig.of == []


@pytest.mark.parametrize("waited", [True, False])
async def test_after_a_wait_the_profile_is_read_again(
    autojump_clock: MockClock,
    daemon: Daemon,
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    waited: bool,
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr(daemon, "_load", lambda: "edited")
    rig.waited = waited
    with trio.move_on_after(60):
        await serve_on(daemon, "read before")
    assert rig.of == ["edited" if waited else "read before"]


async def test_a_profile_that_became_unusable_in_the_wait_leaves_the_one_read_before_in_force(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> object:
        raise ProblemsError([Problem("profile.broken", "it is broken")])

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr(daemon, "_load", load)
    rig.waited = True
    with trio.move_on_after(60):
        await serve_on(daemon, "read before")
    assert rig.of == ["read before"]


@pytest.mark.parametrize("busy", ["another program drives the rig; nothing was sent", ""])
async def test_sigterm_says_whether_the_rig_is_made_safe(
    autojump_clock: MockClock, daemon: Daemon, rig: Rig, busy: str
) -> None:
    rig.busy = busy
    daemon._terminated()
    assert daemon._service.phase == "STOPPING"
    assert daemon._service.doing == (busy or "making the rig safe")
