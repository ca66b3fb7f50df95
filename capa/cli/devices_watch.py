"""``capa devices watch``: every channel's latest value, as the rig's own poll loops read it."""

import json
import sys
from collections.abc import Iterator

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from capa.cli.devices_rig import Bench, quiet_log
from capa.devices.adapter import Health
from capa.runtime.parts import open_parts
from capa.runtime.rig import Rig

__all__ = ["watch_devices"]

REFRESH_S = 0.25
PLAIN_S = 1.0
_COLOURS = {Health.OK: "green", Health.DEGRADED: "yellow", Health.DOWN: "red"}
_UNSEEN = "-"


async def watch_devices(bench: Bench, *, for_s: float, as_json: bool) -> None:
    """Show the channels until ``for_s`` is over; nothing is written to an instrument.

    A terminal gets a table that is kept up to date, a pipe one line a second.
    """
    async with open_parts(bench.parts, log=quiet_log()) as rig:
        with trio.move_on_after(for_s):
            if as_json or not sys.stdout.isatty():
                await _lines(rig, as_json=as_json)
            else:
                await _live(rig)


async def _lines(rig: Rig, *, as_json: bool) -> None:
    while True:
        await trio.sleep(PLAIN_S)
        rows = {name: (value, unit, status) for name, value, unit, _, status in _rows(rig)}
        if as_json:
            facts = {
                name: {"value": value, "unit": unit, "status": status}
                for name, (value, unit, status) in rows.items()
            }
            print(json.dumps(facts), flush=True)
        else:
            print("; ".join(_in_words(name, *row) for name, row in rows.items()), flush=True)


def _in_words(name: str, value: str, unit: str, status: str) -> str:
    words = f"{name} {value} {unit}"
    return words if status == "ok" else f"{words} ({status})"


async def _live(rig: Rig) -> None:
    with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while True:
            live.update(Group(_channels(rig), "", _devices(rig), *_troubles(rig)), refresh=True)
            await trio.sleep(REFRESH_S)


def _rows(rig: Rig) -> Iterator[tuple[str, str, str, str, str]]:
    for channel in rig.profile.channels:
        sample = rig.bus.latest(channel.name)
        if sample is None:
            yield channel.name, _UNSEEN, channel.unit, _UNSEEN, "not yet"
            continue
        age_s = trio.current_time() - sample.at_s
        value = f"{sample.value:.6g}" if sample.status.usable else _UNSEEN
        yield channel.name, value, channel.unit, f"{age_s:.1f} s", sample.status.value


def _channels(rig: Rig) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("channel")
    table.add_column("value", justify="right", min_width=10)
    table.add_column("unit")
    table.add_column("age", justify="right", min_width=6)
    table.add_column("status")
    for name, value, unit, age, status in _rows(rig):
        colour = "green" if status == "ok" else "yellow" if value != _UNSEEN else "red"
        table.add_row(name, value, unit, age, f"[{colour}]{status}[/]")
    return table


def _devices(rig: Rig) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("device", "state", "polls", "failed", "link", "late/foreign bytes"):
        table.add_column(column, overflow="fold", no_wrap=column == "device")
    for spec in rig.profile.devices:
        health = rig.health(spec.name)
        stats = rig.links[spec.link].stats
        table.add_row(
            spec.name,
            f"[{_COLOURS[health.state]}]{health.state.value}[/]",
            str(health.polls),
            str(health.failures),
            spec.link,
            str(stats.drained_bytes),
        )
    return table


def _troubles(rig: Rig) -> Iterator[Text]:
    """Under the table, in the terminal's full width: a column would have none left for it."""
    for spec in rig.profile.devices:
        if trouble := rig.trouble(spec.name):
            yield Text(f"{spec.name}: {trouble}", style="red")
