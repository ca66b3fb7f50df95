"""Register maps against pymodbus: its client on our gauge, our driver on its server."""

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from pymodbus.client import ModbusSerialClient

from adapters.links import tcp
from adapters.links.link import StreamLink
from adapters.modbus import FAMILY
from capa.devices.adapter import FieldWrite
from capa.devices.link import Priority
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import LinkClosedError
from tests.support.twin_process import running_twin

CONE = Path(__file__).parents[2] / "configs" / "hardware" / "cone.toml"

SERVER = """
import sys
from pymodbus import FramerType
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartTcpServer
StartTcpServer(
    ModbusServerContext(
        ModbusDeviceContext(
            hr=ModbusSequentialDataBlock(1, [0] * 100),
            co=ModbusSequentialDataBlock(1, [False] * 20),
            ir=ModbusSequentialDataBlock(1, [16968, 0, 5, 65531] + [0] * 96),
        ),
        single=True,
    ),
    address=("127.0.0.1", int(sys.argv[1])),
    framer=FramerType.RTU,
)
"""

MAP = {
    "flux": {"address": 0, "register": "input", "type": "float32", "unit": "kW/m^2"},
    "second": {"address": 2, "register": "input", "type": "bit", "bit": 2, "unit": "1"},
    "body": {"address": 3, "register": "input", "type": "int16", "scale": 0.1, "unit": "degC"},
    "limit": {
        "address": 10,
        "type": "float32",
        "word_order": "low_high",
        "unit": "kW/m^2",
        "access": "rw",
        "command": "set_limit",
    },
    "pulses": {
        "address": 30,
        "type": "uint32",
        "unit": "1",
        "access": "rw",
        "command": "set_pulses",
    },
    "swapped": {
        "address": 40,
        "type": "uint32",
        "word_order": "low_high",
        "unit": "1",
        "access": "rw",
        "command": "set_swapped",
    },
    "lamp": {
        "address": 7,
        "register": "coil",
        "type": "bit",
        "unit": "1",
        "access": "rw",
        "command": "set_lamp",
    },
    "level": {"address": 20, "type": "int16", "unit": "V", "access": "rw", "command": "set_level"},
}

WIDE = {"pulses": 4_000_000_123.0, "swapped": 65_536.0 * 3 + 7, "lamp": 1.0}
"""Beyond what 31 bits hold, and such that the words can't be mistaken for each other."""


def test_a_foreign_client_reads_the_gauge_of_the_shipped_cone(tmp_path: Path) -> None:
    with running_twin(CONE, tmp_path / "twin") as twin:
        client = ModbusSerialClient(port=twin.link("gauge_bus").port, baudrate=19200, retries=0)
        assert client.connect()
        try:
            words = client.read_input_registers(0, count=2, device_id=1).registers
            (flux,) = struct.unpack(">f", struct.pack(">HH", *words))
            assert flux == pytest.approx(0.0, abs=0.3)  # a cold heater, and the gauge's noise
            assert client.read_holding_registers(0, count=2, device_id=1).isError()
            assert client.read_input_registers(40, count=1, device_id=1).isError()
        finally:
            client.close()  # type: ignore[no-untyped-call] # pymodbus leaves it without types


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


async def test_our_driver_reads_and_writes_a_foreign_server_by_its_map(foreign_server: int) -> None:
    spec = LinkSpec(name="bus", transport="tcp", port=f"127.0.0.1:{foreign_server}")
    link = StreamLink(spec, connected)
    device = DeviceSpec(
        name="gauge", adapter="modbus", link="bus", address=1, options={"fields": MAP}
    )
    driver = FAMILY.create(device, link)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        await driver.open()
        seen = {reading.field: reading.value for reading in await driver.poll()}
        limit = await driver.write(FieldWrite("limit", 62.5), priority=Priority.COMMAND)
        level = await driver.write(FieldWrite("level", -7.0), priority=Priority.COMMAND)
        wide = {
            name: await driver.write(FieldWrite(name, value), priority=Priority.COMMAND)
            for name, value in WIDE.items()
        }
        after = {reading.field: reading.value for reading in await driver.poll()}
        nursery.cancel_scope.cancel()
    assert seen["flux"] == 50.0
    assert (seen["second"], seen["body"]) == (1.0, -0.5)
    assert (limit.accepted, limit.readback) == (True, 62.5)
    assert (level.accepted, level.readback) == (True, -7.0)
    assert {name: ack.readback for name, ack in wide.items()} == WIDE
    assert {name: after[name] for name in WIDE} == WIDE
