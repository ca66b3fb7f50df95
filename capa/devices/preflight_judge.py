"""Holds what a device is set to against what its profile expects; pure, and the same for all."""

from collections.abc import Mapping
from dataclasses import dataclass

from capa.devices.preflight import SettingFound, SettingInfo, SettingReport, Severity, say
from capa.devices.spec import DeviceSpec, SettingValue

__all__ = ["Wanted", "differs", "judge", "wanted_of"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one setting has to be, and by whose word."""

    value: SettingValue
    enforce: bool = False
    otherwise: Severity = Severity.REFUSE
    by: str = "the profile"


def wanted_of(spec: DeviceSpec, known: Mapping[str, SettingInfo]) -> dict[str, Wanted]:
    """Return what a device's settings have to be; the profile's word beats the driver's."""
    wanted = {
        info.name: Wanted(info.assumed, info.kept, info.otherwise, by="its driver")
        for info in known.values()
        if info.assumed is not None
    }
    for name, expected in spec.expect.items():
        wanted[name] = Wanted(expected.value, otherwise=Severity(expected.otherwise))
    return wanted | {name: Wanted(value, enforce=True) for name, value in spec.enforce.items()}


def differs(info: SettingInfo, wanted: Wanted, found: SettingFound | None) -> bool:
    """Whether a setting is known to be another than is wanted."""
    return (
        found is not None and found.value is not None and not info.same(found.value, wanted.value)
    )


def judge(
    device: str,
    info: SettingInfo,
    wanted: Wanted | None,
    found: SettingFound,
    *,
    written: bool = False,
    trouble: str = "",
    pending: bool = False,
) -> SettingReport:
    """Judge one setting.

    Args:
        device: its name.
        info: the setting.
        wanted: what it has to be; None where nobody minds.
        found: what it is, after it was written if it was.
        written: whether it was.
        trouble: why enforcing it failed.
        pending: whether it is only looked at now, and will be enforced before a run.
    """
    expected = None if wanted is None else wanted.value
    severity, message, remedy = Severity.INFO, f"is {say(found.value, info.unit)}", ""
    if wanted is None:
        message += f" ({found.detail})" if found.detail else ""
    elif found.value is None:
        explicit = wanted.by == "the profile"
        severity = wanted.otherwise if explicit else Severity.INFO
        remedy = _remedy(info, wanted, unread=True)
        message = (
            f"{wanted.by} expects {say(expected, info.unit)}, and the device does not tell"
            + (f" ({found.detail})" if found.detail else "")
        )
    elif info.same(found.value, wanted.value):
        severity = Severity.OK
        message += ", set by enforce" if written else ", as expected"
    elif pending:
        message += f", and is set to {say(expected, info.unit)} before a run"
    else:
        severity, remedy = wanted.otherwise, _remedy(info, wanted)
        message = (
            f"{wanted.by} expects {say(expected, info.unit)}, "
            f"the device has {say(found.value, info.unit)}"
        )
    if trouble:
        message += f"; it could not be set: {trouble}"
    return SettingReport(
        device, info.name, severity, message, expected, found.value, info.unit, remedy, written
    )


def _remedy(info: SettingInfo, wanted: Wanted, *, unread: bool = False) -> str:
    """Say what a person can do; what differs can be mended on either side."""
    ways = []
    if info.remedy and not unread:
        ways.append(f"set it at the device ({info.remedy})")
    if wanted.by != "the profile":
        ways.append("or say in [devices.expect] what it shall be")
    elif unread:
        ways.append(f"take {info.name} out of the profile if this device has no such setting")
    elif wanted.enforce:
        ways.append("or change [devices.enforce]")
    elif info.writable:
        ways.append("change [devices.expect], or let [devices.enforce] set it")
    else:
        ways.append("or change the profile")
    return ", ".join(ways).removeprefix("or ")
