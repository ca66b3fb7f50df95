"""The least a trio program can do for the same exchanges through the same codec: the yardstick.

No queue, no deadline, no channel, no record: write, wait, read, decode, ten times a second.
"""

import os
import sys
import tomllib
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from capa.devices.adapter import AdapterFamily, DeviceAdapter
from capa.devices.link import Answer, LinkStats, Priority
from capa.devices.registry import load_families
from capa.devices.spec import DeviceSpec

ReplyT = TypeVar("ReplyT")


class BareLink:
    """A file descriptor and nothing else."""

    is_up = True

    def __init__(self, name: str, port: str) -> None:
        self.name = name
        self.stats = LinkStats()
        self._fd = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._fd)

    def hush(self, for_s: float) -> None:
        pass

    async def exchange(
        self,
        request: bytes,
        feed: Callable[[bytes], ReplyT | None],
        *,
        priority: Priority = Priority.POLL,
        reply_timeout_s: float | None = None,
        gap_s: float = 0.0,
    ) -> Answer[ReplyT]:
        sent_at_s = trio.current_time()
        os.write(self._fd, request)
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            reply = feed(os.read(self._fd, 4096))
            if reply is not None:
                return Answer(reply, sent_at_s, trio.current_time())


async def poll(device: DeviceAdapter, hz: float) -> None:
    start_s, index = trio.current_time(), 0
    while True:
        await trio.sleep_until(start_s + index / hz)
        await device.poll()
        index += 1


async def main(tables: dict[str, Any]) -> None:
    families: dict[str, AdapterFamily] = load_families()
    links = {table["name"]: BareLink(table["name"], table["port"]) for table in tables["links"]}
    async with trio.open_nursery() as nursery:
        for table in tables["devices"]:
            spec = DeviceSpec.model_validate(table)
            device = families[spec.adapter].create(spec, links[spec.link])
            await device.open()
            nursery.start_soon(poll, device, spec.poll_hz)


if __name__ == "__main__":
    trio.run(main, tomllib.loads(Path(sys.argv[1]).read_text()))
