"""``capa devices check``: every instrument opened, asked who it is, and read once."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from rich.console import Console
from rich.table import Table

from capa.channels.registry import ChannelRegistry
from capa.cli.devices_rig import Bench
from capa.config.hardware import HardwareProfile
from capa.config.poll_plan import LinePlan, line_plans
from capa.devices.adapter import Identity, Reading
from capa.devices.preflight import Severity
from capa.devices.session import OpenDevice
from capa.errors import CapaError
from capa.runtime.device_preflight import look_at, output_uses

__all__ = ["CheckedDevice", "check_devices", "tell_checked"]

UP_S = 5.0
"""How long a port may take to open."""
SLOW_SHARE = 0.7
"""Of the reply time-out: a device this slow will miss it one day."""
OK, WARN, FAIL = "ok", "warning", "failed"
_SEVERITIES = {Severity.REFUSE: FAIL, Severity.WARN: WARN}
_MARKS = {OK: "✓", WARN: "!", FAIL: "✗"}
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}


@dataclass(slots=True)
class CheckedDevice:
    """What was found of one device; ``notes`` say what is odd or wrong, and what to do.

    Each has a mark of its own, and the device the worst of them.
    """

    name: str
    link: str
    family: str
    mark: str = OK
    identity: Identity | None = None
    readings: dict[str, str] = field(default_factory=dict)
    reply_ms: float | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)

    def note(self, mark: str, text: str) -> None:
        """Note something; the device's mark becomes the worst there was."""
        self.notes.append((mark, text))
        if mark == FAIL or self.mark == OK:
            self.mark = mark

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        who = self.identity
        return {
            "device": self.name,
            "link": self.link,
            "family": self.family,
            "mark": self.mark,
            "model": who.model if who else None,
            "serial": who.serial if who else None,
            "firmware": who.firmware if who else None,
            "readings": self.readings,
            "poll_ms": self.reply_ms,
            "notes": [text for _, text in self.notes],
        }


async def check_devices(bench: Bench) -> list[CheckedDevice]:
    """Check all devices of a profile, one after another on each link, links side by side.

    Nothing is written: instruments keep their setpoints and settings.
    """
    registry = ChannelRegistry.from_profile(bench.profile, bench.parts.families)
    plans = {
        plan.link: plan
        for plan in line_plans(bench.profile.links, bench.profile.devices, bench.parts.families)
    }
    found: dict[str, CheckedDevice] = {}
    async with bench.devices() as devices, trio.open_nursery() as nursery:
        for link in dict.fromkeys(device.link_spec.name for device in devices.values()):
            own = [device for device in devices.values() if device.link_spec.name == link]
            nursery.start_soon(_check_line, own, bench.profile, registry, plans.get(link), found)
    return [found[device.name] for device in bench.profile.devices]


async def _check_line(
    devices: Sequence[OpenDevice],
    profile: HardwareProfile,
    registry: ChannelRegistry,
    plan: LinePlan | None,
    found: dict[str, CheckedDevice],
) -> None:
    link = devices[0].link
    with trio.move_on_after(UP_S):
        while not link.is_up:  # noqa: ASYNC110 - a link class need not offer an event
            await trio.sleep(0.02)
    for device in devices:
        checked = CheckedDevice(device.spec.name, link.name, device.spec.adapter)
        found[device.spec.name] = checked
        if link.is_up:
            await _check(device, checked, registry)
            if checked.identity is not None and checked.readings:
                await _check_settings(device, checked, profile, registry)
        else:
            checked.note(FAIL, getattr(link, "why_down", "") or f"link {link.name} is down")
        if plan is not None and plan.load > 1:
            checked.note(FAIL, f"its line {plan}")


async def _check_settings(
    device: OpenDevice,
    checked: CheckedDevice,
    profile: HardwareProfile,
    registry: ChannelRegistry,
) -> None:
    """Ask what it is set to, as arming does; what arming would mend is left as it is."""
    uses = output_uses(profile, registry, device.adapter)
    for report in await look_at(device.spec, device.adapter, uses):
        if report.severity in _SEVERITIES:
            text = f"{report.setting}: {report.message}; {report.remedy}"
            checked.note(_SEVERITIES[report.severity], text)


async def _check(device: OpenDevice, checked: CheckedDevice, registry: ChannelRegistry) -> None:
    try:
        checked.identity = await device.adapter.open()
        first = await device.adapter.poll()  # may read more than the ones that follow
        begun_s = trio.current_time()
        readings = list(await device.adapter.poll())
        checked.reply_ms = (trio.current_time() - begun_s) * 1000
    except CapaError as error:
        checked.note(FAIL, str(error))
        return
    except Exception as error:  # noqa: BLE001 - a driver's bug is a failed check, not the end of all
        checked.note(FAIL, f"its driver failed: {error!r}")
        return
    again = {reading.field for reading in readings}
    readings += [reading for reading in first if reading.field not in again]
    _judge(device, checked, readings, registry)


def _judge(
    device: OpenDevice,
    checked: CheckedDevice,
    readings: Sequence[Reading],
    registry: ChannelRegistry,
) -> None:
    units = {name: info.unit for name, info in device.adapter.fields.items()}
    for reading in readings:
        unit = units.get(reading.field, "")
        value = f"{reading.value:.6g} {unit}".strip()
        checked.readings[reading.field] = value if reading.status.usable else reading.status.value
        if not reading.status.usable:
            checked.note(WARN, f"{reading.field} has no value: {reading.status.value}")
    _judge_channels(device, checked, readings, registry)
    timeout_ms = device.link_spec.reply_timeout_s * 1000
    if checked.reply_ms is not None and checked.reply_ms > 1000 / device.spec.poll_hz:
        checked.note(
            WARN,
            f"a poll took {checked.reply_ms:.0f} ms, and poll_hz = {device.spec.poll_hz:g} leaves "
            f"it {1000 / device.spec.poll_hz:.0f} ms",
        )
    stats = device.link.stats
    if stats.drained_bytes:
        checked.note(
            WARN,
            f"{stats.drained_bytes} bytes came that nobody asked for: auto-print, a second master, "
            "or an adapter that echoes (local_echo = true)",
        )
    if checked.reply_ms is not None and checked.reply_ms > SLOW_SHARE * timeout_ms:
        checked.note(WARN, f"slow for reply_timeout_s = {timeout_ms / 1000:g}")


def _judge_channels(
    device: OpenDevice,
    checked: CheckedDevice,
    readings: Sequence[Reading],
    registry: ChannelRegistry,
) -> None:
    """Hold what was read against the limits of the channels that are bound to it.

    What can't be read back, such as a key, reads as something else than what was commanded.
    """
    values = {r.field: r.value for r in readings if r.status.usable and math.isfinite(r.value)}
    for channel in registry.by_device(device.spec.name):
        binding = channel.binding
        if binding is None or binding.command_field is None or channel.spec.limits is None:
            continue
        raw = values.get(binding.command_field)
        info = device.adapter.fields.get(binding.command_field)
        if raw is None or (info is not None and not info.reads_back):
            continue
        value, limits = binding.command_conversion.to_channel(raw), channel.spec.limits
        if not limits.min <= value <= limits.max:
            checked.note(
                WARN,
                f"{channel.name} is {value:g} {channel.spec.unit} now, outside its limits "
                f"{limits.min:g} to {limits.max:g}",
            )


def tell_checked(found: Sequence[CheckedDevice], *, as_json: bool) -> bool:
    """Print what was found; return whether no device failed."""
    good = all(checked.mark != FAIL for checked in found)
    if as_json:
        print(json.dumps({"ok": good, "devices": [each.as_json() for each in found]}, indent=2))
        return good
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "device", "link", "who answered", "poll", "readings"):
        table.add_column(column, overflow="fold")
    for checked in found:
        who = checked.identity
        table.add_row(
            f"[{_COLOURS[checked.mark]}]{_MARKS[checked.mark]}[/]",
            checked.name,
            checked.link,
            " ".join(filter(None, (who.model, who.serial, who.firmware))) if who else "nobody",
            f"{checked.reply_ms:.0f} ms" if checked.reply_ms is not None else "",
            ", ".join(f"{name} {value}" for name, value in checked.readings.items()),
        )
    console = Console(highlight=False)
    console.print(table)
    for checked in found:
        for mark, note in checked.notes:
            words = f"{_MARKS[mark]} {checked.name}: {note}"
            console.print(words, markup=False, soft_wrap=True)
    bad = sum(checked.mark == FAIL for checked in found)
    console.print(f"{len(found) - bad} of {len(found)} devices answer as the profile says")
    return good
