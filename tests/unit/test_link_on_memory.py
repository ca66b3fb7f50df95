"""The promises of a link, on a pipe without wires and in virtual time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.support.bench_device import Bench, open_bench
from tests.support.link_contract import LinkContract


class TestLinkOnMemory(LinkContract):
    transport = "memory"

    @pytest.fixture
    def clock(self, autojump_clock: MockClock) -> MockClock:
        """Jump: a clock counts where the test itself takes it."""
        return autojump_clock

    @pytest.fixture
    async def bench(self, tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Bench]:
        async with open_bench(self.transport, tmp_path) as bench:
            yield bench
