"""Exchanges against the wire's limit, CPU per exchange, many devices, a command behind polls.

The twins are a process of their own and keep the wire's time; what is measured is this process:
the links and drivers that the daemon runs. An instrument has a processor of its own, so the twin
goes first on this one where the system allows it. What a machine takes to hand bytes to and fro is
in each figure all the same; how much that is, the barest loop of system calls shows beside it.
"""

import os
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import serial
import tomli_w
import trio

from bench.harness import Twin, running_twin
from bench.table import Table, percentile
from capa.devices.adapter import FieldWrite
from capa.devices.link import Priority
from capa.devices.poll_cost import ExchangeCost, TellsPollCost
from capa.devices.registry import load_connectors, load_families, load_link_class
from capa.devices.session import OpenDevice, Tell, open_devices
from capa.devices.spec import DeviceSpec, LinkSpec

if TYPE_CHECKING:
    from capa.devices.tap import Passed

BAUDS: Final = (9600, 19200, 38400, 115200)
TRANSPORTS: Final = ("serial", "asyncio")
REPLY_S: Final = 0.002
MEASURE_S: Final = 2.0
OVERHEARD: Final = 25
"""How many polls are listened to beforehand."""
TWIN_PRIORITY: Final = 10
MOST_TIMES: Final = 1 / 0.9
"""At least 90 % of the line's limit."""
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "watlow": {"address": 1, "options": {"slow_hz": 0.1}},
    "alicat": {"address": "A"},
    "sartorius": {},
    "mettler": {},
    "modbus": {
        "address": 1,
        "options": {
            "fields": {
                name: {"address": 2 * index, "type": "float32", "unit": "degC"}
                for index, name in enumerate(("pv", "sp"))
            }
        },
    },
}


@dataclass(frozen=True)
class Speed:
    """What one run of polls gave."""

    per_s: float
    limit_per_s: float
    cpu_ms: float
    bare: "Bare"

    @property
    def over_bare_ms(self) -> float:
        """What an exchange takes longer than in the barest loop."""
        return (1 / self.per_s - 1 / self.bare.per_s) * 1e3

    @property
    def share(self) -> float:
        return self.per_s / self.limit_per_s

    @property
    def bare_share(self) -> float:
        """How near to the limit this machine lets one."""
        return self.bare.per_s / self.limit_per_s


@dataclass(frozen=True)
class Bare:
    """What the barest loop gets of the same twin, and what it costs."""

    per_s: float
    cpu_ms: float


def measure(table: Table, twin: Twin, directory: Path) -> None:
    """Every figure of the links and drivers."""
    del twin  # it is one for the daemon; here each part has its own
    directory.mkdir(parents=True, exist_ok=True)
    for transport in TRANSPORTS:
        for number, family in enumerate(FAMILIES, 1):
            print(f"    {transport}, family {number} of {len(FAMILIES)}: {family}", flush=True)
            speeds(table, directory, family, transport)
    scaling(table, directory)
    command(table, directory)


def _profile(
    family: str, links: int, per_link: int, *, baud: int, transport: str, poll_hz: float = 10.0
) -> dict[str, Any]:
    """A profile of ``links`` lines with ``per_link`` devices of a family on each."""
    entry = dict(FAMILIES[family])
    names = [(f"line{i}", f"device{i}_{j}", j) for i in range(links) for j in range(per_link)]
    return {
        "name": "bench",
        "links": [
            {"name": f"line{i}", "port": f"/dev/bench{i}", "baud": baud, "transport": transport}
            for i in range(links)
        ],
        "devices": [
            {
                **entry,
                "name": name,
                "adapter": family,
                "link": link,
                "poll_hz": poll_hz,
                "twin": {"reply_delay_s": REPLY_S},
                **({"address": _nth(entry["address"], j)} if "address" in entry else {}),
            }
            for link, name, j in names
        ],
        "twin": {"wire_timing": True},
    }


def _nth(address: int | str, index: int) -> int | str:
    return address + index if isinstance(address, int) else chr(ord(address) + index)


@contextmanager
def _served(profile: Mapping[str, Any], directory: Path) -> Iterator[dict[str, Any]]:
    """Serve a profile by a twin of its own; yield the profile that reaches it."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "bench.toml"
    file.write_text(tomli_w.dumps(dict(profile)))
    with running_twin(file, directory / "twin") as twin:
        _put_first(twin.process.pid)
        served = {**profile}
        served["links"] = [
            {**link, "port": str(twin.directory / f"{link['name']}.tty")}
            for link in profile["links"]
        ]
        yield served


def _put_first(pid: int) -> None:
    """Give every thread of a process real-time priority, or say that it has none."""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(TWIN_PRIORITY))
    except PermissionError:
        print("    the twin has no real-time priority here: its delays count as the line's")


def speeds(table: Table, directory: Path, family: str, transport: str) -> None:
    """Poll one device as fast as it goes, at each speed."""
    for baud in BAUDS:
        profile = _profile(family, 1, 1, baud=baud, transport=transport)
        with _served(profile, directory / f"{transport}-{family}-{baud}") as served:
            speed = trio.run(_flat_out, served)
        what = f"{family} at {baud} baud, {transport}"
        table.add(f"{what}: time over the wire's own", 1 / speed.share, "x", MOST_TIMES)
        print(
            f"    {speed.per_s:.1f} of {speed.limit_per_s:.1f} exchanges a second: "
            f"{speed.share:.0%} of the line's limit; the barest loop {speed.bare_share:.0%} "
            f"at {speed.bare.cpu_ms:.2f} ms of CPU, ours {speed.over_bare_ms:+.2f} ms each"
        )
        table.add(f"{what}: CPU per exchange", speed.cpu_ms, "ms", 0.5)


async def _flat_out(profile: Mapping[str, Any]) -> Speed:
    wire = await _overheard(profile)
    async with _opened(profile) as devices:
        (device,) = devices.values()
        await device.adapter.open()
        await device.adapter.poll()
        before, cpu_s, at_s = device.link.stats.exchanges, time.process_time(), time.monotonic()
        while time.monotonic() - at_s < MEASURE_S:
            await device.adapter.poll()
        took_s, cpu_s = time.monotonic() - at_s, time.process_time() - cpu_s
        exchanges = device.link.stats.exchanges - before
    line = profile["links"][0]
    bare = _bare_loop(line["port"], line["baud"], wire)
    return Speed(exchanges / took_s, 1 / wire.limit_s, cpu_s / exchanges * 1e3, bare)


@dataclass(frozen=True)
class Wire:
    """What one exchange is on the wire: a request, the length of its reply, the times."""

    request: bytes
    reply_bytes: int
    gap_s: float
    limit_s: float


async def _overheard(profile: Mapping[str, Any]) -> Wire:
    """Listen to some polls: what passes, and the least time it takes."""
    passed: list[Passed] = []
    async with _opened(profile, lambda _, chunk: passed.append(chunk)) as devices:
        (device,) = devices.values()
        await device.adapter.open()
        await device.adapter.poll()
        passed.clear()
        before = device.link.stats.exchanges
        for _ in range(OVERHEARD):
            await device.adapter.poll()
        exchanges = device.link.stats.exchanges - before
        gap_s, character_s = _gap_s(device), device.link_spec.character_s
    characters = sum(len(chunk.data) for chunk in passed) / exchanges
    sent = [chunk.data for chunk in passed if chunk.sent]
    usual = max(set(sent), key=sent.count)
    at = next(i for i, chunk in enumerate(passed) if chunk.sent and chunk.data == usual)
    reply_bytes = 0
    for chunk in passed[at + 1 :]:
        if chunk.sent:
            break
        reply_bytes += len(chunk.data)
    return Wire(usual, reply_bytes, gap_s, characters * character_s + gap_s + REPLY_S)


def _bare_loop(port: str, baud: int, wire: Wire) -> Bare:
    """Exchange the same bytes with nothing but system calls."""
    with serial.Serial(port, baud, timeout=0) as opened:
        fd, count = opened.fileno(), 0
        cpu_s, began_s = time.process_time(), time.monotonic()
        while (took_s := time.monotonic() - began_s) < MEASURE_S:
            os.write(fd, wire.request)
            got = 0
            while got < wire.reply_bytes:
                if not select.select([fd], [], [], 1.0)[0]:
                    raise TimeoutError(f"{port}: {got} of {wire.reply_bytes} bytes came")
                got += len(os.read(fd, 4096))
            count += 1
            time.sleep(wire.gap_s)
    return Bare(count / took_s, (time.process_time() - cpu_s) / count * 1e3)


def _costs(device: OpenDevice) -> Sequence[ExchangeCost]:
    family = load_families({device.spec.adapter})[device.spec.adapter]
    assert isinstance(family, TellsPollCost)
    return family.poll_cost(device.spec)


def _gap_s(device: OpenDevice) -> float:
    """The silence that the protocol wants before each request."""
    return max(cost.gap_s for cost in _costs(device))


def _poll_s(device: OpenDevice) -> float:
    """What a poll takes of the line, by the family's own word."""
    link = device.link_spec
    return sum(cost.line_s(link) + cost.per_poll * REPLY_S for cost in _costs(device))


def _opened(profile: Mapping[str, Any], tell: Tell | None = None) -> "_Ready":
    devices = [DeviceSpec(**each) for each in profile["devices"]]
    links = [LinkSpec(**each) for each in profile["links"]]
    return _Ready(links, devices, tell)


class _Ready:
    """Opened devices whose links are up."""

    def __init__(
        self, links: Sequence[LinkSpec], devices: Sequence[DeviceSpec], tell: Tell | None
    ) -> None:
        self._session = open_devices(
            links,
            devices,
            families=load_families({device.adapter for device in devices}),
            connectors=load_connectors({link.transport for link in links}),
            link_class=load_link_class(),
            tell=tell,
        )

    async def __aenter__(self) -> Mapping[str, OpenDevice]:
        opened = await self._session.__aenter__()
        with trio.fail_after(10):
            for device in opened.values():
                while not device.link.is_up:  # noqa: ASYNC110 - looked at once, at the start
                    await trio.sleep(0.01)
        return opened

    async def __aexit__(self, *error: Any) -> bool | None:  # noqa: ANN401 - passed on
        return await self._session.__aexit__(*error)


async def _schedule(device: OpenDevice, polls: list[int]) -> None:
    """Poll at the profile's rate on absolute ticks, as the rig does."""
    due_s, period_s = trio.current_time(), 1 / device.spec.poll_hz
    while True:
        await device.adapter.poll()
        polls[0] += 1
        due_s = max(due_s + period_s, trio.current_time())
        await trio.sleep_until(due_s)


def scaling(table: Table, directory: Path) -> None:
    """From 1 to 32 devices on 1 to 8 links, each at 10 Hz."""
    for transport in TRANSPORTS:
        for links, per_link in ((1, 1), (2, 2), (4, 4), (8, 4)):
            profile = _profile("modbus", links, per_link, baud=115200, transport=transport)
            where = directory / f"scale-{transport}-{links}-{per_link}"
            with _served(profile, where) as served:
                share, rate = trio.run(_load, served)
            count = links * per_link
            what = f"{count} devices on {links} links at 10 Hz, {transport}"
            goal = 0.2 if count == 32 else None
            table.add(f"{what}: share of a core", share, "", goal)
            print(
                f"    {rate:.0f} of {10 * count} polls a second; {share / rate * 1e3:.2f} ms each"
            )


async def _load(profile: Mapping[str, Any]) -> tuple[float, float]:
    async with _opened(profile) as devices, trio.open_nursery() as nursery:
        polls = [0]
        for device in devices.values():
            await device.adapter.open()
        for device in devices.values():
            nursery.start_soon(_schedule, device, polls)
        await trio.sleep(1)
        polls[0], cpu_s, at_s = 0, time.process_time(), time.monotonic()
        await trio.sleep(2 * MEASURE_S)
        took_s = time.monotonic() - at_s
        result = (time.process_time() - cpu_s) / took_s, polls[0] / took_s
        nursery.cancel_scope.cancel()
    return result


def command(table: Table, directory: Path) -> None:
    """A command on a line whose polls leave no pause: it waits for the exchange in progress."""
    profile = _profile("alicat", 1, 3, baud=19200, transport="serial", poll_hz=200)
    with _served(profile, directory / "command") as served:
        waits_ms, exchange_ms = trio.run(_commands, served)
    table.spread("a command behind a full poll schedule: until its reply", waits_ms, "ms")
    worst = percentile(waits_ms, 0.99) / exchange_ms
    table.add("  in exchanges of this line (one in progress, and its own)", worst, "", 2.2)


async def _commands(profile: Mapping[str, Any]) -> tuple[list[float], float]:
    async with _opened(profile) as devices, trio.open_nursery() as nursery:
        polls = [0]
        for device in devices.values():
            await device.adapter.open()
            nursery.start_soon(_schedule, device, polls)
        (first, *_) = devices.values()
        exchange_s = _poll_s(first)
        waits_ms = []
        for index in range(40):
            await trio.sleep(0.05 + 0.007 * (index % 5))
            begun_s = trio.current_time()
            await first.adapter.write(
                FieldWrite("setpoint", float(index)), priority=Priority.COMMAND
            )
            waits_ms.append((trio.current_time() - begun_s) * 1000)
        nursery.cancel_scope.cancel()
    return waits_ms, exchange_s * 1000
