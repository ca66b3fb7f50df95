"""pymodbus as the other side: its client against our twin, our adapter against its server."""

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
from pymodbus.client import ModbusSerialClient

from adapters.links import tcp
from adapters.links.link import StreamLink
from adapters.watlow import FAMILY
from capa.devices.adapter import FieldWrite
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import LinkClosedError
from tests.support.twin_process import running_twin

PROFILE = """
[[links]]
name = "heat"
port = "/dev/ttyUSB0"
[[devices]]
name = "heater"
adapter = "watlow"
link = "heat"
address = 1
"""

SERVER = """
import sys
from pymodbus import FramerType
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartTcpServer
block = ModbusSequentialDataBlock(1, [0] * 6000)
StartTcpServer(
    ModbusServerContext(ModbusDeviceContext(hr=block, ir=block), single=True),
    address=("127.0.0.1", int(sys.argv[1])),
    framer=FramerType.RTU,
)
"""


def as_float(registers: Sequence[int]) -> float:
    low, high = registers  # low word first, as the EZ-ZONE sends it from the factory
    return float(struct.unpack(">f", struct.pack(">HH", high, low))[0])


def test_a_foreign_client_reads_and_writes_our_twin(tmp_path: Path) -> None:
    profile = tmp_path / "heat.toml"
    profile.write_text(PROFILE)
    with running_twin(profile, tmp_path / "twin") as twin:
        client = ModbusSerialClient(port=twin.link("heat").port, baudrate=9600, retries=0)
        assert client.connect()
        try:
            before = client.read_holding_registers(2160, count=2, device_id=1)
            assert as_float(before.registers) == pytest.approx(75.2, abs=0.01)  # 24 degC in degF
            high, low = struct.unpack(">HH", struct.pack(">f", 392.0))
            assert not client.write_registers(2160, [low, high], device_id=1).isError()
            after = client.read_holding_registers(2160, count=2, device_id=1)
            assert as_float(after.registers) == pytest.approx(392.0)
            assert client.read_holding_registers(9000, count=2, device_id=1).isError()
        finally:
            client.close()  # type: ignore[no-untyped-call] # pymodbus leaves it without types
        assert twin.ask(outputs=True)["outputs"]["heater.setpoint"] == pytest.approx(200.0)


@pytest.fixture
def foreign_server(unused_port: int) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(unused_port)])
    yield unused_port
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def connected(spec: LinkSpec) -> trio.abc.Stream:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            return await tcp.connector(spec)
        except LinkClosedError:
            assert time.monotonic() < deadline_s
            await trio.sleep(0.1)


async def test_our_adapter_writes_and_reads_back_from_a_foreign_server(foreign_server: int) -> None:
    spec = LinkSpec(name="heat", transport="tcp", port=f"127.0.0.1:{foreign_server}")
    link = StreamLink(spec, connected)
    adapter = FAMILY.create(
        DeviceSpec(name="heater", adapter="watlow", link="heat", address=1), link
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        ack = await adapter.write(FieldWrite("setpoint", 200.0), priority=Priority.COMMAND)
        nursery.cancel_scope.cancel()
    assert ack.accepted
    assert ack.readback == pytest.approx(200.0)
