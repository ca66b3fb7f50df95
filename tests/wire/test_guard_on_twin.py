"""The guardian as its own process, on the twin as another one: judged by the twin's wire log."""

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from adapters.modbus.codec import with_crc
from capad.guard import main
from tests.support.guarded import DEADLINE_S, GUARD, Guarded, run_guard
from tests.support.safe_plans import RIG, plan_of, plan_of_twin
from tests.support.twin_process import running_twin

PATIENT_S = 5.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Guarded]:
    profile = tmp_path / "rig.toml"
    profile.write_text(RIG)
    (tmp_path / "run").mkdir()
    with running_twin(profile, tmp_path / "twin") as twin:
        yield Guarded(twin, tmp_path / "run")


ECHOING = (
    RIG.replace("reply_timeout_s = 0.2", "reply_timeout_s = 0.2\nlocal_echo = true")
    .replace(
        'type = "uint16"\nscale = 0.1\nunit = "%"', 'register = "coil"\ntype = "bit"\nunit = "1"'
    )
    .replace('unit = "%"', 'unit = "1"')
    .replace('"valve.opening" = 30.0', '"valve.opening" = 1.0')
)
"""Every adapter hears itself; the valve is a coil, whose acceptance is the request once more."""

ALL = {"heater.setpoint": "proven", "purge.flow": "proven", "valve.opening": "commanded"}


def test_every_output_is_driven_and_what_can_be_read_back_is_proven(rig: Guarded) -> None:
    done = rig.run()
    assert rig.words() == ALL
    assert done.returncode == 3, done.stderr
    assert rig.output("heater", "setpoint") == pytest.approx(20.0, abs=0.01)
    assert rig.output("purge", "setpoint") == 50.0
    assert "<6>capad-guard: heater.setpoint = 20: proven, read back 20" in done.stderr
    assert "<4>capad-guard: valve.opening = 30: commanded" in done.stderr
    assert rig.record()["exit_code"] == 3


def test_it_may_run_again_and_again_and_keeps_its_history(rig: Guarded) -> None:
    codes = [rig.run().returncode for _ in range(3)]
    assert codes == [3, 3, 3]
    history = (rig.folder / "guard.jsonl").read_text().splitlines()
    assert [json.loads(line)["exit_code"] for line in history] == codes


def test_the_first_bytes_on_each_wire_are_the_safe_writes(rig: Guarded) -> None:
    links = {link["name"]: link for link in plan_of_twin(rig.twin.directory).document["links"]}
    rig.run()
    for name, link in links.items():
        first = rig.twin.wire(link=name, event="rx")[0]
        assert first["hex"] == link["writes"][0]["request"]


@pytest.mark.parametrize("kind", ["mute", "silence", "truncate", "crc", "wrong_address"])
def test_a_device_that_does_not_answer_properly_is_unreachable_and_the_others_proven(
    rig: Guarded, kind: str
) -> None:
    rig.fault(kind, device="heater")
    began_s = time.monotonic()
    done = rig.run()
    assert time.monotonic() - began_s < DEADLINE_S + 1
    assert done.returncode == 4
    assert rig.words() == ALL | {"heater.setpoint": "unreachable"}
    if kind != "silence":  # it heard, and obeyed: safe, and nobody knows
        assert rig.output("heater", "setpoint") == pytest.approx(20.0, abs=0.01)


def test_a_device_that_refuses_is_unreachable_in_its_own_words(rig: Guarded) -> None:
    rig.fault("exception", device="heater")
    assert rig.run().returncode == 4
    assert "refused by the device: exception" in rig.verdicts()["heater.setpoint"]["detail"]


def test_garbage_before_every_reply_does_not_hide_the_proof(rig: Guarded) -> None:
    rig.fault("noise", link="heat", value=5)
    rig.fault("noise", link="gas", value=5)
    assert rig.run().returncode == 3
    assert rig.words() == ALL


@pytest.fixture
def echoing(tmp_path: Path) -> Iterator[Guarded]:
    profile = tmp_path / "rig.toml"
    profile.write_text(ECHOING)
    (tmp_path / "run").mkdir()
    with running_twin(profile, tmp_path / "twin") as twin:
        guarded = Guarded(twin, tmp_path / "run")
        for link in ("heat", "gas"):
            guarded.fault("echo", link=link)
        yield guarded


def test_adapters_that_hear_themselves_do_not_hide_the_proof(echoing: Guarded) -> None:
    echoing.plan(PATIENT_S)
    assert echoing.run().returncode == 3
    assert echoing.words() == ALL


def test_the_echo_of_a_write_is_no_acceptance_of_it(echoing: Guarded) -> None:
    echoing.fault("mute", device="valve")
    echoing.fault("mute", device="purge")
    assert echoing.run().returncode == 4
    unreachable = {"valve.opening": "unreachable", "purge.flow": "unreachable"}
    assert echoing.words() == ALL | unreachable


def test_an_adapter_that_does_not_echo_as_the_profile_says_is_told_of(echoing: Guarded) -> None:
    echoing.fault("echo", link="heat", active=False)
    assert echoing.run().returncode == 4
    assert "not even its echo" in echoing.verdicts()["heater.setpoint"]["detail"]


def test_a_request_that_was_not_heard_is_soon_sent_again_between_longer_waits(
    rig: Guarded,
) -> None:
    rig.plan(PATIENT_S)
    rig.fault("silence", device="heater")
    assert rig.run().returncode == 4
    heater = plan_of_twin(rig.twin.directory).document["links"][0]["writes"][0]["request"]
    sent = [r["t_ns"] for r in rig.twin.wire(link="heat", event="rx") if r["hex"] == heater]
    assert len([at for at in sent if at - sent[0] < 2e9]) >= 5


def test_replies_that_come_late_still_prove_it_within_the_deadline(rig: Guarded) -> None:
    rig.plan(PATIENT_S)
    rig.fault("delay", device="heater", value=0.7)
    began_s = time.monotonic()
    assert rig.run().returncode == 3
    assert rig.words() == ALL
    assert time.monotonic() - began_s < PATIENT_S


def test_a_missing_port_delays_no_other_link_and_is_used_once_it_is_back(rig: Guarded) -> None:
    rig.plan(PATIENT_S)
    rig.fault("port_gone", link="heat")
    back = threading.Timer(1.5, rig.fault, ["port_gone"], {"link": "heat", "active": False})
    began_ns = time.monotonic_ns()
    back.start()
    done = rig.run()
    back.join()
    assert done.returncode == 3, done.stderr
    at_s = {name: verdict["at_s"] - began_ns / 1e9 for name, verdict in rig.verdicts().items()}
    assert at_s["purge.flow"] < 1.5 < at_s["heater.setpoint"]


def test_a_port_that_is_lost_in_the_middle_is_opened_again(rig: Guarded) -> None:
    rig.plan(PATIENT_S)
    rig.fault("silence", device="heater")
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), "--runtime-dir", str(rig.folder)],
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + PATIENT_S
    while not rig.twin.wire(link="heat", event="rx") and time.monotonic() < deadline_s:
        time.sleep(0.02)
    rig.fault("port_gone", link="heat")
    time.sleep(0.2)
    rig.fault("silence", device="heater", active=False)
    rig.fault("port_gone", link="heat", active=False)
    assert guard.wait(30) == 3
    assert rig.words() == ALL


def test_a_port_that_stays_away_is_named_after_the_deadline(rig: Guarded) -> None:
    rig.fault("port_gone", link="heat")
    began_s = time.monotonic()
    assert rig.run().returncode == 4
    assert DEADLINE_S - 0.5 < time.monotonic() - began_s < DEADLINE_S + 1
    verdict = rig.verdicts()["heater.setpoint"]
    assert verdict["verdict"] == "unreachable"
    assert "heat.tty: No such file" in verdict["detail"]


def test_a_running_daemon_is_left_alone_unless_forced(rig: Guarded) -> None:
    with (rig.folder / "capad.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = rig.run()
        assert done.returncode == 75
        assert "another program (pid 4711: capad, or capa run) drives this rig" in done.stderr
        assert rig.twin.wire(event="rx") == []
        assert rig.run("--force").returncode == 3


def test_a_port_locked_by_another_process_is_named_and_the_others_are_driven(
    rig: Guarded,
) -> None:
    port = os.open(rig.twin.directory / "heat.tty", os.O_RDWR | os.O_NOCTTY)
    rig.plan(PATIENT_S)
    try:
        fcntl.flock(port, fcntl.LOCK_EX)
        began_s = time.monotonic()
        assert rig.run().returncode == 4
        assert time.monotonic() - began_s < PATIENT_S  # a lock is not waited for to the end
        assert rig.words()["purge.flow"] == "proven"
        assert f"locked by process {os.getpid()}" in rig.verdicts()["heater.setpoint"]["detail"]
        assert rig.run("--force").returncode == 3
    finally:
        os.close(port)


def test_a_stale_answer_on_the_line_is_not_taken_for_ours(rig: Guarded) -> None:
    """What the dead daemon asked is answered into the void: thrown away before we speak."""
    rig.fault("delay", device="heater", value=0.3)
    stale = os.open(rig.twin.directory / "heat.tty", os.O_RDWR | os.O_NOCTTY)
    os.write(stale, with_crc(bytes.fromhex("0103 0870 0002")))  # the setpoint, as it was: 24 degC
    time.sleep(0.4)
    os.close(stale)
    rig.fault("delay", device="heater", active=False)
    rig.run()
    assert rig.verdicts()["heater.setpoint"]["attempts"] == 1
    assert rig.verdicts()["heater.setpoint"]["verdict"] == "proven"


@contextmanager
def liar(value_degF: bytes, *, accepts: bool = True) -> Iterator[str]:
    """A controller that obeys nothing and shows what it likes; yields its port."""
    master, slave = pty.openpty()
    tty.setraw(slave)

    def answer() -> None:
        with suppress(OSError):
            while request := os.read(master, 64):
                if request[1] == 16 and accepts:
                    os.write(master, with_crc(request[:6]))
                elif request[1] == 3:
                    os.write(master, with_crc(b"\x01\x03\x04" + value_degF))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(slave)
        os.close(master)


@pytest.mark.parametrize(
    ("shown", "code", "words"),
    [
        ("0000 4288", 0, "read back 20"),
        ("0000 4448", 4, "accepted, but reads back 426.667, not 20 (within 0.1)"),
        ("0000 7fc0", 4, "accepted, but reads back no number, not 20"),
    ],
)
def test_only_the_value_that_is_read_back_proves_a_write(
    tmp_path: Path, shown: str, code: int, words: str
) -> None:
    only_heat = RIG.replace(', "purge.flow" = 50.0, "valve.opening" = 30.0', "")
    with liar(bytes.fromhex(shown)) as port:
        text = only_heat.replace("/dev/ttyUSB0", port)
        plan_of(text).write(tmp_path)
        done = run_guard(tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(b"\xff\x00{"), "is damaged"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"0110", b"0210", 1)),
            "check sum",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'n": 1', b'n": 9', 1)),
            "has version 9",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "can't be read"),
    ],
)
def test_a_plan_that_cannot_be_trusted_is_said_in_a_line_and_nothing_is_sent(
    tmp_path: Path,
    damage: Callable[[Path], object],
    words: str,
) -> None:
    path = plan_of().write(tmp_path)
    damage(path)
    done = run_guard(tmp_path)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "NOTHING WAS MADE SAFE" in done.stderr
    assert "start capad, which makes the rig safe first, or set the instruments" in done.stderr
    assert words in done.stderr
    record = json.loads((tmp_path / "guard_verdicts.json").read_text())
    assert (record["exit_code"], record["verdicts"]) == (4, {})


def test_a_safe_value_that_nobody_accepted_is_an_older_one_and_no_proof(tmp_path: Path) -> None:
    only_heat = RIG.replace(', "purge.flow" = 50.0, "valve.opening" = 30.0', "")
    with liar(bytes.fromhex("0000 4288"), accepts=False) as port:
        plan_of(only_heat.replace("/dev/ttyUSB0", port)).write(tmp_path)
        assert run_guard(tmp_path).returncode == 4


def test_an_acceptance_of_what_the_dead_daemon_wrote_is_not_taken_for_ours(tmp_path: Path) -> None:
    only_valve = RIG.replace('"heater.setpoint" = 20.0, "purge.flow" = 50.0, ', "")
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        plan_of(only_valve.replace("/dev/ttyUSB0", os.ttyname(slave))).write(tmp_path)
        os.write(master, with_crc(bytes.fromhex("0706 000a 012c")))  # 30 %, as it stood before
        assert run_guard(tmp_path).returncode == 4
    finally:
        os.close(slave)
        os.close(master)


def test_what_could_not_be_compiled_is_unreachable(tmp_path: Path) -> None:
    text = RIG.replace('"purge.flow" = 50.0', '"purge.flow" = 501.0')
    only = text.replace('"heater.setpoint" = 20.0, ', "").replace(', "valve.opening" = 30.0', "")
    plan_of(only).write(tmp_path)
    done = run_guard(tmp_path)
    assert done.returncode == 4
    assert "purge.flow = 501: unreachable, it could not be compiled" in done.stderr


def test_simulated_instruments_ended_with_the_daemon(tmp_path: Path) -> None:
    plan_of(simulated=True).write(tmp_path)
    assert run_guard(tmp_path).returncode == 0


def test_a_folder_that_takes_no_verdicts_does_not_keep_the_rig_from_being_made_safe(
    rig: Guarded,
) -> None:
    (rig.folder / "guard_verdicts.json").mkdir()
    done = rig.run()
    assert done.returncode == 3
    assert "the verdicts can't be kept" in done.stderr
    assert rig.output("purge", "setpoint") == 50.0


def test_killed_in_the_middle_it_leaves_what_the_next_start_needs(rig: Guarded) -> None:
    rig.fault("mute", device="heater")
    first = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), "--runtime-dir", str(rig.folder)],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    rig.fault("mute", device="heater", active=False)
    assert rig.run().returncode == 3
    assert rig.words() == ALL


def test_it_imports_nothing_but_the_standard_library(rig: Guarded) -> None:
    """A whole run, with site-packages on the path: nothing of them is used, nor of capa."""
    script = (
        "import sys, json, runpy\n"
        f"sys.argv = ['guard', '--runtime-dir', {str(rig.folder)!r}]\n"
        "before = set(sys.modules)\n"
        "try:\n"
        f"    runpy.run_path({str(GUARD)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "print(json.dumps([code, sorted(set(sys.modules) - before)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    code, imported = json.loads(done.stdout)
    assert code == 3
    foreign = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert foreign == set()
    assert not {"threading", "socket", "argparse", "subprocess"} & set(imported)


def test_the_console_scripts_way_imports_the_guardian_alone() -> None:
    script = (
        "import sys; before = {*sys.modules}; import capad.guard; print(*{*sys.modules}-before)"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert {name for name in done.stdout.split() if name.startswith("cap")} == {
        "capad",
        "capad.guard",
    }
    assert not {"re", "json", "serial", "trio", "pydantic"} & set(done.stdout.split())


@pytest.mark.parametrize("words", [["--nonsense"], ["--runtime-dir"], ["more"]])
def test_words_that_are_not_understood_are_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 64
    assert "usage: capad-guard" in capsys.readouterr().err


def test_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "4 something is" in capsys.readouterr().out


def test_a_name_that_has_several_addresses_is_tried_at_each(tmp_path: Path) -> None:
    """``localhost`` is ::1 first on many boxes; the device server listens on 127.0.0.1 only."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        text = RIG.replace("10.0.0.7:4001", f"localhost:{number}")
        only = text.replace('"heater.setpoint" = 20.0, ', "").replace(
            ', "valve.opening" = 30.0', ""
        )
        plan_of(only).write(tmp_path)

        def serve() -> None:
            host, _ = server.accept()
            with host:
                while host.recv(64):
                    host.sendall(b"A +014.70 +025.00 +000.00 +000.00 +050.00     N2\r")

        threading.Thread(target=serve, daemon=True).start()
        assert run_guard(tmp_path).returncode == 0
