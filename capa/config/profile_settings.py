"""Are ``[devices.expect]`` and ``[devices.enforce]`` about settings that a device can have."""

from collections.abc import Iterator, Mapping

from capa.config.draft import Draft
from capa.config.explain import did_you_mean, shown
from capa.config.locate import Path
from capa.config.problems import Problem
from capa.devices.preflight import DeclaresSettings, SettingInfo
from capa.devices.spec import DeviceSpec, SettingValue

__all__ = ["setting_problems"]


def setting_problems(draft: Draft) -> Iterator[Problem]:
    """Yield what is wrong with the settings that a profile expects or enforces."""
    for index, device in draft.devices.items():
        if not device.expect and not device.enforce:
            continue
        path: Path = ("devices", index)
        known = _known(draft, device)
        if known is None:
            yield from _no_settings(draft, path, device)
            continue
        for name, expected in device.expect.items():
            yield from _setting(draft, (*path, "expect", name), known, name, expected.value)
        for name, value in device.enforce.items():
            yield from _setting(draft, (*path, "enforce", name), known, name, value)
            yield from _enforced(draft, (*path, "enforce", name), known, device, name)


def _known(draft: Draft, device: DeviceSpec) -> Mapping[str, SettingInfo] | None:
    """Return the settings of a device; None where its family can't say."""
    family = draft.families.get(device.adapter)
    if family is None or device.name not in draft.fields:
        return None  # its family, or its options, are reported already
    if not isinstance(family, DeclaresSettings):
        return None
    try:
        return family.settings(device)
    except ValueError:
        return None  # reported with the options


def _no_settings(draft: Draft, path: Path, device: DeviceSpec) -> Iterator[Problem]:
    family = draft.families.get(device.adapter)
    if family is not None and not isinstance(family, DeclaresSettings):
        table = "expect" if device.expect else "enforce"
        message = f"the adapter family {shown(device.adapter)} can't check settings"
        hint = "leave the table out, and look at the instrument yourself"
        yield draft.problem("no_settings", (*path, table), message, hint)


def _setting(
    draft: Draft, path: Path, known: Mapping[str, SettingInfo], name: str, value: SettingValue
) -> Iterator[Problem]:
    info = known.get(name)
    if info is None:
        message = f"no setting is called {shown(name)}"
        yield draft.problem("unknown_setting", path, message, did_you_mean(name, known))
    elif misfit := info.misfit(value):
        hint = _choices(info, value)
        yield draft.problem("bad_setting", path, f"{shown(name)} {misfit}", hint)


def _choices(info: SettingInfo, value: SettingValue) -> str | None:
    if info.choices:
        return did_you_mean(str(value), info.choices, otherwise="one of")
    return f"in {info.unit}" if info.unit else None


def _enforced(
    draft: Draft,
    path: Path,
    known: Mapping[str, SettingInfo],
    device: DeviceSpec,
    name: str,
) -> Iterator[Problem]:
    """Check that a setting may be written at all, and is not also merely expected."""
    info = known.get(name)
    if info is not None and not info.writable:
        message = f"{shown(name)} is never written, only checked"
        hint = "move it to [devices.expect]" + (f"; it is set {info.remedy}" if info.remedy else "")
        yield draft.problem("not_enforceable", path, message, hint)
    if name in device.expect:
        message = f"{shown(name)} is in expect and in enforce"
        yield draft.problem("setting_twice", path, message, "enforce checks it too: keep that one")
