"""Modbus TCP against pymodbus: its client on our twin, our driver on its server."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from pymodbus.client import ModbusTcpClient

from adapters.links import tcp
from adapters.links.link import StreamLink
from adapters.modbus import FAMILY
from capa.devices.adapter import FieldWrite, WriteAck
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import LinkClosedError
from tests.support.twin_process import running_twin

SERVER = """
import sys
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartTcpServer
StartTcpServer(
    ModbusServerContext(
        ModbusDeviceContext(
            co=ModbusSequentialDataBlock(1, [False] * 20),
            di=ModbusSequentialDataBlock(1, [False, False, True] + [False] * 17),
            hr=ModbusSequentialDataBlock(1, [0] * 100),
            ir=ModbusSequentialDataBlock(1, [1, 4464] + [0] * 98),
        ),
        single=True,
    ),
    address=("127.0.0.1", int(sys.argv[1])),
)
"""

PROFILE = """
name = "a box behind Ethernet"

[[links]]
name = "net"
transport = "tcp"
port = "192.0.2.7:502"

[[devices]]
name = "box"
adapter = "modbus"
link = "net"
address = 1

[devices.options]
framing = "tcp"
map = "box.toml"

[[channels]]
name = "box.valve"
kind = "other"
unit = "1"
device = "box"
field = "valve"
command = "open_valve"
limits = { min = 0.0, max = 1.0 }

[[safe_state]]
set = { "box.valve" = 0.0 }
"""

BOX = """
title = "a box"

[fields.lid]
register = "discrete"
address = 2
type = "bit"
unit = "1"

[fields.valve]
register = "coil"
address = 0
type = "bit"
unit = "1"
access = "rw"
command = "open_valve"

[fields.pulses]
register = "input"
address = 0
type = "uint32"
unit = "1"
"""


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "box.toml").write_text(BOX, encoding="utf-8")
    profile = tmp_path / "rig.toml"
    profile.write_text(PROFILE, encoding="utf-8")
    return profile


@pytest.fixture
def foreign_server() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])
    yield port
    process.terminate()
    process.wait(timeout=10)


async def connected(spec: LinkSpec) -> trio.abc.Stream:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            return await tcp.connector(spec)
        except LinkClosedError:
            assert time.monotonic() < deadline_s
            await trio.sleep(0.1)


def test_a_foreign_client_reads_and_sets_our_twin_over_modbus_tcp(
    box: Path, tmp_path: Path
) -> None:
    with running_twin(box, tmp_path / "twin") as twin:
        host, _, port = twin.link("net").port.partition(":")
        client = ModbusTcpClient(host, port=int(port), retries=0)
        assert client.connect()  # type: ignore[no-untyped-call] # pymodbus leaves it without types
        try:
            assert client.write_coil(0, True, device_id=1).bits[:1] == [True]
            assert client.read_coils(0, count=1, device_id=1).bits[:1] == [True]
            assert client.read_discrete_inputs(2, count=1, device_id=1).bits[:1] == [False]
            assert client.read_input_registers(0, count=2, device_id=1).registers == [0, 0]
            assert client.read_holding_registers(0, count=1, device_id=1).isError()
        finally:
            client.close()  # type: ignore[no-untyped-call] # pymodbus leaves it without types


async def test_our_driver_reads_and_sets_a_foreign_server_over_modbus_tcp(
    foreign_server: int, box: Path
) -> None:
    spec = LinkSpec(name="net", transport="tcp", port=f"127.0.0.1:{foreign_server}")
    link = StreamLink(spec, connected)
    options = {"framing": "tcp", "map": str(box.parent / "box.toml")}
    device = DeviceSpec(name="box", adapter="modbus", link="net", address=1, options=options)
    driver = FAMILY.create(device, link)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        await driver.open()
        seen = {reading.field: reading.value for reading in await driver.poll()}
        ack = await driver.write(FieldWrite("valve", 1.0), priority=Priority.COMMAND)
        nursery.cancel_scope.cancel()
    assert seen == {"lid": 1.0, "valve": 0.0, "pulses": 70000.0}
    assert ack == WriteAck(True, readback=1.0)
