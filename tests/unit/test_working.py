"""The run loop: what a person asks for before the spool is known is done once it is."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from capa.config.experiment import ExperimentConfig
from capad import working as working_module
from capad.console import Console
from capad.daemon import Daemon, Options
from capad.intake import Prepared
from capad.jobs import Job
from capad.settings import Settings
from capad.spool import Spool
from capad.supervision import Notifier
from tests.support.engine import quiet_log


class Accepts:
    """Takes everything."""

    def prepare(self, _job: Job, _data: bytes, _companion: str | None = None) -> Prepared:
        return Prepared(ExperimentConfig(), None, ())


class Bench:
    """A daemon with one job in its spool, whose run loop starts on no rig at all."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = Settings.model_validate(
            {"spool": {"root": folder / "spool"}, "runtime": {"dir": folder / "run"}}
        )
        notifier = Notifier({})
        self.daemon: Any = Daemon(
            settings, Options(), console=Console(None), notifier=notifier, log=quiet_log()
        )
        self.service, working = self.daemon._service, self.daemon._working
        folders = self.service.folders
        folders.prepare()
        (folders.incoming / "a.experiment.toml").write_text("")
        assert folders.claim("a.experiment.toml", folders.look()["a.experiment.toml"])
        self.spool = Spool(
            folders, settings.spool, Accepts(), log=structlog.get_logger(), on_rejected=print
        )
        self.spool.started = True  # by the test, when it likes
        self.service.spool, self.conducted = self.spool, list[str]()

        async def conduct(_spool: Spool, _bench: object, job: Job, _prepared: Prepared) -> None:
            self.conducted.append(job.id)
            await trio.sleep(1)

        monkeypatch.setattr(working, "_conduct", conduct)
        monkeypatch.setattr(working, "_intake", lambda _parts: Accepts())
        monkeypatch.setattr(working_module, "gc", SimpleNamespace(freeze=int, enable=int))

    async def work(self, nursery: trio.Nursery) -> None:
        parts = SimpleNamespace(procedures=None, profile_file="bench.toml")
        await self.daemon._working.work(nursery, nursery, SimpleNamespace(parts=parts))


@pytest.mark.parametrize("signals", [0, 1, 2, 3])
async def test_however_often_sigint_comes_early_in_a_start_the_queue_is_held_and_no_job_fails(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: int
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    if signals:
        bench.daemon._interrupted()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.work, nursery)
        await trio.sleep(1)
        for _ in range(signals - 1):
            bench.daemon._interrupted()
            await trio.sleep(1)
        nursery.start_soon(bench.spool.run)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert len(bench.conducted) == (0 if signals else 1)
    assert bench.spool.held == ("aborted by SIGINT with nothing running" if signals else None)


async def waits_for_the_rig(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["capa run drives the rig", ""])
    monkeypatch.setattr(bench.service.guarding, "take", lambda: next(answers))
    assert await bench.daemon._opening.take()


async def waits_for_a_device(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> dict[str, bool]:
        await trio.sleep(1)
        return {}

    silent = iter([["furnace"], []])
    safing = bench.daemon._safing
    monkeypatch.setattr(safing, "_drive", nothing)
    monkeypatch.setattr(safing, "_missing", lambda *_: next(silent))
    health = SimpleNamespace(detail="no answer")
    rig = SimpleNamespace(wait_answering=nothing, health=lambda _: health)
    parts = SimpleNamespace(profile=SimpleNamespace(name="bench"))
    assert await safing.become_safe(SimpleNamespace(rig=rig, parts=parts))


@pytest.mark.parametrize("wait", [waits_for_the_rig, waits_for_a_device])
async def test_a_sigint_while_the_start_waits_holds_the_queue(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[[Bench, pytest.MonkeyPatch], Awaitable[None]],
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, bench, monkeypatch)
        await trio.sleep(0.5)
        bench.daemon._interrupted()
        await trio.sleep(10)
        nursery.start_soon(bench.spool.run)
        nursery.start_soon(bench.work, nursery)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert bench.conducted == []
    assert bench.spool.held == "aborted by SIGINT with nothing running"


@pytest.mark.parametrize("way", ["_terminated", "_hung_up"])
async def test_a_daemon_that_is_to_end_or_to_reload_does_not_wait_to_know_what_it_holds(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    bench.daemon._interrupted()

    async def reloaded() -> bool:
        await trio.lowlevel.checkpoint()
        return bool(bench.service.reload)

    monkeypatch.setattr(bench.daemon._working, "_reloaded", reloaded)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            async with trio.open_nursery() as working:
                working.start_soon(bench.work, nursery)
                await trio.sleep(1)
                getattr(bench.daemon, way)()
    assert bench.conducted == []
