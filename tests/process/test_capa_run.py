"""``capa run``: one run in the foreground, by the real process, with its exit codes."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.twin.control import ask
from capa.config.load import load_profile
from capa.runtime.moments import Moment, moment_now
from capa.runtime.rig_lock import RigLock
from capa.runtime.stage_store import Pending, StageStore
from capa.runtime.trips import Trip, TripStore
from capa.storage.verify import verify_bundle
from tests.support.daemon_process import (
    DEMO_PROFILE,
    REPOSITORY,
    Twin,
    method_toml,
)
from tests.support.polling import eventually
from tests.support.slow_cooling import PURGE, slow_to_cool

BOX = '[spool]\nroot = "state/spool"\n[runtime]\ndir = "run"\n'


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "capa.cli.main", "run", *(str(one) for one in arguments)]


def capa_run(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path = REPOSITORY
) -> tuple[int, str]:
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    return done.returncode, done.stdout + done.stderr


@contextmanager
def started(
    folder: Path, *arguments: str | Path, stdin: int = subprocess.DEVNULL
) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            command(*arguments), stdin=stdin, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def ignores(pid: int, signum: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:")]
    return bool(mask >> (signum - 1) & 1)


def said(folder: Path) -> str:
    return (folder / "out").read_text()


def write_method(folder: Path, **changes: float) -> Path:
    file = folder / "small.method.toml"
    file.write_text(method_toml(**changes))  # type: ignore[arg-type]  # floats only
    return file


def test_a_completed_run_is_shown_as_it_goes_and_exits_with_0(tmp_path: Path) -> None:
    write_method(tmp_path)
    file = tmp_path / "run.experiment.yaml"
    file.write_text(
        f"hardware: {DEMO_PROFILE}\nmethod: small.method.toml\noperator: {{ id: maria }}\n"
    )
    code, output = capa_run(file, "--twin", env={"CAPA_RUNS_ROOT": str(tmp_path / "runs")})
    assert code == 0, output
    assert "simulated by twins" in output
    assert "step 1/" in output
    assert "run.experiment.yaml: COMPLETED" in output
    assert "safe state: heater.setpoint = 20: proven" in output
    (bundle,) = (tmp_path / "runs").iterdir()
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["run_status"], manifest["bundle_status"]) == ("completed", "sealed")
    assert manifest["operator"]["id"] == "maria"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_or_a_lost_terminal_aborts_the_run_makes_the_rig_safe_and_exits_with_1(
    twin: Twin, tmp_path: Path, signum: signal.Signals
) -> None:
    file = write_method(tmp_path, hold_s=600)
    arguments = (file, "--hardware", twin.profile, "--runs", tmp_path / "runs")
    with started(tmp_path, *arguments) as process:
        eventually(
            lambda: twin.setpoint() > 50, "it heats", within_s=30, say=lambda: said(tmp_path)
        )
        assert ignores(process.pid, signal.SIGTSTP)  # Ctrl-Z must not leave a heater to itself
        process.send_signal(signum)
        assert process.wait(20) == 1
    assert "ABORTED" in said(tmp_path)
    assert twin.setpoint() == 20.0
    (bundle,) = (tmp_path / "runs").iterdir()
    assert json.loads((bundle / "manifest.json").read_text())["bundle_status"] == "sealed"


def test_a_crashed_run_exits_with_2(twin: Twin, tmp_path: Path) -> None:
    file = tmp_path / "never.method.toml"
    file.write_text(
        'name = "never"\n[[steps]]\nkind = "wait"\ntimeout_s = 0.3\non_timeout = "abort"\n'
        'end_condition = { channel = "heater.pv", op = ">", value = 390.0 }\n'
    )
    code, output = capa_run(file, "--hardware", twin.profile, "--runs", tmp_path / "runs")
    assert code == 2, output
    assert "CRASHED" in output
    assert twin.setpoint() == 20.0


def test_a_run_that_is_over_waits_until_the_furnace_needs_no_purge_any_more(
    twin: Twin, tmp_path: Path
) -> None:
    file = tmp_path / "small.method.toml"
    file.write_text(method_toml(extra=PURGE))
    profile = slow_to_cool(twin, tmp_path, 2.0)
    code, output = capa_run(file, "--hardware", profile, "--runs", tmp_path / "runs")
    assert code == 0, output
    assert "cooling: purge.flow to 0 when heater.pv < -90 degC; Ctrl-C leaves it" in output
    assert "purge.flow = 0: proven" in output
    assert twin.setpoint("purge") == 0.0


def test_whoever_does_not_wait_for_it_is_told_what_was_not_done(twin: Twin, tmp_path: Path) -> None:
    file = tmp_path / "small.method.toml"
    file.write_text(method_toml(extra=PURGE))
    profile = slow_to_cool(twin, tmp_path, 600.0)
    kept = left_cooling(profile, tmp_path, ago_s=9000.0)
    arguments = (file, "--hardware", profile, "--runs", tmp_path / "runs")
    with started(tmp_path, *arguments, "--config", tmp_path / "capad.toml") as process:
        eventually(
            lambda: "cooling:" in said(tmp_path),
            "the run is over",
            within_s=30,
            say=lambda: said(tmp_path),
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert "NOT DONE: purge.flow to 0 when heater.pv < -90 degC, 10 min left" in said(tmp_path)
    assert twin.setpoint("purge") == 60.0
    (bundle,) = (tmp_path / "runs").iterdir()
    pending, words = kept.load(load_profile(profile).safe_state)
    assert words == ""
    assert pending is not None
    assert pending.since.until_s(moment_now()) < 60, "the wait of before the run counts no more"
    assert pending.after == bundle.name


def left_cooling(profile: Path, tmp_path: Path, *, ago_s: float) -> StageStore:
    """A box whose daemon was stopped while it waited for a later stage."""
    (tmp_path / "capad.toml").write_text(BOX)
    store = StageStore(tmp_path / "state" / "safe_stages.json")
    now = moment_now()
    since = Moment(now.utc - timedelta(seconds=ago_s), now.boot, now.boot_s - ago_s)
    store.save(Pending(1, since, "the run before"), load_profile(profile).safe_state)
    return store


def test_two_programs_never_drive_one_rig(twin: Twin, tmp_path: Path) -> None:
    file = write_method(tmp_path)
    (tmp_path / "run").mkdir()
    heard = (twin.folder / "wire.jsonl").stat().st_size
    lock = RigLock(tmp_path / "run")
    lock.acquire()
    rig = ("--hardware", twin.profile, "--runtime-dir", tmp_path / "run")
    code, output = capa_run(file, *rig, "--runs", tmp_path / "runs")
    assert code == 2
    assert f"another program drives this rig (pid {os.getpid()} holds" in output
    assert not (tmp_path / "runs").exists()
    assert (twin.folder / "wire.jsonl").stat().st_size == heard
    (tmp_path / "capad.toml").write_text(BOX)  # which names the same folder
    rig = ("--hardware", twin.profile, "--config", tmp_path / "capad.toml")
    code, output = capa_run(file, *rig, "--runs", tmp_path / "runs")
    assert code == 2
    assert "another program drives this rig" in output
    lock.release()
    code, output = capa_run(file, *rig, "--runs", tmp_path / "runs")
    assert code == 0, output


def test_what_is_latched_on_the_box_forbids_a_run_in_the_foreground_too(
    twin: Twin, tmp_path: Path
) -> None:
    box = tmp_path / "capad.toml"
    box.write_text(BOX)
    trip = Trip("heater.pv", "heater.pv: furnace says sensor_fail", "2026-11-21T06:00:00+00:00")
    TripStore(tmp_path / "state").save([trip], [])
    before = len(twin.outputs())
    rig = ("--hardware", twin.profile, "--runs", tmp_path / "runs", "--config", box)
    code, output = capa_run(write_method(tmp_path), *rig)
    assert code == 2
    assert "the rig is TRIPPED: heater.pv: furnace says sensor_fail" in output
    assert "capa safety clear --by NAME --reason TEXT" in output
    assert not (tmp_path / "runs").exists()
    (tmp_path / "state" / "trips.json").write_text("{}")
    code, output = capa_run(write_method(tmp_path), *rig)
    assert code == 2
    assert "nobody knows what was latched" in output
    box.write_text("[spool")
    code, output = capa_run(write_method(tmp_path), *rig)
    assert code == 2
    assert "nobody knows what is latched" in output
    assert len(twin.outputs()) == before


def break_sensor(twin: Twin, *, active: bool = True) -> None:
    order = {"fault": "sensor_break", "device": "furnace", "active": active}
    assert ask(twin.folder, order)["ok"]


def test_what_trips_in_the_foreground_is_latched_for_the_box(twin: Twin, tmp_path: Path) -> None:
    box = tmp_path / "capad.toml"
    box.write_text(BOX)
    arguments = (write_method(tmp_path, hold_s=600), "--hardware", twin.profile)
    kept = ("--runs", tmp_path / "runs", "--config", box)
    with started(tmp_path, *arguments, *kept) as process:
        eventually(
            lambda: twin.setpoint() > 50, "it heats", within_s=30, say=lambda: said(tmp_path)
        )
        break_sensor(twin)
        try:
            eventually(lambda: "ABORTED" in said(tmp_path), "it ends", within_s=30)
        finally:
            break_sensor(twin, active=False)
        assert process.wait(30) == 1, said(tmp_path)
    assert "TRIPPED: heater.pv" in said(tmp_path)
    assert "latched: nothing is armed until capad runs" in said(tmp_path)
    assert twin.setpoint() == 20.0
    (latched,) = TripStore(tmp_path / "state").load()
    assert "sensor_fail" in latched.message
    code, output = capa_run(*arguments, *kept)
    assert code == 2
    assert "the rig is TRIPPED" in output


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_the_key_of_the_box_signs_a_run_in_the_foreground_too(tmp_path: Path) -> None:
    box = tmp_path / "etc" / "capad.toml"
    box.parent.mkdir()
    box.write_text('[runs]\nsign_key = "key"\n')
    run = (write_method(tmp_path, hold_s=0.1), "--hardware", DEMO_PROFILE, "--twin")
    kept = ("--runs", tmp_path / "runs", "--config", box)
    code, output = capa_run(*run, *kept)
    assert code == 0, output
    assert f"the bundle is not signed: {tmp_path / 'etc' / 'key'}: there is no such key" in output
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "etc" / "key")]
    subprocess.run(key, check=True)
    shutil.rmtree(tmp_path / "runs")
    code, output = capa_run(*run, *kept)
    assert code == 0, output
    assert "not signed" not in output
    (bundle,) = (tmp_path / "runs").iterdir()
    trusted = tmp_path / "trusted"
    trusted.write_text(f"box {(tmp_path / 'etc' / 'key.pub').read_text()}")
    assert verify_bundle(bundle, allowed_signers=trusted) == []


def test_a_bundle_that_cannot_be_sealed_and_verified_exits_with_3(tmp_path: Path) -> None:
    file = write_method(tmp_path, hold_s=3)
    arguments = (file, "--hardware", DEMO_PROFILE, "--twin", "--runs", tmp_path / "runs")
    with started(tmp_path, *arguments) as process:
        eventually(
            lambda: list((tmp_path / "runs").glob("*/events.sqlite")),
            "it records",
            within_s=30,
            say=lambda: said(tmp_path),
        )
        (bundle,) = (tmp_path / "runs").iterdir()
        (bundle / "manifest.sha256").write_text("of another run")
        assert process.wait(30) == 3
    assert "small.method.toml: COMPLETED" in said(tmp_path)
    assert "the bundle is not sealed: verification_failed" in said(tmp_path)
    assert "was sealed, and its manifest.json was altered since" in said(tmp_path)


def test_the_exit_codes_are_told_by_help() -> None:
    code, output = capa_run("--help", env={"COLUMNS": "200"})
    assert code == 0
    assert "0 completed and sealed, 1 aborted, 2 crashed or refused, 3" in " ".join(output.split())


def test_an_operator_at_the_terminal_answers_a_prompt_by_enter(twin: Twin, tmp_path: Path) -> None:
    file = tmp_path / "ask.method.toml"
    file.write_text(
        'name = "ask"\n[[steps]]\nkind = "prompt"\ntitle = "Sample"\nmessage = "Is it in?"\n'
    )
    arguments = (file, "--hardware", twin.profile, "--runs", tmp_path / "runs")
    master, terminal = os.openpty()
    try:
        with started(tmp_path, *arguments, stdin=terminal) as process:
            eventually(
                lambda: "step 1/1" in said(tmp_path),
                "the prompt is shown",
                within_s=30,
                say=lambda: said(tmp_path),
            )
            os.write(master, b"what\npause\n\n")
            assert process.wait(30) == 0
    finally:
        os.close(master)
        os.close(terminal)
    assert "Enter confirms a prompt" in said(tmp_path)
    assert "'what' is not understood" in said(tmp_path)
    assert "told the procedure: pause" in said(tmp_path)
    (database,) = (tmp_path / "runs").glob("*/events.sqlite")
    with closing(sqlite3.connect(database)) as connection:
        kinds = [kind for (kind,) in connection.execute("SELECT kind FROM events")]
    assert "method.prompt.acknowledged" in kinds


def test_a_refused_experiment_exits_with_2_before_anything_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "run.experiment.toml"
    file.write_text('hardware = "sim_capa"\n[procedure]\nid = "capa.builtin.fre_run"\n')
    code, output = capa_run(file, "--hardware", DEMO_PROFILE, "--runs", tmp_path / "runs")
    assert code == 2
    assert "did you mean `capa.builtin.free_run`?" in output
    file.write_text('hardware = "sim_capa"\n[procedure]\nid = "capa.builtin.free_run"\n')
    code, output = capa_run(file, "--hardware", DEMO_PROFILE, "--runs", tmp_path / "runs")
    assert code == 2
    assert "is written for the rig 'sim_capa'; this is 'demo'" in output
    assert not (tmp_path / "runs").exists()


def test_without_a_profile_it_asks_for_one(tmp_path: Path) -> None:
    code, output = capa_run(write_method(tmp_path), "--runs", tmp_path)
    assert code == 2
    assert "names no rig; say which: capa run --hardware PROFILE" in output


def test_a_dry_run_tells_the_steps_with_their_times_and_touches_nothing(tmp_path: Path) -> None:
    file = REPOSITORY / "configs/methods/demo.method.toml"
    code, output = capa_run(
        file, "--hardware", DEMO_PROFILE, "--dry-run", "--runs", tmp_path / "runs"
    )
    assert code == 0
    lines = [line.strip() for line in output.splitlines()]
    assert lines[2] == (
        "0:00:00  step 2 ramp heater.setpoint -> 400 degC (heat up, 10 setpoints a second), 15 s"
    )
    assert lines[3].startswith("0:00:15  step 3 hold heater.setpoint -> 400 degC until")
    assert lines[4] == "0:00:00 after step 3  step 4 acquire (measurement window), 5 s"
    assert not (tmp_path / "runs").exists()


def test_a_batch_on_the_twin_leaves_a_bundle_for_each_replicate(tmp_path: Path) -> None:
    write_method(tmp_path)
    file = tmp_path / "series.experiment.toml"
    file.write_text(
        f'hardware = "{DEMO_PROFILE}"\nmethod = "small.method.toml"\n'
        '[procedure]\nid = "capa.builtin.batch"\n'
        '[procedure.config]\nreplicates = 2\nsample_id_template = "PMMA-{index:02}"\n'
    )
    told = {"CAPA_RUNS_ROOT": str(tmp_path / "elsewhere")}
    code, output = capa_run(file, "--twin", "--runs", tmp_path / "runs", env=told)
    assert code == 0, output
    assert not (tmp_path / "elsewhere").exists(), "--runs wins over CAPA_RUNS_ROOT"
    assert "replicate 2/2: step 1/" in output
    manifests = [
        json.loads((bundle / "manifest.json").read_text())
        for bundle in (tmp_path / "runs").iterdir()
    ]
    assert {one["bundle_status"] for one in manifests} == {"sealed"}
    ids = sorted(str(one["sample"].get("id")) for one in manifests)
    assert ids == ["None", "PMMA-01", "PMMA-02"]


@pytest.mark.parametrize("told", [{}, {"CAPA_RUNS_ROOT": ""}], ids=["unset", "empty"])
def test_where_nobody_says_otherwise_bundles_go_to_runs_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str]
) -> None:
    monkeypatch.delenv("CAPA_RUNS_ROOT", raising=False)
    file = tmp_path / "files" / "free.experiment.toml"
    file.parent.mkdir()
    file.write_text(
        f'hardware = "{DEMO_PROFILE}"\n[procedure]\nid = "capa.builtin.free_run"\n'
        "[procedure.config]\nduration_s = 0.2\n"
    )
    code, output = capa_run(file, "--twin", env=told, cwd=tmp_path)
    assert code == 0, output
    (bundle,) = (tmp_path / "runs").iterdir()
    assert json.loads((bundle / "manifest.json").read_text())["bundle_status"] == "sealed"


def test_a_dry_run_of_a_procedure_without_a_method_tells_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "free.experiment.toml"
    file.write_text(
        '[procedure]\nid = "capa.builtin.free_run"\n[procedure.config]\nduration_s = 60.0\n'
    )
    code, output = capa_run(file, "--hardware", DEMO_PROFILE, "--dry-run")
    assert code == 0, output
    assert "no steps: its own code decides, with" in output
    assert "duration_s = 60.0" in output
    assert "end: the rig's safe state is driven and proven (heater.setpoint = 20" in output
