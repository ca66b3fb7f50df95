"""Every bit of a reply flipped, every cut, a double and a stranger: what becomes a reading of it.

Modbus RTU has a CRC. The lines of Alicat, SBI and MT-SICS have no check: there the driver takes a
second look at what has jumped, so a flipped bit can move a reading by no more than the step that
is allowed unquestioned, and everything else is counted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.alicat import FAMILY as ALICAT
from adapters.mettler import FAMILY as METTLER
from adapters.modbus import FAMILY as MODBUS
from adapters.sartorius import FAMILY as SARTORIUS
from adapters.watlow import FAMILY as WATLOW
from capa.devices.adapter import AdapterFamily, DeviceAdapter, Reading
from capa.devices.spec import DeviceSpec
from capa.errors import CapaError
from tests.support.direct_link import DirectLink
from tests.support.still_plant import StillPlant

MAP = {"fields": {"flux": {"address": 0, "type": "int16", "unit": "mV"}}}
Case = tuple[AdapterFamily, Mapping[str, Any], Mapping[str, float]]
CASES: dict[str, Case] = {
    "watlow": (WATLOW, {}, {}),
    "modbus": (MODBUS, {"address": 5, "options": MAP}, {}),
    "alicat": (
        ALICAT,
        {},
        {"pressure": 0.5, "temperature": 1.0, "volumetric": 5.0, "flow": 5.0},
    ),
    "sartorius": (SARTORIUS, {}, {"mass": 0.0009}),
    "sartorius 16": (SARTORIUS, {"twin": {"line": 16}}, {"mass": 0.0009}),
    "mettler": (METTLER, {}, {"mass": 0.00009}),
}


class Bench:
    def __init__(self, case: Case) -> None:
        family, more, self.steps = case
        spec = DeviceSpec(name="it", adapter=family.name, link="line", **more)
        plant = StillPlant()
        plant.quantities["gas.flow_sccm"] = 123.4
        self.link = DirectLink([family.twin(spec, plant)], reply_timeout_s=0.1)
        self.driver: DeviceAdapter = family.create(spec, self.link)
        self.truth: dict[str, Reading] = {}
        self.change: Callable[[bytes], bytes] | None = None
        self.length = 0
        self.link.garble = self._garble

    def _garble(self, data: bytes) -> bytes:
        self.length = self.length or len(data)
        change, self.change = self.change, None
        return data if change is None else change(data)

    async def start(self) -> None:
        await self.driver.open()
        for _ in range(8):
            self.length = 0
            self.truth |= {one.field: one for one in await self.driver.poll()}

    async def poll_with(self, change: Callable[[bytes], bytes]) -> None:
        """Poll with the first reply changed: an error, or the truth as near as is allowed."""
        self.change = change
        try:
            readings = await self.driver.poll()
        except CapaError:
            await self.driver.poll()  # the next one is right, and what was known is known again
            return
        for one in readings:
            if not one.status.usable:
                continue
            allowed = self.steps.get(one.field, 1e-9)
            assert abs(one.value - self.truth[one.field].value) <= allowed, one

    @property
    def counted(self) -> int:
        return sum(self.driver.counters.values())  # type: ignore[attr-defined] # BaseAdapter's


def with_bench(case: Case, check: Callable[[Bench], Any]) -> None:
    async def main() -> None:
        bench = Bench(case)
        await bench.start()
        await check(bench)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_flipped_bit_makes_a_wrong_reading(case: Case) -> None:
    async def check(bench: Bench) -> None:
        for bit in range(8 * bench.length):

            def flip(data: bytes, bit: int = bit) -> bytes:
                spoilt = bytearray(data)
                spoilt[bit // 8 % len(data)] ^= 1 << bit % 8
                return bytes(spoilt)

            await bench.poll_with(flip)
        assert bench.counted > 4 * bench.length  # more than half of all flips were noticed

    with_bench(case, check)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_truncated_doubled_or_foreign_reply_is_a_reading(case: Case) -> None:
    async def check(bench: Bench) -> None:
        for length in range(bench.length):

            def cut(data: bytes, length: int = length) -> bytes:
                return data[:length]

            before = bench.counted
            await bench.poll_with(cut)
            assert bench.counted == before + 1
        before = bench.counted
        await bench.poll_with(lambda data: data + data)
        assert bench.counted == before + 1
        await bench.poll_with(lambda data: bytes([data[0] ^ 0x03]) + data[1:])

    with_bench(case, check)
