"""``capa devices`` as an integrator uses it, against a twin on ptys."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.links import serial
from capa.cli.devices_discover import Found, asked_on, probes_of, search
from capa.devices.registry import load_families
from tests.support.twin_process import TwinProcess, running_twin

DEMO = Path("configs/hardware/demo.toml").resolve()
CAPA = Path(sys.executable).with_name("capa")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinProcess]:
    with running_twin(DEMO, tmp_path_factory.mktemp("devices") / "twin") as running:
        yield running


@pytest.fixture
def healthy(twin: TwinProcess) -> Iterator[TwinProcess]:
    yield twin
    for fault in ("silence", "sensor_break"):
        twin.ask(fault=fault, device="furnace", active=False)


def devices(*words: object) -> subprocess.CompletedProcess[str]:
    argv = [CAPA, "devices", *words]
    return subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, timeout=90, check=False
    )


@contextmanager
def begun(*words: object) -> "Iterator[subprocess.Popen[str]]":
    """A command that goes on by itself, ended at the latest with the block."""
    argv = [CAPA, "devices", *words]
    with subprocess.Popen(
        list(map(str, argv)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def profile_of(twin: TwinProcess) -> Path:
    return twin.directory / "profile.toml"


def test_check_names_who_answers_and_what_is_read(healthy: TwinProcess) -> None:
    done = devices("check", profile_of(healthy), "--json")
    assert done.returncode == 0, done.stderr
    found = {each["device"]: each for each in json.loads(done.stdout)["devices"]}
    assert [each["mark"] for each in found.values()] == ["ok", "ok", "ok"]
    assert "EZ-ZONE" in found["furnace"]["model"]
    assert found["balance"]["readings"]["mass"] == "2 g"
    assert found["furnace"]["readings"]["setpoint"] == "24 degC"  # not read at every poll
    assert healthy.ask(outputs=True)["outputs"]["furnace.setpoint"] == pytest.approx(24.0)


def test_check_does_not_hold_how_often_a_key_was_pressed_against_its_limits(
    tmp_path: Path,
) -> None:
    page = Path("docs/instruments/mettler.md").read_text(encoding="utf-8")
    profile = tmp_path / "rig.toml"
    profile.write_text(page.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    with running_twin(profile, tmp_path / "twin") as twin:
        done = devices("check", profile_of(twin), "--json")
    (found,) = json.loads(done.stdout)["devices"]
    assert found["readings"]["tare_now"].startswith("0")
    assert found["mark"] == "ok"


def test_check_fails_for_a_device_that_does_not_answer_and_goes_on_with_the_others(
    healthy: TwinProcess,
) -> None:
    healthy.ask(fault="silence", device="furnace")
    done = devices("check", profile_of(healthy))
    assert done.returncode == 1
    assert "furnace: link furnace_bus" in done.stdout
    assert "check power, address, baud rate" in done.stdout
    assert "2 of 3 devices answer as the profile says" in done.stdout


def test_a_line_at_another_speed_is_heard_by_nobody_and_the_speed_is_among_the_advice(
    healthy: TwinProcess, tmp_path: Path
) -> None:
    profile = (healthy.directory / "profile.toml").read_text()
    wrong = tmp_path / "rig.toml"
    wrong.write_text(profile.replace("baud = 38400", "baud = 9600"))
    assert wrong.read_text() != profile
    done = devices("check", wrong)
    assert done.returncode != 0
    assert "furnace" in done.stdout
    assert "baud" in done.stdout
    assert healthy.wire(event="misheard", link="furnace_bus")
    assert devices("check", healthy.directory / "profile.toml").returncode == 0


def test_a_fault_is_begun_and_ended_from_the_command_line(healthy: TwinProcess) -> None:
    words = [CAPA, "twin", "fault", healthy.directory, "silence", "--device", "furnace"]
    for more in ((), ("--off",)):
        argv = list(map(str, (*words, *more)))
        assert subprocess.run(argv, timeout=60, check=True, capture_output=True).returncode == 0
    faults = healthy.wire(event="fault", device="furnace", field="silence")
    assert [each["active"] for each in faults[-2:]] == [True, False]


def test_a_fault_that_can_not_be_is_refused_in_words(healthy: TwinProcess, tmp_path: Path) -> None:
    for folder, words, says in (
        (healthy.directory, ("fire", "--device", "balance"), "balance has no fault 'fire'; faults"),
        (healthy.directory, ("silence",), "of which link or device? Links: furnace_bus"),
        (tmp_path / "none", ("silence",), "No such file or directory; is it running?"),
    ):
        argv = list(map(str, (CAPA, "twin", "fault", folder, *words)))
        done = subprocess.run(argv, timeout=60, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("capa twin fault: ")
        assert says in done.stderr


def test_a_twin_of_a_family_that_is_not_installed_names_those_that_are(tmp_path: Path) -> None:
    profile = tmp_path / "lamp.toml"
    text = DEMO.read_text(encoding="utf-8").replace('adapter = "alicat"', 'adapter = "lamp"')
    profile.write_text(text, encoding="utf-8")
    argv = list(map(str, (CAPA, "twin", profile, "--dir", tmp_path / "twin")))
    done = subprocess.run(argv, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 78
    assert "no adapter 'lamp' is installed; there are: alicat, mettler, modbus" in done.stderr


def test_check_warns_of_a_broken_sensor(healthy: TwinProcess) -> None:
    healthy.ask(fault="sensor_break", device="furnace")
    done = devices("check", profile_of(healthy))
    assert done.returncode == 0
    assert "furnace: pv has no value: sensor_fail" in done.stdout


def test_a_rig_that_a_daemon_works_on_is_left_alone_and_the_daemon_is_named(
    healthy: TwinProcess, tmp_path: Path
) -> None:
    lock = tmp_path / "capad.lock"
    lock.write_text("4711\n")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = devices("check", profile_of(healthy), "--runtime-dir", tmp_path)
    assert done.returncode == 2
    assert "capad (pid 4711) works on this rig" in done.stderr


def test_watch_prints_a_line_a_second_into_a_pipe(healthy: TwinProcess) -> None:
    done = devices("watch", profile_of(healthy), "--for", "2.5", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    assert rows[-1]["balance.mass"] == {"value": "2", "unit": "g", "status": "ok"}


def test_talk_prints_the_frames_as_they_pass(healthy: TwinProcess) -> None:
    done = devices("talk", profile_of(healthy), "purge", "--polls", 1)
    assert done.returncode == 0, done.stderr
    assert '> "A\\r"' in done.stdout
    assert '< "A +014.70' in done.stdout
    assert "= pressure 14.7 ok" in done.stdout


def test_talk_says_why_an_exchange_failed(healthy: TwinProcess) -> None:
    healthy.ask(fault="silence", device="furnace")
    done = devices("talk", profile_of(healthy), "furnace", "--polls", 0)
    assert done.returncode == 1
    assert "! LinkTimeoutError: link furnace_bus" in done.stdout
    assert "check power, address, baud rate and wiring" in done.stdout


@pytest.mark.parametrize("words", [("watch",), ("talk", "balance")], ids=["watch", "talk"])
def test_a_reader_that_has_seen_enough_ends_the_command(
    healthy: TwinProcess, words: tuple[str, ...]
) -> None:
    with begun(words[0], profile_of(healthy), *words[1:]) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline()
        running.stdout.close()
        assert (running.wait(60), running.stderr.read()) == (0, "")


@pytest.mark.parametrize("bad", ["nan", "-1"])
@pytest.mark.parametrize(
    "words", [("watch", "--for"), ("talk", "balance", "--polls")], ids=["watch", "talk"]
)
def test_a_time_or_a_count_below_nothing_is_refused(
    healthy: TwinProcess, words: tuple[str, ...], bad: str
) -> None:
    done = devices(words[0], profile_of(healthy), *words[1:], bad)
    assert done.returncode == 2
    assert f"{bad} is not 0 or more" in done.stderr


def test_a_recording_that_is_ended_by_hand_keeps_what_there_was(
    healthy: TwinProcess, tmp_path: Path
) -> None:
    file = tmp_path / "balance.transcript"
    words = ("record", profile_of(healthy), "balance", "--polls", 100_000, "--out", file)
    before = len(healthy.wire(event="tx", link="balance_line"))
    with begun(*words) as running:
        while len(healthy.wire(event="tx", link="balance_line")) < before + 5:
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    assert devices("replay", file).returncode == 0
    assert file.read_text(encoding="utf-8").count("= mass") >= 2


def test_a_recording_into_no_folder_is_refused_before_anything_is_asked(
    healthy: TwinProcess, tmp_path: Path
) -> None:
    asked = len(healthy.wire(event="rx", link="balance_line"))
    out = tmp_path / "none" / "file"
    done = devices("record", profile_of(healthy), "balance", "--out", out)
    assert done.returncode == 2
    assert f"there is no folder {out.parent}" in done.stderr
    assert len(healthy.wire(event="rx", link="balance_line")) == asked


def test_watch_says_in_a_narrow_terminal_what_a_device_fails_with(healthy: TwinProcess) -> None:
    healthy.ask(fault="silence", device="furnace")
    command = f"stty cols 40 rows 50; {CAPA} devices watch {profile_of(healthy)} --for 4"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert "baud rate" in done.stdout
    assert "furnace: link furnace_bus" in done.stdout


def test_watch_in_a_pipe_says_what_is_wrong_with_a_value(healthy: TwinProcess) -> None:
    healthy.ask(fault="sensor_break", device="furnace")
    done = devices("watch", profile_of(healthy), "--for", "1.5")
    assert "heater.pv - degC (sensor_fail)" in done.stdout
    assert "balance.mass 2 g;" in done.stdout


def test_a_device_that_is_not_in_the_profile_is_named_with_those_that_are(
    healthy: TwinProcess,
) -> None:
    done = devices("talk", profile_of(healthy), "pump")
    assert done.returncode == 2
    assert "no device is called 'pump'; there are: furnace, purge, balance" in done.stderr


def test_what_is_recorded_can_be_replayed_and_is_never_overwritten(
    healthy: TwinProcess, tmp_path: Path
) -> None:
    file = tmp_path / "furnace.transcript"
    words = ("record", profile_of(healthy), "furnace", "--polls", 2, "--out", file)
    assert devices(*words).returncode == 0
    assert devices("replay", file).returncode == 0
    again = devices(*words)
    assert again.returncode == 2
    assert "is not overwritten" in again.stderr
    file.write_text(file.read_text().replace("= pv 2", "= pv 9"))
    changed = devices("replay", file)
    assert changed.returncode == 1
    assert "recorded: pv 9" in changed.stderr


async def test_discover_finds_who_is_on_a_port_by_reads_alone(healthy: TwinProcess) -> None:
    port = healthy.link("gas_bus").port
    before = healthy.ask(outputs=True)
    probes = probes_of(load_families({"alicat", "watlow"}))
    few = [each for each in probes if each[1].line.baud == 19200][:6]
    steps: list[str] = []
    found = await search(port, few, serial.connector, progress=steps.append)
    assert {(each.family, each.address) for each in found if each.model} == {("alicat", "A")}
    assert len(steps) == len(few)
    assert healthy.ask(outputs=True) == before


def test_behind_a_device_server_each_question_is_asked_once_and_no_speed_is_claimed() -> None:
    probes = probes_of(load_families({"mettler", "alicat"}))
    server = asked_on("socket://127.0.0.1:4001", probes)
    assert asked_on("/dev/ttyUSB0", probes) == probes
    assert len(server) == len({probe.request for _, probe in probes}) < len(probes)
    assert server[0] == probes[0]
    line = probes[0][1].line
    assert str(line) not in str(Found("socket://host:1", "mettler", line, None, "X", b"I2"))
    assert str(line) in str(Found("/dev/ttyUSB0", "mettler", line, None, "X", b"I2"))


def test_a_network_is_not_searched() -> None:
    done = devices("discover", "--port", "127.0.0.1:502", "--yes")
    assert done.returncode == 2
    assert "a network is not searched" in done.stderr
    assert "socket://127.0.0.1:502" in done.stderr


def test_discover_sends_nothing_unless_it_is_told_to_go_on(healthy: TwinProcess) -> None:
    port = os.path.realpath(healthy.link("gas_bus").port)
    heard = len(healthy.wire(event="rx"))
    done = devices("discover", "--port", port, "--family", "alicat")
    assert done.returncode != 0
    assert len(healthy.wire(event="rx")) == heard


def test_list_says_what_each_family_can_do() -> None:
    done = devices("list", "--json")
    families = json.loads(done.stdout)
    assert {"watlow", "alicat", "sartorius", "modbus", "mettler"} <= families.keys()
    assert "guardian" in families["watlow"]["can"]
