"""The twin as its own process: ports, wire log, faults, and its end."""

import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from adapters.alicat import FAMILY as ALICAT
from adapters.links import serial, tcp
from adapters.links.link import StreamLink
from adapters.sartorius import FAMILY as SARTORIUS
from adapters.watlow import FAMILY as WATLOW
from capa.devices.adapter import AdapterFamily, DeviceAdapter, FieldWrite
from capa.devices.link import Priority
from capa.errors import LinkClosedError, LinkTimeoutError
from tests.support.twin_process import PROGRAM, TwinProcess, running_twin

FAMILIES: dict[str, AdapterFamily] = {"watlow": WATLOW, "alicat": ALICAT, "sartorius": SARTORIUS}
PROFILE = """
name = "bench"

[[links]]
name = "heat"
port = "/dev/ttyUSB0"
[[links]]
name = "gas line"
port = "/dev/ttyUSB1"
baud = 19200
[[links]]
name = "balance"
transport = "tcp"
port = "10.0.0.7:4001"

[[devices]]
name = "heater"
adapter = "watlow"
link = "heat"
address = 1
[[devices]]
name = "purge"
adapter = "alicat"
link = "gas line"
address = "A"
[[devices]]
name = "balance"
adapter = "sartorius"
link = "balance"

[[channels]]
name = "heater.pv"
kind = "temperature"
unit = "degC"
device = "heater"
field = "pv"
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "bench.toml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def twin(profile: Path, tmp_path: Path) -> Iterator[TwinProcess]:
    with running_twin(profile, tmp_path / "twin") as twin:
        yield twin


@asynccontextmanager
async def opened(twin: TwinProcess, device: str) -> AsyncIterator[tuple[DeviceAdapter, StreamLink]]:
    spec = twin.device(device)
    link_spec = twin.link(spec.link)
    connector = tcp.connector if link_spec.transport == "tcp" else serial.connector
    link = StreamLink(link_spec, connector)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        adapter = FAMILIES[spec.adapter].create(spec, link)
        await adapter.open()
        yield adapter, link
        nursery.cancel_scope.cancel()


async def until_down(link: StreamLink) -> None:
    with trio.fail_after(2):
        while link.is_up:  # noqa: ASYNC110 - its hook belongs to whoever made the link
            await trio.sleep(0.01)


async def test_every_family_answers_on_the_ports_that_the_written_profile_names(
    twin: TwinProcess,
) -> None:
    assert twin.lines[-1] == "ready"
    assert len(twin.lines) == 4
    assert twin.link("heat").port == str(twin.directory / "heat.tty")
    assert twin.link("gas line").transport == "serial"
    assert twin.profile["channels"][0]["name"] == "heater.pv"
    for device in ("heater", "purge", "balance"):
        async with opened(twin, device) as (adapter, _):
            assert {reading.field for reading in await adapter.poll()} == set(adapter.fields)


async def test_the_wire_log_has_request_output_and_reply_in_order_and_in_time(
    twin: TwinProcess,
) -> None:
    assert twin.wire(event="output", device="heater")[0]["value"] == 24.0
    async with opened(twin, "heater") as (adapter, _):
        begun_ns = time.monotonic_ns()
        ack = await adapter.write(FieldWrite("setpoint", 500.0), priority=Priority.SAFE)
        ended_ns = time.monotonic_ns()
    assert ack.accepted
    records = [each for each in twin.wire(link="heat") if each["t_ns"] >= begun_ns]
    assert [each["event"] for each in records[:4]] == ["rx", "output", "memory", "tx"]
    assert records[1]["value"] == pytest.approx(500.0, abs=0.001)
    assert (records[1]["device"], records[1]["field"]) == ("heater", "setpoint")
    assert bytes.fromhex(records[0]["hex"])[:2] == b"\x01\x10"
    stamps = [each["t_ns"] for each in records]
    assert begun_ns <= stamps[0]
    assert stamps == sorted(stamps)
    assert stamps[-1] <= ended_ns


async def test_a_host_that_closes_the_port_may_open_it_again(twin: TwinProcess) -> None:
    for _ in range(3):
        async with opened(twin, "purge") as (adapter, _):
            assert await adapter.poll()


@pytest.mark.parametrize("device", ["heater", "balance"])
async def test_a_port_that_vanishes_comes_back_and_so_does_the_link(
    twin: TwinProcess, device: str
) -> None:
    async with opened(twin, device) as (adapter, link):
        assert twin.ask(fault="port_gone", device=device)["ok"]
        await until_down(link)
        with pytest.raises(LinkClosedError, match="link"):
            await adapter.poll()
        assert not (twin.directory / "heat.tty").exists() or device == "balance"
        assert twin.ask(fault="port_gone", device=device, active=False)["ok"]
        with trio.fail_after(5):
            await link.up()
        assert await adapter.poll()
    faults = twin.wire(event="fault", field="port_gone")
    assert [each["active"] for each in faults] == [True, False]


async def test_a_silent_device_hears_nothing_and_obeys_nothing(twin: TwinProcess) -> None:
    async with opened(twin, "heater") as (adapter, _):
        twin.ask(fault="silence", link="heat")
        with pytest.raises(LinkTimeoutError):
            await adapter.write(FieldWrite("setpoint", 400.0), priority=Priority.COMMAND)
        twin.ask(fault="silence", link="heat", active=False)
        assert await adapter.poll()
    assert twin.ask(outputs=True)["outputs"]["heater.setpoint"] == 24.0


async def test_a_reply_that_is_late_does_not_become_the_next_ones(twin: TwinProcess) -> None:
    async with opened(twin, "heater") as (adapter, link):
        twin.ask(fault="delay", link="heat", value=0.7)
        with pytest.raises(LinkTimeoutError):
            await adapter.poll()
        twin.ask(fault="delay", link="heat", active=False)
        by_field = {reading.field: reading.value for reading in await adapter.poll()}
        assert by_field["setpoint"] == pytest.approx(24.0, abs=0.01)
        assert link.stats.drained_bytes > 0


async def test_a_host_that_dies_with_a_reply_unread_does_not_take_the_twin_along(
    twin: TwinProcess,
) -> None:
    host, _, number = twin.link("balance").port.rpartition(":")
    for late in range(20):  # it resets the connection, while the twin reads from it or writes to it
        with socket.create_connection((host, int(number))) as dying:
            dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            dying.sendall(b"\x1bP\r\n")
            await trio.sleep(late * 0.002)
    assert twin.ask(outputs=True)["ok"]
    assert twin.process.poll() is None


def test_a_fault_that_nothing_has_is_refused_with_the_ones_there_are(twin: TwinProcess) -> None:
    reply = twin.ask(fault="fire", link="heat")
    assert not reply["ok"]
    assert "port_gone" in reply["error"]
    assert "no link 'heating'" in twin.ask(fault="silence", link="heating")["error"]
    assert "no device 'oven'" in twin.ask(fault="frozen", device="oven")["error"]
    nowhere = twin.ask(fault="fire")["error"]
    assert "'fire' of which link or device? Links: heat, gas line, balance; " in nowhere
    assert "port_gone, silence" in nowhere
    assert "port_gone" not in twin.ask(fault="frozen")["error"]
    assert not twin.ask(nonsense=1)["ok"]


def test_the_plant_can_be_read_and_a_fresh_sample_put_in(twin: TwinProcess) -> None:
    assert twin.ask(set="sample.mass_g", value=7.5)["ok"]
    assert twin.ask(get="sample.mass_g")["value"] == pytest.approx(7.5)
    assert "kiln" in twin.ask(get="kiln.pv_degC")["error"]


async def test_a_twin_that_is_killed_has_logged_all_it_heard_and_the_link_is_down(
    twin: TwinProcess,
) -> None:
    async with opened(twin, "heater") as (adapter, link):
        await adapter.write(FieldWrite("setpoint", 123.0), priority=Priority.COMMAND)
        twin.end(signal.SIGKILL)
        await until_down(link)
    text = (twin.directory / "wire.jsonl").read_text()
    assert all(json.loads(line) for line in text.splitlines())
    assert text.endswith("\n")
    assert twin.wire(event="output", field="setpoint")[-1]["value"] == pytest.approx(123, abs=0.01)


def test_a_twin_ends_cleanly_and_can_be_started_again_in_the_same_place(
    profile: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "twin"
    for end_by, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGINT, 0)):
        with running_twin(profile, directory) as twin:
            assert (directory / "heat.tty").exists()
            begun_s = time.monotonic()
            assert twin.end(end_by) == code
            assert time.monotonic() - begun_s < 5
    assert not (directory / "heat.tty").is_symlink()
    assert not (directory / "control.sock").exists()


def test_a_directory_that_another_twin_serves_is_refused(twin: TwinProcess, profile: Path) -> None:
    second = TwinProcess(profile, twin.directory)
    _, error = second.process.communicate(timeout=20)
    assert second.process.returncode == 78
    assert "another twin serves" in error
    assert twin.ask(outputs=True)["ok"]


def test_a_long_directory_name_does_not_matter(profile: Path, tmp_path: Path) -> None:
    with running_twin(profile, tmp_path / ("a" * 60) / ("b" * 60)) as twin:
        assert twin.ask(outputs=True)["ok"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not TOML"),
        ('name = "x"', "do not fit"),
        (PROFILE.replace('adapter = "watlow"', 'adapter = "watlo"'), "no adapter 'watlo'"),
        (PROFILE + "\n[twin.furnace]\nambient = 3.0\n", "did you mean 'ambient_degC'"),
    ],
)
def test_a_profile_that_does_not_fit_ends_with_its_reason(
    tmp_path: Path, text: str, says: str
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bad), "--dir", str(tmp_path / "twin")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 78
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_that_waits_for_its_echo_alone_is_answered_all_the_same(twin: TwinProcess) -> None:
    """What is due at once must neither overtake nor interrupt what is being sent."""
    assert twin.ask(fault="echo", link="balance")["ok"]
    host, port = twin.link("balance").port.rsplit(":", 1)
    request = b"\x1bP\r\n"
    heard = b""
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent in range(1, 1001):
            line.sendall(request)
            while heard.count(request) < sent:
                chunk = line.recv(65536)
                assert chunk, "the twin is gone"
                heard += chunk
        while heard.count(b"\r\n") < 2000:
            chunk = line.recv(65536)
            assert chunk, "the twin is gone"
            heard += chunk
    assert twin.process.poll() is None
