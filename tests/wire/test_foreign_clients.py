"""Clients that we did not write against our twins: the proof that a twin speaks its protocol."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pymodbus.client import ModbusTcpClient

from tests.support.twin_process import TwinProcess, running_twin

PROFILE = """
[[links]]
name = "heat"
port = "/dev/ttyS0"
baud = 19200
[[links]]
name = "gas"
port = "/dev/ttyS1"
baud = 19200
[[devices]]
name = "heater"
adapter = "watlow"
link = "heat"
address = 3
[[devices]]
name = "purge"
adapter = "alicat"
link = "gas"
address = "A"
[devices.options]
full_scale = 500.0
"""

MINIMAL = """
import sys, minimalmodbus
port = minimalmodbus.Instrument(sys.argv[1], 3)
port.serial.baudrate, port.serial.timeout = 19200, 2.0
order = minimalmodbus.BYTEORDER_LITTLE_SWAP
print(port.read_float(360, byteorder=order))
port.write_float(2160, 392.0, byteorder=order)
print(port.read_float(2160, byteorder=order))
try:
    port.read_registers(9000, 2)
except minimalmodbus.IllegalRequestError as error:
    print("refused")
"""

ALICAT = """
import asyncio, json, sys
from alicat import FlowController
async def main():
    async with FlowController(sys.argv[1], unit="A", timeout=2.0) as flow:
        before = await flow.get()
        await flow.set_flow_rate(125.0)
        after = await flow.get()
    print(json.dumps([before, after]))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinProcess]:
    folder = tmp_path_factory.mktemp("foreign")
    profile = folder / "rig.toml"
    profile.write_text(PROFILE)
    with running_twin(profile, folder / "twin") as running:
        yield running


def run_client(program: str, *arguments: str) -> list[str]:
    words = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_minimalmodbus_reads_writes_and_is_refused_by_our_controller(twin: TwinProcess) -> None:
    pytest.importorskip("minimalmodbus")
    pv, setpoint, refused = run_client(MINIMAL, twin.link("heat").port)
    assert float(pv) == pytest.approx(73.4, abs=5)  # 23 degC, in the factory's degF
    assert float(setpoint) == pytest.approx(392.0)
    assert refused == "refused"
    assert twin.ask(outputs=True)["outputs"]["heater.setpoint"] == pytest.approx(200.0)


def test_the_alicat_packages_client_reads_and_sets_our_flow_controller(twin: TwinProcess) -> None:
    pytest.importorskip("alicat")  # it takes an address for a port by its beginning, /dev
    (line,) = run_client(ALICAT, os.path.realpath(twin.link("gas").port))
    before, after = json.loads(line)
    assert before["setpoint"] == 0.0
    assert before["gas"] == "N2"
    assert after["setpoint"] == 125.0
    assert before["pressure"] == pytest.approx(14.7, abs=0.1)
    assert twin.ask(outputs=True)["outputs"]["purge.setpoint"] == pytest.approx(125.0)


def test_mbpoll_reads_our_controller(twin: TwinProcess) -> None:
    mbpoll = shutil.which("mbpoll")
    if mbpoll is None:
        pytest.skip("mbpoll is not installed: NOT CHECKED AGAINST IT; apt-get install mbpoll")
    words = [mbpoll, "-m", "rtu", "-a", "3", "-r", "361", "-c", "2", "-t", "4", "-1"]
    words += ["-b", "19200", "-P", "none", "-o", "2", twin.link("heat").port]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[361]:" in done.stdout
    assert "[362]:" in done.stdout


TCP_PROFILE = """
[[links]]
name = "heat"
transport = "tcp"
port = "127.0.0.1:502"
[[devices]]
name = "heater"
adapter = "watlow"
link = "heat"
address = 1
[devices.options]
framing = "tcp"
"""


def test_pymodbus_over_modbus_tcp_reads_and_writes_our_controller(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("tcp")
    (folder / "rig.toml").write_text(TCP_PROFILE)
    with running_twin(folder / "rig.toml", folder / "twin") as served:
        host, _, port = served.link("heat").port.rpartition(":")
        client = ModbusTcpClient(host, port=int(port), retries=0)
        assert client.connect()  # type: ignore[no-untyped-call] # pymodbus leaves it without types
        try:
            high, low = struct.unpack(">HH", struct.pack(">f", 392.0))
            assert not client.write_registers(2160, [low, high], device_id=1).isError()
            after = client.read_holding_registers(2160, count=2, device_id=1)
            assert after.registers == [low, high]
            assert client.read_holding_registers(9000, count=2, device_id=1).isError()
        finally:
            client.close()  # type: ignore[no-untyped-call] # pymodbus leaves it without types
        outputs = served.ask(outputs=True)["outputs"]
    assert outputs["heater.setpoint"] == pytest.approx(200.0)
