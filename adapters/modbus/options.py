"""What a profile may say of any Modbus device, and of its simulator."""

from typing import Any, Self

from pydantic import Field, model_validator

from adapters.modbus.codec import Framing
from adapters.modbus.fields import RegisterField
from adapters.modbus.flags import Flagged, Rules, speakers
from adapters.modbus.mapfile import load_map
from adapters.modbus.words import WordOrder
from capa.devices.spec import DeviceSpec
from capa.models import Frozen, Number, Whole

__all__ = ["RTU_GAP_S", "ModbusOptions", "ModbusTwinOptions", "TwinField", "unit_of"]

RTU_GAP_S = 0.00401
"""Silence before a request: 3.5 characters of 11 bits at 9600 baud, the slowest usual speed."""

_OF_THE_MAP = ("word_order", "bridge_registers", "max_read", "gap_s")


class ModbusOptions(Frozen):
    """``[devices.options]``: the register map, by name, by path, in place, or all together."""

    map: str | None = None
    """One of the maps that ship with us, or the path of a ``.toml`` file."""
    only: tuple[str, ...] | None = None
    """Which of the map's fields to use; a poll reads no others."""
    fields: dict[str, RegisterField] = Field(min_length=1)
    """Fields of the profile's own; of one that the map has, too, only the keys that differ."""
    framing: Framing = "rtu"
    """``tcp`` for Modbus TCP (MBAP); ``rtu`` also over a TCP link that passes bytes on."""
    word_order: WordOrder = "high_low"
    """Of numbers in two registers; the usual order, and many devices can be set to the other."""
    bridge_registers: Whole = Field(default=0, ge=0, le=120)
    """How many unclaimed registers a request may read along, to make one of two requests."""
    max_read: Whole = Field(default=125, ge=2, le=125)
    gap_s: Number | None = Field(default=None, ge=0)
    """Silence before a request; None takes 3.5 characters at 9600 baud, and none for TCP."""

    @model_validator(mode="before")
    @classmethod
    def _on_top_of_the_map(cls, data: Any) -> Any:  # noqa: ANN401 - whatever the file has
        if not isinstance(data, dict) or not isinstance(data.get("map"), str):
            return data
        found = load_map(data["map"])
        own = data.get("fields", {})
        fields = _merged(found.fields, own) if isinstance(own, dict) else own
        settings = {name: getattr(found, name) for name in _OF_THE_MAP}
        return {**settings, **data, "fields": fields}

    @model_validator(mode="after")
    def _one_writer_each(self) -> Self:
        commands = [field.command for field in self.used.values() if field.command is not None]
        twice = sorted({one for one in commands if commands.count(one) > 1})
        if twice:
            raise ValueError(f"command {twice[0]!r} is given to two fields; a command writes one")
        strangers = [name for name in self.only or () if name not in self.fields]
        if strangers or self.only == ():
            what = f"{strangers[0]!r} is not in the map" if strangers else "leaves nothing"
            raise ValueError(f"only: {what}; there are: {', '.join(self.fields)}")
        return self

    @model_validator(mode="after")
    def _flags_are_there(self) -> Self:
        for name, field in self.used.items():
            for flag in field.status_from:
                other = self.fields.get(flag.field)
                if why := _unheard(flag, other):
                    raise ValueError(f"fields.{name}.status_from: {flag.field!r} {why}")
            if name in speakers(self._rules, [name]):
                raise ValueError(f"fields.{name}.status_from leads back to {name!r} itself")
        return self

    @property
    def used(self) -> dict[str, RegisterField]:
        """The fields that are read and written: those of ``only``, and whose word they need."""
        if self.only is None:
            return self.fields
        wanted = [name for name in self.only if name in self.fields]
        needed = speakers(self._rules, wanted)
        return {name: self.fields[name] for name in (*wanted, *needed)}

    @property
    def _rules(self) -> Rules:
        return {name: field.status_from for name, field in self.fields.items()}

    @property
    def silence_s(self) -> float:
        """The silence to keep before a request."""
        if self.gap_s is not None:
            return self.gap_s
        return RTU_GAP_S if self.framing == "rtu" else 0.0


def _unheard(flag: Flagged, other: RegisterField | None) -> str:
    """Say why a row of ``status_from`` could never hold; empty if it could."""
    if other is None:
        return "is not in the map"
    if not other.is_whole:
        return "is no whole number"
    low, high = other.raw_range
    if flag.equals is not None and not low <= flag.equals <= high:
        return f"never equals {flag.equals}: {other.type} reads {low} to {high}"
    bits = 1 if other.type == "bit" else 16 * other.width
    if flag.mask is not None and flag.mask >= 2**bits:
        return f"has {bits} bit{'s' * (bits > 1)}: mask = {flag.mask:#x} has more"
    return ""


def _merged(of_map: dict[str, RegisterField], own: dict[str, Any]) -> dict[str, Any]:
    """Return the map's fields with the profile's on top, key by key."""
    merged: dict[str, Any] = {**of_map}
    for name, table in own.items():
        if name in of_map and isinstance(table, dict):
            merged[name] = of_map[name].model_dump(by_alias=True, exclude_unset=True) | table
        else:
            merged[name] = table
    return merged


class TwinField(Frozen):
    """``[devices.twin.fields.<name>]``: what the simulated device says in a field."""

    quantity: str | None = None
    """A quantity of the plant, such as ``furnace.heat_flux_kW_m2``; written, it drives it."""
    value: Number = 0.0
    """What it holds at the start, without a quantity; then what was written."""
    noise: Number = Field(default=0.0, ge=0)
    """Standard deviation of what is read about the truth, in the field's unit."""


class ModbusTwinOptions(Frozen):
    """``[devices.twin]``."""

    fields: dict[str, TwinField] = Field(default_factory=dict)
    reply_delay_s: float | tuple[float, float] = (0.002, 0.010)
    seed: int | None = None


def unit_of(spec: DeviceSpec, framing: Framing = "rtu") -> int:
    """Return the Modbus address that a profile gives.

    Raises:
        ValueError: it is not a number from 1 to 247 (0 to 255 for Modbus TCP).
    """
    low, high = (1, 247) if framing == "rtu" else (0, 255)
    if not isinstance(spec.address, int) or not low <= spec.address <= high:
        raise ValueError(
            f"address = {spec.address!r}: a Modbus device has an address from {low} to {high}"
        )
    return spec.address
