"""What a hardware profile may say of a pump, and of its simulator."""

from pydantic import Field

from capa.devices.spec import DeviceSpec
from capa.models import Frozen, Number

__all__ = ["PumpOptions", "PumpTwinOptions", "number_of"]


class PumpOptions(Frozen):
    """``[devices.options]``."""

    max_mL_per_min: Number = Field(default=50.0, gt=0)
    """The fastest that this pump head can be driven; a rate beyond is refused before it is sent."""


class PumpTwinOptions(Frozen):
    """``[devices.twin]``."""

    reply_delay_s: float | tuple[float, float] = 0.005


def number_of(spec: DeviceSpec) -> int:
    """Return the pump's number on its line.

    Raises:
        ValueError: it is not one from 1 to 99.
    """
    if not isinstance(spec.address, int) or not 1 <= spec.address <= 99:
        raise ValueError(f"address = {spec.address!r}: a pump has a number from 1 to 99")
    return spec.address
