"""Does a hardware profile hang together: names, bindings, units, derived channels."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping

from pydantic import ValidationError

from capa.channels.calibration import conversion_for
from capa.channels.derived import derivation
from capa.channels.spec import ChannelSpec, Difference
from capa.config.draft import Draft
from capa.config.explain import did_you_mean, explain, shown
from capa.config.hardware import HardwareProfile
from capa.config.neighbours import addresses, neighbour_problems, written
from capa.config.poll_plan import poll_plan_problems
from capa.config.problems import Problem
from capa.config.profile_monitor import monitor_problems
from capa.config.profile_safety import safety_problems
from capa.config.profile_settings import setting_problems
from capa.config.reading import Source
from capa.config.shapes import child
from capa.devices.adapter import AdapterFamily, FieldInfo
from capa.devices.registry import family_names, load_families, transport_names
from capa.devices.spec import DeviceSpec
from capa.units import UnitError

__all__ = ["examine_profile"]


def examine_profile(
    source: Source, families: Mapping[str, AdapterFamily] | None = None
) -> tuple[HardwareProfile | None, list[Problem]]:
    """Return the profile, if its shape is right, and everything that is wrong or odd with it."""
    profile, problems = None, []
    try:
        profile = HardwareProfile.model_validate(source.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = explain(details, source, HardwareProfile, area="profile")
    draft = Draft.of(source, _families(source, families))
    for check in (_names, _ports, _links, _devices, _bindings, _commands, _derived):
        problems.extend(check(draft))
    problems.extend(neighbour_problems(draft))
    problems.extend(poll_plan_problems(draft))
    problems.extend(setting_problems(draft))
    problems.extend(safety_problems(draft))
    problems.extend(monitor_problems(draft))
    return profile, problems


def _families(
    source: Source, families: Mapping[str, AdapterFamily] | None
) -> Mapping[str, AdapterFamily]:
    """Return the given families, or load those that the devices name."""
    if families is not None:
        return families
    devices = source.data.get("devices")
    named = [child(d, "adapter") for d in devices] if isinstance(devices, list) else []
    return load_families(only={name for name in named if isinstance(name, str)})


def _names(draft: Draft) -> Iterator[Problem]:
    for table in ("links", "devices", "channels"):
        yield from _twice(draft, table, list(draft.named(table)))
    alarms = [(i, n, a.id) for i, c in draft.channels.items() for n, a in enumerate(c.alarms)]
    counts = Counter(alarm_id for _, _, alarm_id in alarms)
    seen = set()
    for index, number, alarm_id in alarms:
        if counts[alarm_id] > 1 and alarm_id in seen:
            path = ("channels", index, "alarms", number, "id")
            message = f"alarm {shown(alarm_id)} exists already"
            yield draft.problem("duplicate_name", path, message, "give every alarm its own id")
        seen.add(alarm_id)


def _twice(draft: Draft, table: str, named: list[tuple[int, str]]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, name in named:
        if name in seen:
            message = f"the name {shown(name)} is taken by entry {seen[name] + 1} of {table}"
            path = (table, index, "name")
            yield draft.problem("duplicate_name", path, message, "give it a name of its own")
        seen.setdefault(name, index)


def _ports(draft: Draft) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for index, link in draft.links.items():
        if link.port in seen:
            message = f"the port {shown(link.port)} is also that of link {shown(seen[link.port])}"
            hint = "devices on one cable share one link"
            yield draft.problem("duplicate_port", ("links", index, "port"), message, hint)
        seen.setdefault(link.port, link.name)


def _links(draft: Draft) -> Iterator[Problem]:
    known = transport_names()
    for index, link in draft.links.items():
        if link.transport not in known:
            path = ("links", index, "transport")
            message = f"no transport is called {shown(link.transport)}"
            yield draft.problem(
                "unknown_transport", path, message, did_you_mean(link.transport, known)
            )


def _devices(draft: Draft) -> Iterator[Problem]:
    links = draft.names("links")
    seen: dict[Hashable, DeviceSpec] = {}
    for index, device in draft.devices.items():
        if device.link not in links:
            message = f"no link is called {shown(device.link)}"
            path = ("devices", index, "link")
            yield draft.problem("unknown_link", path, message, did_you_mean(device.link, links))
        own = addresses(device, draft.families.get(device.adapter))
        other = next((seen[address] for address in own if address in seen), None)
        if other is not None:
            message = f"has the same link and address as {shown(other.name)}"
            if device.address != other.address:
                message += f", where it is written as {written(other)}"
            path = ("devices", index, "address")
            yield draft.problem("duplicate_address", path, message, "one of the two is wrong")
        for address in own:
            seen.setdefault(address, device)
        yield from _family(draft, index, device)


def _family(draft: Draft, index: int, device: DeviceSpec) -> Iterator[Problem]:
    """Ask the device's family for its fields, and keep them for the checks that follow."""
    family = draft.families.get(device.adapter)
    if family is None:
        known = family_names() | set(draft.families)
        message = f"no adapter family is called {shown(device.adapter)}"
        hint = did_you_mean(device.adapter, known, otherwise="installed")
        if device.adapter in known:
            message = f"the adapter family {shown(device.adapter)} is installed but does not load"
            hint = "the log says why"
        yield draft.problem("unknown_adapter", ("devices", index, "adapter"), message, hint)
        return
    try:
        draft.fields[device.name] = family.fields(device)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = ("devices", index, "options", *detail["loc"])
            yield draft.problem("bad_option", path, _option_words(detail["type"], detail["msg"]))
    except ValueError as error:
        yield draft.problem("bad_option", ("devices", index), str(error))


def _option_words(kind: str, text: str) -> str:
    if kind == "extra_forbidden":
        return "unknown option"
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    return f"{text[:1].lower()}{text[1:]}"


def _bindings(draft: Draft) -> Iterator[Problem]:
    devices = draft.names("devices")
    for index, channel in draft.channels.items():
        path = ("channels", index)
        if channel.derived is not None:
            extra = [n for n in ("device", "field", "command") if getattr(channel, n) is not None]
            if extra:
                message = f"a derived channel has no {' or '.join(extra)} of its own"
                yield draft.problem("binding", (*path, extra[0]), message, "leave one of them out")
        elif channel.device is None or channel.field is None:
            lacking = "device" if channel.device is None else "field"
            message = f"has no {lacking}"
            hint = "bind it with device and field, or say how it is derived"
            yield draft.problem("binding", path, message, hint)
        elif channel.device not in devices:
            message = f"no device is called {shown(channel.device)}"
            hint = did_you_mean(channel.device, devices)
            yield draft.problem("unknown_device", (*path, "device"), message, hint)
        elif channel.device in draft.fields:
            yield from _field(draft, index, channel, draft.fields[channel.device])


def _field(
    draft: Draft, index: int, channel: ChannelSpec, fields: Mapping[str, FieldInfo]
) -> Iterator[Problem]:
    """Check what is read and what is commanded against what the device offers."""
    used = []
    read = fields.get(channel.field or "")
    if read is None:
        message = f"device {shown(channel.device)} has no field {shown(channel.field)}"
        hint = did_you_mean(channel.field or "", fields)
        yield draft.problem("unknown_field", ("channels", index, "field"), message, hint)
    else:
        used.append(read)
    if channel.command is not None:
        commands = {f.command: f for f in fields.values() if f.command is not None}
        written = commands.get(channel.command)
        if written is None:
            message = f"device {shown(channel.device)} has no command {shown(channel.command)}"
            hint = did_you_mean(channel.command, commands)
            yield draft.problem("unknown_command", ("channels", index, "command"), message, hint)
        elif written not in used:
            used.append(written)
    for info in used:
        yield from _unit(draft, index, channel, info)


def _unit(draft: Draft, index: int, channel: ChannelSpec, info: FieldInfo) -> Iterator[Problem]:
    try:
        conversion_for(channel, info.unit)
    except UnitError as error:
        message = f"{error}, the unit of the device's {info.name}"
        hint = f'write unit = "{info.unit}", or one it converts to'
        yield draft.problem("unit", ("channels", index, "unit"), message, hint)
    except ValueError as error:
        yield draft.problem("calibration", ("channels", index, "calibration", "gain"), str(error))


def _commands(draft: Draft) -> Iterator[Problem]:
    """Two channels that command the same output would have two opinions of what is safe."""
    seen: dict[tuple[str | None, str], str] = {}
    for index, channel in draft.channels.items():
        if channel.command is None:
            continue
        key = (channel.device, channel.command)
        if key in seen:
            message = f"commands the same output as channel {shown(seen[key])}"
            path = ("channels", index, "command")
            yield draft.problem("duplicate_command", path, message, "let one of them only read")
        seen.setdefault(key, channel.name)


def _derived(draft: Draft) -> Iterator[Problem]:
    known = draft.names("channels")
    for index, channel in draft.channels.items():
        rule = channel.derived
        if rule is None:
            continue
        path = ("channels", index, "derived")
        wanted = {"of": rule.of}
        if isinstance(rule, Difference):
            wanted["minus"] = rule.minus
        missing = {key: name for key, name in wanted.items() if name not in known}
        for key, name in missing.items():
            message = f"no channel is called {shown(name)}"
            yield draft.problem("unknown_channel", (*path, key), message, did_you_mean(name, known))
        if not missing:
            yield from _derivation(draft, index, channel)


def _derivation(draft: Draft, index: int, channel: ChannelSpec) -> Iterator[Problem]:
    if _leads_to_itself(draft, channel):
        message = "is derived from itself, by way of others"
        yield draft.problem("derived_loop", ("channels", index, "derived"), message)
        return
    units = {spec.name: spec.unit for spec in draft.channels.values()}
    try:
        derivation(channel, units)
    except UnitError as error:
        yield draft.problem("unit", ("channels", index, "unit"), str(error))
    except KeyError:
        pass  # what it is derived from is itself not valid, and reported


def _leads_to_itself(draft: Draft, channel: ChannelSpec) -> bool:
    seen: set[str] = set()
    front = [channel]
    while front:
        rule = front.pop().derived
        if rule is None:
            continue
        for name in (rule.of, *((rule.minus,) if isinstance(rule, Difference) else ())):
            if name == channel.name:
                return True
            source = draft.channel(name)
            if name not in seen and source is not None:
                seen.add(name)
                front.append(source)
    return False
