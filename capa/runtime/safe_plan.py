"""The first stage of the safe state, compiled to bytes while all is well.

``capad-guard`` replays what is written here when the daemon is gone. It cannot import this
package, so the file says everything: the settings of each line, every request, what each answer
looks like and what it must say. The check sum is over the plan's text: a flipped bit in a frame
would be another command.
"""

import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capa.channels.registry import Binding, ChannelRegistry
from capa.config.hardware import HardwareProfile
from capa.config.problems import Problem
from capa.devices.adapter import AdapterFamily, FieldWrite
from capa.devices.registry import load_families
from capa.devices.safe_plan import CompilesSafeWrites, ReadBack, ReplyShape, SafeWrite
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.storage.atomic import write_atomically

__all__ = [
    "PLAN_FILE",
    "PLAN_VERSION",
    "NotCompiled",
    "SafePlan",
    "compile_safe_plan",
    "compile_write",
    "unguarded_problems",
]

PLAN_FILE = "safe_plan.json"
PLAN_VERSION = 1
DEADLINE_S = 5.0
DRAIN_S = 0.1
"""How long the guardian waits, at the longest, for a line that speaks unasked to fall silent."""

_SHAPES = {"Exactly": "exact", "ModbusFrame": "modbus", "MatchingLine": "line"}
_SOCKET_URL = "socket://"
_SERIAL = ("serial", "asyncio")


@dataclass(frozen=True, slots=True)
class NotCompiled:
    """An output that the guardian cannot drive, and why not."""

    channel: str
    device: str
    value: float
    why: str

    def __str__(self) -> str:
        return f"{self.channel} of {self.device} cannot be compiled for capad-guard: {self.why}"


@dataclass(frozen=True, slots=True)
class SafePlan:
    """A compiled stage; ``document`` is what the file holds."""

    document: Mapping[str, Any]
    not_compiled: tuple[NotCompiled, ...]

    def text(self) -> bytes:
        """Return the file: one line of JSON, with the CRC-32 of all that follows ``"plan": ``."""
        body = json.dumps(self.document, allow_nan=False, ensure_ascii=True) + "}\n"
        crc = binascii.crc32(body.encode())
        return f'{{"version": {PLAN_VERSION}, "crc32": "{crc:08x}", "plan": {body}'.encode()

    def write(self, directory: Path) -> Path:
        """Put the plan where the guardian looks for it; durable when this returns.

        A plan that cannot be replaced is removed: bytes of another profile are no safe state.

        Raises:
            OSError: there is no plan now.
        """
        path = directory / PLAN_FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self.text())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path


def compile_safe_plan(
    profile: HardwareProfile,
    families: Mapping[str, AdapterFamily],
    *,
    written_utc: datetime,
    simulated: bool = False,
    deadline_s: float = DEADLINE_S,
) -> SafePlan:
    """Compile stage one of a profile; needs no link and does no I/O.

    ``simulated`` says that the instruments are twins that end with the daemon: there is nothing
    left to make safe then. ``deadline_s`` is what the guardian may take for all of it.
    """
    registry = ChannelRegistry.from_profile(profile, families)
    devices = {device.name: device for device in profile.devices}
    links = {link.name: _link(link) for link in profile.links}
    missing = []
    for channel, value in (profile.safe_state[0].set if profile.safe_state else {}).items():
        binding = registry.resolve(channel).binding
        if binding is None:
            missing.append(NotCompiled(channel, "", value, "no device is behind it"))
            continue
        device = devices[binding.device]
        link = links[device.link]
        try:
            _check_transport(link)
            write = compile_write(families[device.adapter], device, channel, value, binding)
        except ValueError as error:
            missing.append(NotCompiled(channel, device.name, value, str(error)))
        except Exception as error:  # noqa: BLE001 - a driver's bug costs the others no plan
            why = f"its driver failed: {type(error).__name__}: {error}"
            missing.append(NotCompiled(channel, device.name, value, why))
        else:
            write["reply_timeout_s"] = link["reply_timeout_s"]
            write["gap_s"] = write["gap_s"] if link["gap_s"] is None else link["gap_s"]
            link["writes"].append(write)
    return SafePlan(
        {
            "profile": profile.name,
            "written_utc": written_utc.isoformat(timespec="milliseconds"),
            "simulated": simulated,
            "deadline_s": deadline_s,
            "links": [link for link in links.values() if link["writes"]],
            "not_compiled": [asdict(each) for each in missing],
        },
        tuple(missing),
    )


def unguarded_problems(profile: HardwareProfile, *, file: Path) -> list[Problem]:
    """Return a warning for each output of stage one that the guardian can't drive.

    Raises:
        CapaError: the installation is damaged.
    """
    families = load_families({device.adapter for device in profile.devices})
    plan = compile_safe_plan(profile, families, written_utc=datetime.now(UTC))
    return [
        Problem(
            "safe_plan.not_compiled",
            f"{lack}; when capad is gone it stays as it is until capad is back",
            blocking=False,
            file=str(file),
            where=f"channel {lack.channel}",
        )
        for lack in plan.not_compiled
    ]


def _link(spec: LinkSpec) -> dict[str, Any]:
    tcp = spec.transport == "tcp" or spec.port.startswith(_SOCKET_URL)
    return {
        "name": spec.name,
        "transport": "tcp" if tcp else "serial" if spec.transport in _SERIAL else spec.transport,
        "port": spec.port.removeprefix(_SOCKET_URL),
        "baud": spec.baud,
        "bytesize": spec.bytesize,
        "parity": spec.parity,
        "stopbits": spec.stopbits,
        "reply_timeout_s": spec.reply_timeout_s,
        "gap_s": spec.gap_s,
        "drain_s": DRAIN_S,
        "local_echo": spec.local_echo,
        "writes": [],
    }


def _check_transport(link: Mapping[str, Any]) -> None:
    if link["transport"] not in ("serial", "tcp"):
        raise ValueError(
            f"link {link['name']} has transport {link['transport']!r}; "
            "the guardian speaks serial and TCP only"
        )


def compile_write(
    family: AdapterFamily, device: DeviceSpec, channel: str, value: float, binding: Binding
) -> dict[str, Any]:
    """Compile one write, judged in the channel's unit.

    Raises:
        ValueError: it can't be; the message says why.
    """
    if not isinstance(family, CompilesSafeWrites):
        why = f"the adapter {device.adapter!r} has no safe_write"
        raise ValueError(why)  # noqa: TRY004 - a lack of the driver's, not a wrong argument
    if binding.command_field is None:
        raise ValueError("it takes no command")
    to_device = binding.command_conversion.to_device
    safe = family.safe_write(device, FieldWrite(binding.command_field, to_device(value)))
    return {
        "channel": channel,
        "device": device.name,
        "value": value,
        "tolerance": binding.tolerance,
        "gap_s": safe.gap_s,
        "request": safe.request.hex(),
        "accepted": _shape(safe.accepted),
        "read_back": _read_back(safe, binding),
    }


def _read_back(safe: SafeWrite, binding: Binding) -> dict[str, Any] | None:
    """Fold the field's scale and the channel's conversion into one."""
    read: ReadBack | None = safe.read_back
    if read is None or not binding.reads_back:
        return None
    to_channel = binding.command_conversion
    return {
        "request": read.request.hex(),
        "reply": _shape(read.reply),
        "number": asdict(read.number),
        "gain": to_channel.gain * read.gain,
        "offset": to_channel.gain * read.offset + to_channel.offset,
    }


def _shape(shape: ReplyShape) -> dict[str, Any]:
    """Return a shape as JSON: bytes in hex."""
    plain = {
        key: value.hex() if isinstance(value, bytes) else value
        for key, value in asdict(shape).items()
    }
    return {"kind": _SHAPES[type(shape).__name__], **plain}
