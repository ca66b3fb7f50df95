"""What a bundle says of the rig: what answered (``equipment.toml``), what each channel is."""

from typing import Any

import tomli_w

from capa.channels.registry import ResolvedChannel
from capa.devices.adapter import Identity
from capa.runtime.rig import Rig

__all__ = ["channel_info", "equipment_text", "identity_facts"]

_HOLD_BAND_SHARE = 0.01
"""Of the span of a channel's limits: how far a held value may lie off and be called held."""


def equipment_text(rig: Rig) -> str:
    """Return what answered when the run was armed, as TOML."""
    devices = {}
    for spec in rig.profile.devices:
        entry: dict[str, Any] = {"adapter": spec.adapter, "link": spec.link}
        if spec.address is not None:
            entry["address"] = spec.address
        entry["answered"] = rig.answers(spec.name)
        identity = rig.identities.get(spec.name)
        devices[spec.name] = entry | ({} if identity is None else identity_facts(identity))
    return tomli_w.dumps({"devices": devices})


def identity_facts(identity: Identity) -> dict[str, str]:
    """Return what a device said of itself; what it did not say is empty."""
    return {
        "model": identity.model,
        "serial": identity.serial,
        "firmware": identity.firmware,
    }


def channel_info(rig: Rig) -> dict[str, dict[str, Any]]:
    """Return what is to be known of each channel beside its unit; see docs/bundle-format.md."""
    measured_by = {watch.setpoint: watch.pv for watch in rig.profile.safety.thermal}
    found = {}
    for name in rig.registry.names:
        channel = rig.registry.resolve(name)
        info = {
            **_of_spec(channel),
            **_of_device(rig, channel),
            "period_s": _period_s(rig, name),
            "measured_by": measured_by.get(name),
        }
        found[name] = {key: value for key, value in info.items() if value not in (None, "", [])}
    return found


def _of_spec(channel: ResolvedChannel) -> dict[str, Any]:
    spec = channel.spec
    shown = spec.model_dump(
        mode="json",
        include={"kind", "description", "command", "calibration", "derived", "limits", "alarms"},
    )
    limits = spec.limits
    band = None if limits is None else (limits.max - limits.min) * _HOLD_BAND_SHARE
    return shown | {"stale_after_s": spec.stale_after_s, "hold_band": band}


def _of_device(rig: Rig, channel: ResolvedChannel) -> dict[str, Any]:
    binding = channel.binding
    if binding is None:
        return {}
    known = rig.devices[binding.device].fields.get(binding.field)
    return {
        "device": binding.device,
        "field": binding.field,
        "native_unit": None if known is None else known.unit,
    }


def _period_s(rig: Rig, name: str) -> float | None:
    """Return how often a channel is sampled: as often as its device, or as its source."""
    channel = rig.registry.resolve(name)
    if channel.spec.derived is not None:
        return _period_s(rig, channel.spec.derived.of)
    if channel.binding is None:
        return None
    polled = {spec.name: spec.poll_hz for spec in rig.profile.devices}
    binding = channel.binding
    rarer: dict[str, float] = getattr(rig.devices[binding.device], "periods_s", {})
    return rarer.get(binding.field, 1 / polled[binding.device])
