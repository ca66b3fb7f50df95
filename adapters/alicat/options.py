"""What a profile may say of an Alicat controller and of its simulator."""

from typing import Literal

from pydantic import Field, field_validator

from adapters.alicat.codec import Column
from capa.devices.spec import DeviceSpec
from capa.models import Frozen

__all__ = ["AlicatOptions", "AlicatTwinOptions", "unit_of"]

PressureUnit = Literal["psia", "psi", "kPa", "bar", "torr", "Pa"]


class AlicatOptions(Frozen):
    """``[devices.options]``. The defaults are a 10v20 mass-flow controller's."""

    columns: tuple[Column, ...] = ("pressure", "temperature", "volumetric", "flow", "setpoint")
    """The data frame's numbers in order: a totalizer adds ``total``, a meter lacks ``setpoint``."""
    setpoint_command: Literal["S", "LS"] = "S"
    """``LS`` for firmware from 9v00 on; before 8v it locks the display."""
    setpoint_decimals: int = Field(default=2, ge=0, le=4)
    """Decimals of the setpoint that are sent, and that the read-back can show."""
    pressure_unit: PressureUnit = "psia"
    flow_unit: Literal["sccm", "slpm"] = "sccm"
    """The unit that the device shows flow and setpoint in."""
    full_scale: float = Field(default=500.0, gt=0)
    """In ``flow_unit``; a setpoint beyond it is refused before it is sent."""
    gas: str | None = None
    """The gas that the device must be set to, as its frame writes it; ``open`` checks it."""

    @field_validator("columns")
    @classmethod
    def _has_flow(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        if "flow" not in columns or len(set(columns)) != len(columns):
            raise ValueError("columns must be different from each other and contain flow")
        return columns


class AlicatTwinOptions(Frozen):
    """``[devices.twin]``: what the simulated controller is, and how it behaves."""

    plant: str = "gas"
    setpoint_source: Literal["serial", "analog"] = "serial"
    """With ``analog``, setpoints that come by wire are ignored without a word."""
    analog_setpoint: float = 0.0
    firmware: Literal["5v12", "7v09", "8v17", "10v20"] = "10v20"
    out_of_range: Literal["clamp", "reject"] = "clamp"
    unsupported: Literal["?", "silence", "frame", "placeholder", "text"] = "?"
    gas: str = "N2"
    reply_delay_s: float | tuple[float, float] = 0.0007
    seed: int | None = None


def unit_of(spec: DeviceSpec) -> str:
    """Return the unit letter that a profile gives.

    Raises:
        ValueError: it is not one letter from A to Z.
    """
    address = "A" if spec.address is None else spec.address
    if not isinstance(address, str) or len(address) != 1 or not "A" <= address.upper() <= "Z":
        raise ValueError(
            f"address = {spec.address!r}: an Alicat device has a unit letter from A to Z"
        )
    return address.upper()
