"""The guardian on controllers that speak Modbus TCP: proven, refused, mute, of another number."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guarded import Guarded, run_guard
from tests.support.safe_plans import RIG, plan_of
from tests.support.twin_process import running_twin

OVER_TCP = RIG.replace(
    'port = "/dev/ttyUSB0"\nbaud = 38400', 'transport = "tcp"\nport = "10.0.0.8:502"'
).replace('link = "heat"\n', 'link = "heat"\noptions.framing = "tcp"\n')
ALL = {"heater.setpoint": "proven", "purge.flow": "proven", "valve.opening": "commanded"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Guarded]:
    profile = tmp_path / "rig.toml"
    profile.write_text(OVER_TCP)
    (tmp_path / "run").mkdir()
    with running_twin(profile, tmp_path / "twin") as twin:
        yield Guarded(twin, tmp_path / "run")


def test_a_controller_behind_a_gateway_is_driven_and_proven(rig: Guarded) -> None:
    assert rig.run().returncode == 3
    assert rig.words() == ALL
    assert rig.output("heater", "setpoint") == pytest.approx(20.0, abs=0.01)
    assert rig.output("valve", "opening") == pytest.approx(30.0)


@pytest.mark.parametrize("kind", ["mute", "silence", "truncate"])
def test_one_that_does_not_answer_properly_is_unreachable_and_the_others_proven(
    rig: Guarded, kind: str
) -> None:
    rig.fault(kind, device="heater")
    assert rig.run().returncode == 4
    assert rig.words() == ALL | {"heater.setpoint": "unreachable"}


def answered(tmp_path: Path, answer: str) -> str:
    """What the guardian says of a heater that answers every request with these bytes."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(10)

    def serve() -> None:
        theirs, _ = server.accept()
        with theirs:
            while request := theirs.recv(100):
                theirs.sendall(request[:2] + bytes.fromhex(answer))

    thread = threading.Thread(target=serve)
    thread.start()
    text = OVER_TCP.replace("10.0.0.8:502", f"127.0.0.1:{server.getsockname()[1]}")
    plan_of(text, deadline_s=0.5).write(tmp_path)
    done = run_guard(tmp_path)
    thread.join()
    server.close()
    return next(line for line in done.stderr.splitlines() if "heater.setpoint" in line)


def test_a_refusal_is_said_in_the_devices_own_words(tmp_path: Path) -> None:
    said = answered(tmp_path, "0000 0003 01 90 02")
    assert "unreachable, refused by the device: exception 02" in said


def test_a_reply_of_another_unit_is_none(tmp_path: Path) -> None:
    assert "is no reply to it" in answered(tmp_path, "0000 0006 02 10 0870 0002")
