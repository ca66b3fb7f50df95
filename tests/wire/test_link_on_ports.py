"""The promises of a link, on real pseudo-terminals and real sockets, with and without asyncio."""

import pytest

from tests.support.link_contract import LinkContract


class TestLinkOnPty(LinkContract):
    transport = "pty"


class TestLinkOnTcp(LinkContract):
    transport = "tcp"


class TestLinkOnAsyncio(LinkContract):
    transport = "asyncio"

    @pytest.fixture(autouse=True)
    def libraries(self) -> None:
        pytest.importorskip("serial_asyncio", reason="the extra asyncio-links is not installed")
        pytest.importorskip("trio_asyncio", reason="the extra asyncio-links is not installed")


class TestLinkOnSocketUrl(TestLinkOnAsyncio):
    transport = "socket"
