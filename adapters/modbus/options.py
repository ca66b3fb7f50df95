"""What a profile may say of any Modbus device, and of its simulator."""

from typing import Self

from pydantic import Field, model_validator

from adapters.modbus.fields import RegisterField
from adapters.modbus.words import WordOrder
from capa.devices.spec import DeviceSpec
from capa.models import Frozen, Number, Whole

__all__ = ["ModbusOptions", "ModbusTwinOptions", "TwinField", "unit_of"]


class ModbusOptions(Frozen):
    """``[devices.options]``: the register map."""

    fields: dict[str, RegisterField] = Field(min_length=1)
    word_order: WordOrder = "high_low"
    """Of numbers in two registers; the usual order, and many devices can be set to the other."""
    bridge_registers: Whole = Field(default=0, ge=0, le=120)
    """How many unclaimed registers a request may read along, to make one of two requests."""
    max_read: Whole = Field(default=125, ge=2, le=125)
    gap_s: Number = Field(default=0.00401, ge=0)
    """Silence before a request: 3.5 characters of 11 bits at 9600 baud, the slowest usual one."""

    @model_validator(mode="after")
    def _one_writer_each(self) -> Self:
        commands = [field.command for field in self.fields.values() if field.command is not None]
        twice = sorted({one for one in commands if commands.count(one) > 1})
        if twice:
            raise ValueError(f"command {twice[0]!r} is given to two fields; a command writes one")
        return self


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


def unit_of(spec: DeviceSpec) -> int:
    """Return the Modbus address that a profile gives.

    Raises:
        ValueError: it is not a number from 1 to 247.
    """
    if not isinstance(spec.address, int) or not 1 <= spec.address <= 247:
        raise ValueError(
            f"address = {spec.address!r}: a Modbus device has an address from 1 to 247"
        )
    return spec.address
