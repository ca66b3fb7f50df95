"""What a profile may say of a Watlow controller and of its simulator."""

from typing import Literal, Self

from pydantic import Field, model_validator

from adapters.modbus.codec import Framing
from adapters.modbus.words import WordOrder
from adapters.watlow.codec import MAP_1_PLACES, Places, Units
from adapters.watlow.extras import ExtraName
from capa.devices.spec import DeviceSpec
from capa.models import Frozen, Whole

__all__ = ["WatlowOptions", "WatlowTwinOptions", "unit_of"]

_UNITS = {"degF": Units.DEG_F, "degC": Units.DEG_C}


class RegisterPlaces(Frozen):
    """``[devices.options.registers]``; ``input_error`` stands two behind ``process_value``."""

    process_value: Whole = Field(ge=0, le=65532)
    heat_power: Whole = Field(ge=0, le=65530)
    setpoint: Whole = Field(ge=0, le=65534)
    control_mode: Whole = Field(ge=0, le=65528)


class WatlowOptions(Frozen):
    """``[devices.options]``. The defaults are the factory's, but for the protocol."""

    wire_unit: Literal["degF", "degC"] = "degF"
    """What temperatures are in on the wire; degF unless register 2490 was changed."""
    word_order: WordOrder = "low_high"
    map: Literal[1, "custom"] = 1
    """``custom``: the registers are those of ``registers``, and nothing but them is relied on."""
    registers: RegisterPlaces | None = None
    """Where the four things are that every poll and every write need, for ``map = "custom"``: Map 2
    of the PM, an ST, a zone behind a gateway (Map 1 and 5000 for each zone after the first)."""
    framing: Framing = "rtu"
    """``tcp`` for Modbus TCP, as the RUI gateway has it."""
    also_read: tuple[ExtraName, ...] = ()
    """Groups beside pv, power and setpoint: ``mode``, ``ramp``, ``comms``, ``loop``, ``alarm1`` to
    ``alarm4``. One of them is read, in turn, each time that power is."""
    port: Literal[1, 2] = 1
    """Which of the controller's communication ports this link is plugged into."""
    slow_hz: float = Field(default=2.0, gt=0, le=200)
    """How often power and setpoint are read, at least; the process value at every poll.
    Each is an exchange of its own. A setpoint that was written is read at the next poll."""
    gap_s: float = Field(default=0.00401, ge=0)
    """Silence before a request: 3.5 characters of 11 bits at 9600 baud, the slowest setting."""

    @property
    def unit(self) -> Units:
        """The wire's unit, as the codec names it."""
        return _UNITS[self.wire_unit]

    @property
    def places(self) -> Places:
        """The registers that the driver relies on."""
        own = self.registers
        if own is None:
            return MAP_1_PLACES
        return Places(own.process_value, own.heat_power, own.setpoint, own.control_mode)

    @property
    def silence_s(self) -> float:
        """The silence to keep before a request."""
        return self.gap_s if self.framing == "rtu" else 0.0

    @model_validator(mode="after")
    def _map_and_registers(self) -> Self:
        if (self.map == "custom") != (self.registers is not None):
            raise ValueError('map = "custom" and registers go together: give both or neither')
        if self.map == "custom" and self.also_read:
            raise ValueError("also_read needs map = 1: its registers are Map 1's")
        if len(set(self.also_read)) != len(self.also_read):
            raise ValueError("also_read names a group twice")
        return self


class WatlowTwinOptions(Frozen):
    """``[devices.twin]``: what the simulated controller is set to, and how it behaves.

    What is None is what the profile says of the real one, so that the two agree.
    """

    plant: str = "furnace"
    wire_unit: Literal["degF", "degC"] | None = None
    word_order: WordOrder | None = None
    enum_word: Literal["first", "second"] = "first"
    """Which of its two registers an enumeration stands in under ``high_low``; not known of a PM."""
    units_label_only: bool = False
    """Seen on one controller: register 2490 can be changed and the wire stays in degF."""
    out_of_range: Literal["clamp", "exception"] = "clamp"
    unmapped: Literal["exception", "zero"] = "exception"
    half_write: Literal["reject", "apply"] = "reject"
    max_read: int = Field(default=125, ge=1, le=125)
    reply_delay_s: float | tuple[float, float] = (0.005, 0.020)
    seed: int | None = None
    setpoint_degC: float = 24.0
    min_setpoint_degC: float = -1128.3
    max_setpoint_degC: float = 5537.0
    ramp_degC_per_min: float | None = Field(default=None, gt=0)
    proportional_band_degC: float = Field(default=13.9, gt=0)
    integral_s: float = Field(default=180.0, ge=0)
    derivative_s: float = Field(default=0.0, ge=0)
    registers: dict[int, float] = Field(default_factory=dict)
    """What else it is set to, by register: codes, or temperatures in degC."""
    speaks_modbus: bool = True
    """False for a part number without Modbus: it takes the setting and never answers."""

    def unit_for(self, options: WatlowOptions) -> Units:
        """Return the wire's unit of the simulated controller."""
        return options.unit if self.wire_unit is None else _UNITS[self.wire_unit]


def unit_of(spec: DeviceSpec) -> int:
    """Return the Modbus address that a profile gives.

    Raises:
        ValueError: it is not a number from 1 to 247.
    """
    address = 1 if spec.address is None else spec.address
    if not isinstance(address, int) or not 1 <= address <= 247:
        raise ValueError(
            f"address = {spec.address!r}: a Watlow controller has a Modbus address from 1 to 247"
        )
    return address
