"""What the rig's instruments are set to: looked at before a run, and kept where enforced.

Nothing here writes by itself: a change goes by way of the gate (``setting_gate``), which has it
on record first. Without a gate, as for a mere look from the command line, nothing is written.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from capa.devices.adapter import DeviceAdapter
from capa.devices.link import Priority
from capa.devices.preflight import (
    DeviceSettings,
    HasSettings,
    OutputUse,
    SettingFound,
    SettingInfo,
    SettingReport,
    Severity,
)
from capa.devices.preflight_judge import Wanted, differs, judge, wanted_of
from capa.devices.spec import DeviceSpec, SettingValue
from capa.errors import DeviceError

__all__ = ["DeviceKeeper", "RigSettings", "SettingChange", "SettingWay"]


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that is about to be written, and why."""

    device: str
    info: SettingInfo
    before: SettingValue | None
    value: SettingValue
    by: str


class SettingWay(Protocol):
    """The way out for a change of a setting; see ``capa.runtime.setting_gate``."""

    async def change(
        self, change: SettingChange, send: Callable[[], Awaitable[SettingFound]]
    ) -> SettingFound:
        """Have a change on record, make it, and record what came of it.

        Raises:
            DeviceError: it may not be made, or the device refused.
            LinkError, FrameError: the device could not be told.
        """
        ...


class DeviceKeeper:
    """Looks at the settings of one device, and enforces what the profile or its driver wants.

    What a driver keeps by itself (no wear of a memory) concerns only a device that is commanded,
    and only what no channel commands. ``commanded`` are the fields that channels do.
    """

    def __init__(
        self, spec: DeviceSpec, settings: DeviceSettings, *, commanded: Collection[str]
    ) -> None:
        self._device = spec.name
        self._settings = settings
        wanted = wanted_of(spec, settings.known)
        by_field = {info.field: name for name, info in settings.known.items() if info.field}
        taken = {by_field[one] for one in commanded if one in by_field}
        self._wanted = {
            name: one
            for name, one in wanted.items()
            if not _only_kept(spec, name, one) or (commanded and name not in taken)
        }
        self._lock = trio.Lock()

    @property
    def enforces(self) -> bool:
        """Whether there is anything to be kept."""
        return any(one.enforce for one in self._wanted.values())

    async def look(self, uses: Sequence[OutputUse], way: SettingWay | None) -> list[SettingReport]:
        """Read every setting and judge it; with a ``way``, first mend what is enforced.

        Raises:
            LinkError, FrameError: the device could not be asked.
        """
        async with self._lock:
            known = self._settings.known
            names = [name for name, i in known.items() if i.reported or name in self._wanted]
            asked = await self._settings.read(names, priority=Priority.POLL) if names else {}
            found = dict(asked)
            reports = await self._hold(found, way)
            others = (name for name in names if name not in self._wanted)
            unheard = SettingFound(None, "not read")
            for name in others:
                reports.append(judge(self._device, known[name], None, found.get(name, unheard)))
            to_come = self._promised(found) if way is None else {}
            return [*reports, *self._settings.hazards({**found, **to_come}, uses)]

    def _promised(self, found: Mapping[str, SettingFound]) -> dict[str, SettingFound]:
        """Return what is not yet as it will be enforced, as if it were: no hazard of the run."""
        known = self._settings.known
        return {
            name: SettingFound(one.value)
            for name, one in self._wanted.items()
            if one.enforce and name in known and differs(known[name], one, found.get(name))
        }

    async def keep(self, way: SettingWay) -> list[SettingReport]:
        """Mend what is enforced and differs; return what was mended, or could not be.

        Raises:
            LinkError, FrameError: the device could not be asked.
        """
        async with self._lock:
            names = [name for name, one in self._wanted.items() if one.enforce]
            found = dict(await self._settings.read(names, priority=Priority.POLL))
            reports = await self._hold(found, way, only=names)
        return [one for one in reports if one.written or one.severity is not Severity.OK]

    async def _hold(
        self,
        found: dict[str, SettingFound],
        way: SettingWay | None,
        only: Sequence[str] | None = None,
    ) -> list[SettingReport]:
        """Judge what is wanted, in the order of the driver's settings; mend it where it may be."""
        known = self._settings.known
        names = [name for name in (*known, *self._wanted) if only is None or name in only]
        reports = []
        for name in dict.fromkeys(names):
            wanted = self._wanted.get(name)
            if wanted is None:
                continue
            if name not in known:
                reports.append(_unknown(self._device, name, wanted))
                continue
            reports.append(await self._held(known[name], wanted, found, way))
        return reports

    async def _held(
        self,
        info: SettingInfo,
        wanted: Wanted,
        found: dict[str, SettingFound],
        way: SettingWay | None,
    ) -> SettingReport:
        before = found.get(info.name, SettingFound(None, "not read"))
        written, trouble = False, ""
        if wanted.enforce and differs(info, wanted, before) and way is not None:
            try:
                before = found[info.name] = await self._change(info, wanted, before, way)
                written = True
            except DeviceError as error:
                trouble = str(error)
        return judge(
            self._device,
            info,
            wanted,
            before,
            written=written,
            trouble=trouble,
            pending=wanted.enforce and way is None,
        )

    async def _change(
        self, info: SettingInfo, wanted: Wanted, before: SettingFound, way: SettingWay
    ) -> SettingFound:
        change = SettingChange(self._device, info, before.value, wanted.value, wanted.by)

        async def send() -> SettingFound:
            return await self._settings.write(info.name, wanted.value, priority=Priority.COMMAND)

        return await way.change(change, send)


def _only_kept(spec: DeviceSpec, name: str, wanted: Wanted) -> bool:
    """Whether nobody but the driver wants this, and only for the sake of what it writes."""
    return wanted.enforce and name not in spec.expect and name not in spec.enforce


def _unknown(device: str, name: str, wanted: Wanted) -> SettingReport:
    """Report a name that no check of the profile has stopped."""
    message = f"the profile expects {wanted.value}, and this device has no such setting"
    return SettingReport(device, name, Severity.REFUSE, message, wanted.value)


class RigSettings:
    """The keepers of a rig's devices; ``way`` is given by the gate, once there is one."""

    def __init__(
        self,
        specs: Sequence[DeviceSpec],
        devices: Mapping[str, DeviceAdapter],
        commanded: Mapping[str, Collection[str]],
    ) -> None:
        self.way: SettingWay | None = None
        self.keepers: dict[str, DeviceKeeper] = {}
        for spec in specs:
            device = devices[spec.name]
            if isinstance(device, HasSettings):
                keeper = DeviceKeeper(spec, device.settings, commanded=commanded.get(spec.name, ()))
                self.keepers[spec.name] = keeper

    async def keep(self, device: str) -> list[SettingReport] | None:
        """Mend what is enforced of a device that was just opened; None where nobody may yet.

        Raises:
            LinkError, FrameError: the device could not be asked.
        """
        keeper, way = self.keepers.get(device), self.way
        if keeper is None or not keeper.enforces:
            return []
        return None if way is None else await keeper.keep(way)
