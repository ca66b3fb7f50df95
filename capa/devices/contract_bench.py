"""What the contract's tests are run on: a device's adapter, link and twin, in one process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from capa.devices.adapter import AdapterFamily, DeviceAdapter, FieldWrite, Reading
from capa.devices.contract_tools import PriorityHeard, alike, by_field, in_time
from capa.devices.registry import RunnableLink, load_link_class, load_twins
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import CapaError

__all__ = ["LONGEST_S", "SETTLED_S", "TRIES", "Bench", "Case", "open_bench"]

SETTLED_S = 30.0
TRIES = 20
LONGEST_S = 120.0


@dataclass(frozen=True)
class Case:
    """One device to be put to the test.

    Args:
        family: what its entry point names.
        device: as in a profile; its ``link`` is ``link``'s name.
        link: as in a profile; ``port`` is not used. ``reply_timeout_s`` bounds what is awaited.
        write: a value that the device takes and shows again; None for one that takes none.
        twin: the profile's ``[twin]`` table.
        slack: how far a reading may move by itself, in the field's unit, beside one percent.
    """

    family: AdapterFamily
    device: DeviceSpec
    link: LinkSpec
    write: FieldWrite | None = None
    twin: Mapping[str, Any] = field(default_factory=dict)
    slack: float = 1.0


@dataclass(frozen=True)
class _Profile:
    links: tuple[LinkSpec, ...]
    devices: tuple[DeviceSpec, ...]
    twin: Mapping[str, Any]


@dataclass
class Bench:
    """The device of a case, opened, with its link and its twin."""

    case: Case
    adapter: DeviceAdapter
    link: RunnableLink
    twins: Any
    heard: PriorityHeard
    truth: dict[str, Reading] = field(default_factory=dict)

    async def poll(self) -> dict[str, Reading]:
        """Poll once; the readings by field."""
        return by_field(await in_time(self.adapter.poll(), LONGEST_S, "a poll"))

    async def poll_until_right(self, why: str) -> None:
        """Poll until the readings are as they were, opening again as a rig does; or fail."""
        seen = "nothing"
        for _ in range(TRIES):
            try:
                seen = alike(self.truth, await self.poll(), self.case.slack, all_usable=True)
            except CapaError as error:
                seen = f"{type(error).__name__}: {error}"
                await self._open_again()
            if not seen:
                return
            await trio.sleep(0.5)
        raise AssertionError(f"{why}: {seen}")

    async def _open_again(self) -> None:
        try:
            await self.adapter.open()
        except CapaError:
            await trio.sleep(0.5)

    def fault(self, kind: str, *, active: bool, value: float | None = None) -> bool:
        """Begin or end a fault; False if neither line nor device has it."""
        try:
            self.twins.fault(kind, device=self.case.device.name, active=active, value=value)
        except CapaError:
            return False
        return True


@asynccontextmanager
async def open_bench(case: Case, *, opened: bool) -> AsyncIterator[Bench]:
    """Make link, twin and adapter of a case; with ``opened``, settled and polled, too."""
    profile = _Profile((case.link,), (case.device,), case.twin)
    make = load_twins({"memory"})["memory"]
    connectors, twins = make(profile, {case.device.adapter: case.family})
    link = load_link_class()(case.link, connectors[case.link.name])
    heard = PriorityHeard(link)
    bench = Bench(case, case.family.create(case.device, heard), link, twins, heard)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        if opened:
            await bench.adapter.open()
            await trio.sleep(SETTLED_S)
            for _ in range(TRIES):  # what is read in turn has had its turn
                bench.truth |= await bench.poll()
        yield bench
        nursery.cancel_scope.cancel()
