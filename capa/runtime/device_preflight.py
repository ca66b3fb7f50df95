"""Asks every instrument what it is set to, and says what that means for the run to come.

``check_devices`` asks a whole rig: arming does, and lets it enforce. ``look_at`` asks one device
that is open without a rig, as for ``capa devices check``. Each device has the same deadline.
"""

from collections.abc import Sequence
from functools import partial

import trio

from capa.channels.registry import ChannelRegistry, ResolvedChannel
from capa.config.hardware import HardwareProfile
from capa.config.method_use import ChannelUse, uses_of
from capa.config.problems import Problem
from capa.devices.adapter import DeviceAdapter
from capa.devices.preflight import HasSettings, OutputUse, SettingReport, Severity
from capa.devices.spec import DeviceSpec
from capa.errors import CapaError
from capa.experiment.method import Method
from capa.runtime.device_settings import DeviceKeeper, SettingWay
from capa.runtime.rig import Rig

__all__ = ["SETTINGS_BUDGET_S", "check_devices", "look_at", "output_uses", "setting_problems"]

SETTINGS_BUDGET_S = 5.0
"""What asking one device for its settings may take; a few exchanges take a tenth of it."""


async def check_devices(
    rig: Rig,
    *,
    method: Method | None = None,
    enforce: bool = False,
    include_silent: bool = True,
    budget_s: float = SETTINGS_BUDGET_S,
) -> list[SettingReport]:
    """Return a report for every setting that a device of the rig can be asked for, and more.

    Args:
        rig: an open rig; devices that have not answered yet are reported as silent.
        method: what is to be run; without it, only the profile's limits are known.
        enforce: mend what the profile enforces, by way of the rig's gate; else nothing is written.
        include_silent: whether devices that do not answer are reported, too.
        budget_s: what asking one device may take.
    """
    reports: dict[str, list[SettingReport]] = {spec.name: [] for spec in rig.profile.devices}
    way = rig.settings.way if enforce else None
    async with trio.open_nursery() as nursery:
        for spec in rig.profile.devices:
            keeper = rig.settings.keepers.get(spec.name)
            if not rig.answers(spec.name):
                if include_silent:
                    reports[spec.name].append(_silent(spec, rig.health(spec.name).detail))
            elif keeper is not None:
                uses = output_uses(rig.profile, rig.registry, rig.devices[spec.name], method)
                ask = partial(_ask, spec, keeper, uses, way, budget_s, reports[spec.name])
                nursery.start_soon(ask)
    return [report for of_device in reports.values() for report in of_device]


async def look_at(
    spec: DeviceSpec,
    adapter: DeviceAdapter,
    uses: Sequence[OutputUse],
    *,
    budget_s: float = SETTINGS_BUDGET_S,
) -> list[SettingReport]:
    """Return the reports of one device that is open without a rig; nothing is written."""
    reports: list[SettingReport] = []
    if isinstance(adapter, HasSettings):
        keeper = DeviceKeeper(spec, adapter.settings, commanded={use.field for use in uses})
        await _ask(spec, keeper, uses, None, budget_s, reports)
    return reports


async def _ask(
    spec: DeviceSpec,
    keeper: DeviceKeeper,
    uses: Sequence[OutputUse],
    way: SettingWay | None,
    budget_s: float,
    reports: list[SettingReport],
) -> None:
    """Ask one device; whatever goes wrong is a report, not an exception."""
    with trio.move_on_after(budget_s):
        try:
            reports += await keeper.look(uses, way)
        except CapaError as error:
            reports.append(_silent(spec, str(error)))
        except Exception as error:  # noqa: BLE001 - a driver's bug refuses the run, not the daemon
            reports.append(_silent(spec, f"its driver raised {type(error).__name__}: {error}"))
        return
    reports.append(_silent(spec, f"no answer within {budget_s:g} s"))


def _silent(spec: DeviceSpec, detail: str) -> SettingReport:
    return SettingReport(
        spec.name,
        "",
        Severity.REFUSE if spec.required else Severity.WARN,
        f"its settings could not be read: {detail}",
        remedy="check power, cable and address",
    )


def setting_problems(reports: Sequence[SettingReport]) -> list[Problem]:
    """Return what stands against arming, or is odd, among reports."""
    return [
        Problem(
            code="device.setting" if report.setting else "rig.device_silent",
            message=report.message,
            blocking=report.severity is Severity.REFUSE,
            where=f"device {report.device}"
            + (f", setting {report.setting}" if report.setting else ""),
            hint=report.remedy or None,
        )
        for report in reports
        if report.severity in (Severity.WARN, Severity.REFUSE)
    ]


def output_uses(
    profile: HardwareProfile,
    registry: ChannelRegistry,
    device: DeviceAdapter,
    method: Method | None = None,
) -> list[OutputUse]:
    """Return what a rig, and a method, will do with the outputs of a device."""
    first = dict(profile.safe_state[0].set) if profile.safe_state else {}
    asked = {} if method is None else uses_of(method, first)
    return [
        use
        for channel in registry.by_device(device.name)
        if (use := _use(profile, channel, device, asked.get(channel.name))) is not None
    ]


def _use(
    profile: HardwareProfile,
    channel: ResolvedChannel,
    device: DeviceAdapter,
    asked: ChannelUse | None,
) -> OutputUse | None:
    name, binding, limits = channel.name, channel.binding, channel.spec.limits
    if binding is None or binding.command_field is None:
        return None
    told = binding.command_conversion
    bounds = None if limits is None else [told.to_device(x) for x in (limits.min, limits.max)]
    return OutputUse(
        channel=name,
        field=binding.command_field,
        unit=device.fields[binding.command_field].unit,
        limits=None if bounds is None else (min(bounds), max(bounds)),
        safe=tuple(
            told.to_device(stage.set[name]) for stage in profile.safe_state if name in stage.set
        ),
        asked=None if asked is None else asked.asked(told),
        sweeps=() if asked is None else asked.swept(told),
    )
