"""Every simulated device of a profile, on its lines, around one plant; transports come on top."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from adapters.twin.faults import DEVICE_FAULTS, LINE_FAULTS, PORT_GONE
from adapters.twin.line import TwinLine
from adapters.twin.plant import Plant
from adapters.twin.wirelog import WireLog
from capa.devices.adapter import AdapterFamily
from capa.devices.spec import DeviceSpec, LinkSpec
from capa.devices.twin import TwinDevice, WearsOut
from capa.errors import CapaError

__all__ = ["TwinRig"]

_FAULTS = (
    f"faults of a line are: {', '.join(sorted(LINE_FAULTS | {PORT_GONE}))}; of most devices: "
    f"{', '.join(DEVICE_FAULTS)}; its family's NOTES.md has more"
)

_MOST = 1_000_000
"""Seconds, bytes or a number to report: more of any would end the twin, and means nothing."""
_MOST_OF = {"exception": 999, "sensor_break": 0xFFFF}
"""Codes that have three digits at the most (a twin whose code is a byte says so itself), or stand
in one register."""


class PortSwitch(Protocol):
    """Takes a port away and brings it back."""

    def switch(self, *, present: bool) -> None:
        """Make the port vanish, or return."""
        ...


class TwinRig:
    """Devices, lines and plant, and the faults of all three.

    Raises:
        CapaError: a setting of the plant that does not fit, or a family that is not installed.
        ValueError: options that do not fit a family.
    """

    def __init__(
        self,
        links: Iterable[LinkSpec],
        devices: Iterable[DeviceSpec],
        table: Mapping[str, Any],
        families: Mapping[str, AdapterFamily],
        *,
        log: WireLog,
        clock: Callable[[], float],
    ) -> None:
        self.plant = Plant(table, clock=clock)
        self.log = log
        self.ports: dict[str, PortSwitch] = {}
        self._link_of: dict[str, str] = {}
        twins: dict[str, list[TwinDevice]] = {}
        for spec in devices:
            self._link_of[spec.name] = spec.link
            twins.setdefault(spec.link, []).append(self._twin(spec, families))
        self.lines = {
            spec.name: TwinLine(
                spec, twins.get(spec.name, ()), log=log, settings=self.plant.settings
            )
            for spec in links
        }

    def _twin(self, spec: DeviceSpec, families: Mapping[str, AdapterFamily]) -> TwinDevice:
        try:
            family = families[spec.adapter]
        except KeyError:
            raise CapaError(
                f"device {spec.name}: no adapter {spec.adapter!r} is installed; "
                f"there are: {', '.join(sorted(families)) or 'none'}"
            ) from None
        return family.twin(spec, self.plant)

    def outputs(self) -> dict[str, float]:
        """Return what every device drives, as ``device.field``, in the field's unit."""
        return {
            f"{device.name}.{field}": value
            for line in self.lines.values()
            for device in line.devices
            for field, value in device.outputs().items()
        }

    def nv_writes(self) -> dict[str, int]:
        """Return how often each device that has one has written its non-volatile memory."""
        return {
            device.name: device.nv_writes
            for line in self.lines.values()
            for device in line.devices
            if isinstance(device, WearsOut)
        }

    def fault(
        self,
        kind: str,
        *,
        link: str | None = None,
        device: str | None = None,
        active: bool = True,
        value: float | None = None,
    ) -> None:
        """Begin or end a fault of a link (and all devices on it) or of one device.

        Raises:
            CapaError: no such link, device or fault, or a value that no fault takes.
        """
        line = self._line(kind, link, device)
        most = _MOST_OF.get(kind, _MOST)
        if value is not None and not 0 <= value <= most:
            raise CapaError(f"the value of {kind} is a number from 0 to {most}, not {value:g}")
        if kind == PORT_GONE:
            self.ports[line.name].switch(present=not active)
        elif kind in LINE_FAULTS:
            line.faults.switch(kind, device, active=active, value=value)
        else:
            self._device_fault(line, device, kind, active=active, value=value)
        self.log.fault(line.name, device, kind, active=active, value=value)
        line.log_outputs()

    def _line(self, kind: str, link: str | None, device: str | None) -> TwinLine:
        if device is not None and device not in self._link_of:
            raise CapaError(f"no device {device!r}; there are: {', '.join(self._link_of)}")
        if device is None and link is None:
            known = kind in {*LINE_FAULTS, PORT_GONE, *DEVICE_FAULTS}
            raise CapaError(
                f"{kind!r} of which link or device? Links: {', '.join(self.lines)}; "
                f"devices: {', '.join(self._link_of)}{'' if known else f'; {_FAULTS}'}"
            )
        name = link if device is None else self._link_of[device]
        if name not in self.lines or (link is not None and link != name):
            raise CapaError(
                f"no link {link or name!r}{f' with device {device!r} on it' if device else ''}; "
                f"there are: {', '.join(self.lines)}"
            )
        return self.lines[name]

    def _device_fault(
        self, line: TwinLine, device: str | None, kind: str, *, active: bool, value: float | None
    ) -> None:
        meant = [each for each in line.devices if device is None or each.name == device]
        taken = [each.fault(kind, active=active, value=value) for each in meant]  # by all of them
        if not any(taken):
            who = ", ".join(each.name for each in meant) or f"nobody on link {line.name}"
            raise CapaError(f"{who} has no fault {kind!r}; {_FAULTS}")
