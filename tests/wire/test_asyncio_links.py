"""Links on an asyncio loop: only where they are configured; what is said if they can't be."""

import socket
import subprocess
import sys

import pytest
import trio

from adapters.links import aio, serial
from capa.devices.spec import LinkSpec
from capa.errors import LinkClosedError

ORDINARY = """
import sys
from capa.devices.registry import load_connectors, load_families, load_link_class
load_connectors({"serial", "tcp"}), load_link_class(), load_families()
sys.exit(sum(name in sys.modules for name in ("serial_asyncio", "trio_asyncio")))
"""


def test_a_rig_without_such_a_link_loads_nothing_of_it() -> None:
    assert subprocess.run([sys.executable, "-c", ORDINARY], timeout=60, check=False).returncode == 0


async def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial_asyncio", None)
    spec = LinkSpec(name="gas", transport="asyncio", port="/dev/ttyNONE")
    with pytest.raises(LinkClosedError, match=r"link gas: .*capa\[asyncio-links\]"):
        await aio.connector(spec)


@pytest.mark.parametrize("port", ["socket://127.0.0.1:1", "socket://nowhere"])
async def test_a_device_server_that_is_not_there_is_named(port: str) -> None:
    pytest.importorskip("trio_asyncio", reason="the extra asyncio-links is not installed")
    with pytest.raises(LinkClosedError, match=r"link gas: cannot connect .*check address"):
        await serial.connector(LinkSpec(name="gas", port=port))


async def test_a_device_server_that_hangs_up_stops_nobody_else() -> None:
    pytest.importorskip("trio_asyncio", reason="the extra asyncio-links is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        stream = await serial.connector(LinkSpec(name="gas", port=f"socket://127.0.0.1:{port}"))
        peer, _ = server.accept()
        peer.sendall(b"last words")
        peer.close()
        with trio.fail_after(10):
            assert await stream.receive_some() == b"last words"
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"anybody?")
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"anybody?")
