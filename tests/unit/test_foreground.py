"""``capa run`` on the twins, in virtual time: what it leaves to the daemon of the box."""

import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.links.link import StreamLink
from adapters.twin.memory import TwinHandle
from adapters.watlow.codec import SETPOINT
from capa.cli.foreground import ABORTED, CRASHED, ForegroundRun
from capa.config.hardware import HardwareProfile
from capa.runtime.conductor import Conductor
from capa.runtime.console import RunConsole
from capa.runtime.moments import Moment, moment_now
from capa.runtime.parts import Parts
from capa.runtime.report import RunReport, RunRequest
from capa.runtime.rig import Rig
from capa.runtime.safety_monitor import SafetyMonitor
from capa.runtime.stage_store import Pending, StageStore
from capa.runtime.stages import LaterStages
from capa.runtime.trips import TripStore
from tests.support.cooling import HEAT_OFF, PURGE_OFF
from tests.support.engine import (
    FAMILIES,
    bench_rig,
    method,
    no_finalizer,
    profile,
    quiet_log,
    request,
)
from tests.support.watched import at_once, until

COLD = {"channel": "heater.pv", "op": "<", "value": -50.0}
BENCH = profile(safe_state=[HEAT_OFF, {**PURGE_OFF, "when": COLD}])
HEAT = {"kind": "hold", "target": {"name": "heater.setpoint"}, "value": 80.0, "duration_s": 20.0}
PURGE = {"kind": "setpoint", "target": {"name": "purge.flow"}, "value": 50.0}
SHORT = method(PURGE, HEAT)


async def _at_once(work: Callable[..., object], *given: object, **_named: object) -> object:
    """Stand in for a thread: virtual time can't wait for one."""
    await trio.lowlevel.checkpoint()
    return work(*given)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def conductor(rig: Rig, **given: object) -> Conductor:
        settings: dict[str, Any] = {**given, "finalize": no_finalizer, "threaded": False}
        return Conductor(rig, **settings)

    monkeypatch.setattr("capa.cli.foreground.Conductor", conductor)
    for name, kind in (("SafetyMonitor", SafetyMonitor), ("LaterStages", LaterStages)):
        monkeypatch.setattr(f"capa.cli.foreground.{name}", partial(kind, save=at_once))
    monkeypatch.setattr(trio.to_thread, "run_sync", _at_once)


@dataclass
class Terminal:
    """One ``capa run`` on a box, and what is to be seen of it."""

    one: ForegroundRun
    twins: TwinHandle
    trips: TripStore
    stages: StageStore
    out: io.StringIO
    code: int | None = None

    @property
    def said(self) -> str:
        return self.out.getvalue()

    @property
    def due(self) -> Pending | None:
        """What a daemon that is started now finds due."""
        return self.stages.load(BENCH.safe_state)[0]

    def since(self, *, ago_s: float) -> Pending:
        """Have a daemon be gone that waited for the purge's end."""
        now = moment_now()
        since = Moment(now.utc - timedelta(seconds=ago_s), now.boot, now.boot_s - ago_s)
        pending = Pending(1, since, "the run before")
        self.stages.save(pending, BENCH.safe_state)
        return pending

    async def run(self) -> None:
        """Run to the end."""
        self.code = await self.one.run()

    async def heats(self) -> None:
        await until(lambda: self.twins.outputs()["furnace.setpoint"] > 79)

    def turn_the_knob(self, value: float) -> None:
        """Have somebody set the furnace by hand, behind the twin's back."""
        (line,) = (one for name, one in self.twins._rig.lines.items() if name == "oven")
        furnace: Any = line.devices[0]
        furnace._values[SETPOINT] = value

    def interrupt(self) -> None:
        """Have the operator press Ctrl-C."""
        self.one.interrupted("SIGINT", times=1)


@asynccontextmanager
async def terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, of: HardwareProfile = BENCH, **changes: object
) -> AsyncIterator[Terminal]:
    """Make everything ready for a run of SHORT."""
    async with bench_rig(of) as (rig, twins):

        @asynccontextmanager
        async def opened(*_given: object, **_named: object) -> AsyncIterator[Rig]:
            yield rig

        async def deaf(_self: object, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await trio.sleep_forever()

        monkeypatch.setattr("capa.cli.foreground.open_parts", opened)
        monkeypatch.setattr(ForegroundRun, "listen", deaf)
        out = io.StringIO()
        given: dict[str, Any] = {
            "parts": Parts(of, folder / "bench.toml", "", FAMILIES, {}, StreamLink, procedures()),
            "request": request(SHORT),
            "runs_root": folder / "runs",
            "twin_dir": None,
            "console": RunConsole(out, clock=trio.current_time),
            "log": quiet_log(),
            "state": folder / "state",
        }
        one = ForegroundRun(**{**given, **changes})
        state = folder / "state"
        yield Terminal(one, twins, TripStore(state), StageStore(state / "safe_stages.json"), out)


def procedures() -> Mapping[str, Any]:
    from capa.experiment.procedures.builtin.recipe_runner import RecipeRunner

    return {RecipeRunner.id: RecipeRunner}


def minutes(pending: Pending | None) -> float:
    """Return for how long a stage has been waited for."""
    assert pending is not None
    return pending.since.until_s(moment_now()) / 60


async def test_the_waiting_of_before_a_run_is_forgotten_while_it_heats_and_begins_anew_after_it(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with terminal(tmp_path, monkeypatch) as t, trio.open_nursery() as nursery:
        t.since(ago_s=7500.0)
        nursery.start_soon(t.run)
        await t.heats()
        assert t.due is None, "who is killed now must not leave a wait that is over"
        t.interrupt()
        await until(lambda: "cooling:" in t.said)
        await until(lambda: t.due is not None)
        t.interrupt()
        await until(lambda: t.code is not None)
        assert t.code == ABORTED
        assert "NOT DONE: purge.flow to 0" in t.said
        assert minutes(t.due) < 1
        assert t.twins.outputs()["mfc.setpoint"] == pytest.approx(50.0, abs=0.1)


async def test_a_run_that_is_refused_leaves_the_waiting_as_it_was(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(None)  # without a method there is nothing to walk
    async with terminal(tmp_path, monkeypatch, request=asked) as t:
        t.since(ago_s=600.0)
        await t.run()
        assert "REFUSED" in t.said
        assert minutes(t.due) == pytest.approx(10.0, abs=0.5)
        assert "NOT DONE: purge.flow to 0" in t.said


async def test_a_waiting_that_can_not_be_forgotten_refuses_the_run(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with terminal(tmp_path, monkeypatch) as t:
        t.stages.file.mkdir(parents=True)
        await t.run()
        assert t.code == CRASHED
        assert "safe_stages.json can't be changed" in t.said
        assert t.twins.outputs()["furnace.setpoint"] == pytest.approx(20.0, abs=0.1)


async def test_when_the_purge_is_off_nothing_is_left_to_the_daemon(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = profile(safe_state=[HEAT_OFF, {**PURGE_OFF, "when": {**COLD, "value": 1000.0}}])
    async with terminal(tmp_path, monkeypatch, warm) as t:
        await t.run()
        assert t.code == 0
        assert t.twins.outputs()["mfc.setpoint"] == pytest.approx(0.0, abs=0.1)
        assert not t.stages.file.exists()
        assert "NOT DONE" not in t.said


async def test_an_output_that_only_the_safe_state_set_is_watched_from_the_runs_begin(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purging = method(PURGE, {**HEAT, "target": PURGE["target"], "value": 50.0})
    async with terminal(tmp_path, monkeypatch, profile(), request=request(purging)) as t:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(t.run)
            await until(lambda: t.twins.outputs()["mfc.setpoint"] > 49)
            t.turn_the_knob(300.0)
            await until(lambda: t.code is not None)
        assert "heater.setpoint reads 300 degC, commanded was 20" in t.said


async def test_the_last_drive_takes_back_nothing_that_a_later_stage_did(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purging = {"set": {**HEAT_OFF["set"], "purge.flow": 50.0}}
    warm = profile(safe_state=[purging, {**PURGE_OFF, "when": {**COLD, "value": 1000.0}}])
    async with terminal(tmp_path, monkeypatch, warm) as t:
        await t.run()
        assert t.code == 0
        assert "purge.flow = 0: proven" in t.said
        assert t.twins.outputs()["mfc.setpoint"] == pytest.approx(0.0, abs=0.1)
        assert not t.stages.file.exists()


async def test_a_purge_that_is_not_over_is_left_to_the_daemon_as_stage_one_has_it(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purging = {"set": {**HEAT_OFF["set"], "purge.flow": 50.0}}
    cold = profile(safe_state=[purging, {**PURGE_OFF, "when": COLD}])
    async with terminal(tmp_path, monkeypatch, cold) as t, trio.open_nursery() as nursery:
        nursery.start_soon(t.run)
        await until(lambda: "cooling:" in t.said)
        t.interrupt()
        await until(lambda: t.code is not None)
        assert t.twins.outputs()["mfc.setpoint"] == pytest.approx(50.0, abs=0.1)
        assert "NOT DONE: purge.flow to 0" in t.said


async def test_an_output_that_the_last_drive_does_not_reach_is_latched_for_the_box(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with terminal(tmp_path, monkeypatch) as t, trio.open_nursery() as nursery:
        nursery.start_soon(t.run)
        await until(lambda: "cooling:" in t.said)
        await trio.sleep(5)
        t.twins.fault("silence", link="oven")
        t.interrupt()
        await until(lambda: t.code is not None)
        assert t.code == CRASHED
        (trip,) = t.trips.load()
        assert trip.message.startswith("heater.setpoint could not be brought to 20")
        assert "latched: nothing is armed" in t.said
        assert t.due is None, "while an output of stage one is not reached, no time counts"


async def test_a_conductor_that_fails_leaves_its_trips_and_what_is_due_all_the_same(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with terminal(tmp_path, monkeypatch) as t:
        before = Conductor.run

        async def fails(self: Conductor, asked: RunRequest) -> RunReport:
            await before(self, asked)
            t.twins.fault("silence", link="oven")
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(Conductor, "run", fails)
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
            await t.run()
        (trip,) = t.trips.load()
        assert trip.message.startswith("heater.setpoint could not be brought to 20")


async def test_an_instrument_that_is_switched_off_before_the_run_latches_nothing(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with terminal(tmp_path, monkeypatch) as t:
        t.twins.fault("silence", link="oven")
        await trio.sleep(5)
        await t.run()
        assert t.code == CRASHED
        assert "not safe before the run: heater.setpoint = 20" in t.said
        assert t.trips.load() == ()


async def test_a_furnace_that_comes_back_while_its_purge_is_waited_for_ends_the_waiting(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = profile(safe_state=[HEAT_OFF, {**PURGE_OFF, "when": COLD, "timeout_s": 30.0}])
    async with terminal(tmp_path, monkeypatch, short) as t, trio.open_nursery() as nursery:
        nursery.start_soon(t.run)
        await t.heats()
        t.twins.fault("silence", link="oven")
        await until(lambda: "cooling:" in t.said)
        await trio.sleep(60)
        assert t.code is None, "while the heater may be on, the purge stays"
        t.twins.fault("silence", link="oven", active=False)
        await until(lambda: t.code is not None, within_s=90)
        assert t.twins.outputs()["mfc.setpoint"] == pytest.approx(0.0, abs=0.1)
