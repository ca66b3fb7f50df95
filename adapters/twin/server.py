"""``capa twin``: every device of a profile as a process of its own, on ports that look real."""

import copy
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tomli_w
import trio
from pydantic import TypeAdapter, ValidationError

from adapters.twin.control import CONTROL_NAME, ask, serve_control
from adapters.twin.ports import Port, PtyPort, TcpPort
from adapters.twin.rig import TwinRig
from adapters.twin.wirelog import WireLog, file_sink
from capa.devices.adapter import AdapterFamily
from capa.devices.registry import family_names, load_families
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.errors import CapaError

__all__ = ["TwinServer", "serve_profile"]

PROFILE_NAME: Final = "profile.toml"
WIRE_NAME: Final = "wire.jsonl"
SOCKET_URL: Final = "socket://"


def serve_profile(profile: Mapping[str, Any], directory: Path) -> None:
    """Serve every link of a profile, as read from TOML, until SIGTERM or SIGINT.

    In ``directory``: a port for each serial link (``<link>.tty``), ``profile.toml`` with the ports
    replaced, ``wire.jsonl`` and ``control.sock``. Prints a line for each link, then ``ready``.

    Raises:
        CapaError: the profile does not fit, or another twin serves the directory.
    """
    trio.run(TwinServer(profile, directory).run_until_signal)


class TwinServer:
    """The twins of one profile, in one directory.

    Args:
        profile: as read from TOML.
        directory: made if it is not there.
        families: those installed unless given.

    Raises:
        CapaError: the profile does not fit, or another twin serves the directory.
    """

    def __init__(
        self,
        profile: Mapping[str, Any],
        directory: Path,
        *,
        families: Mapping[str, AdapterFamily] | None = None,
    ) -> None:
        links = _specs(LinkSpec, profile.get("links"), "links")
        devices = _specs(DeviceSpec, profile.get("devices"), "devices")
        if families is None:
            families = _installed({device.adapter for device in devices})
        _take_possession(directory)
        self._profile = profile
        self._directory = directory
        self.rig = TwinRig(
            links,
            devices,
            profile.get("twin", {}),
            families,
            log=WireLog(file_sink(directory / WIRE_NAME), time.monotonic_ns),
            clock=time.monotonic,
        )
        self._ports = {spec.name: _port(spec, self.rig, directory) for spec in links}
        self.rig.ports.update(self._ports)

    async def run_until_signal(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.run)
                await anext(signals)
                nursery.cancel_scope.cancel()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, self.rig, self._directory)
                for port in self._ports.values():
                    await nursery.start(port.run)
                _write_profile(self._profile, self._ports, self._directory)
                for line in self.rig.lines.values():
                    line.log_outputs()
                _announce(self.rig, self._ports)
        finally:
            (self._directory / CONTROL_NAME).unlink(missing_ok=True)


def _specs(kind: type[Any], tables: object, where: str) -> list[Any]:
    try:
        return TypeAdapter(list[kind]).validate_python(tables)  # type: ignore[valid-type] # its a value here
    except ValidationError as error:
        raise CapaError(
            f"[[{where}]] do not fit; run capa validate on the profile\n{error}"
        ) from error


def _installed(wanted: set[str]) -> Mapping[str, AdapterFamily]:
    names = family_names()
    if missing := sorted(wanted - names):
        raise CapaError(
            f"no adapter {missing[0]!r} is installed; there are: {', '.join(sorted(names))}"
        )
    return load_families(wanted)


def _take_possession(directory: Path) -> None:
    """Make the directory ours: nobody else serves it, and no port of who did is left.

    The wire log of an earlier twin is kept and continued: it is evidence.

    Raises:
        CapaError: another twin answers there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        ask(directory, {"outputs": True})
    except CapaError:
        pass
    else:
        raise CapaError(f"another twin serves {directory}; end it first, or choose another --dir")
    for leftover in (CONTROL_NAME, PROFILE_NAME):
        (directory / leftover).unlink(missing_ok=True)


def _port(spec: LinkSpec, rig: TwinRig, directory: Path) -> Port:
    line = rig.lines[spec.name]
    if spec.transport == "tcp" or spec.port.startswith(SOCKET_URL):
        return TcpPort(line)
    return PtyPort(line, directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', spec.name)}.tty")


def _write_profile(profile: Mapping[str, Any], ports: Mapping[str, Port], directory: Path) -> None:
    """Write the profile a host uses to meet the twins; whole, or not at all."""
    written = copy.deepcopy(dict(profile))
    for link in written["links"]:
        port = ports[link["name"]]
        url = SOCKET_URL if str(link["port"]).startswith(SOCKET_URL) else ""
        link["port"] = url + port.address
        if isinstance(port, PtyPort) and link.get("transport") != "asyncio":
            link["transport"] = "serial"
    new = directory / f"{PROFILE_NAME}.new"
    new.write_text(tomli_w.dumps(written), encoding="utf-8")
    new.replace(directory / PROFILE_NAME)


def _announce(rig: TwinRig, ports: Mapping[str, Port]) -> None:
    for name, line in rig.lines.items():
        devices = ", ".join(device.name for device in line.devices) or "no devices"
        _say(f"link {name}: {ports[name].address} ({devices})")
    _say("ready")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
