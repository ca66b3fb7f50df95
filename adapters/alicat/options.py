"""What a profile may say of an Alicat device and of its simulator."""

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from adapters.alicat.codec import EOL, Column
from adapters.alicat.firmware import FirmwareName
from capa.devices.spec import DeviceSpec
from capa.models import Flag, Frozen, Number, Whole

__all__ = ["PSIA_PER", "AlicatOptions", "AlicatTwinOptions", "unit_of"]

PressureUnit = Literal["psia", "psi", "kPa", "bar", "torr", "Pa"]

PSIA_PER: Final[Mapping[str, float]] = {
    "psia": 1.0,
    "psi": 1.0,
    "kPa": 0.1450377,
    "bar": 14.50377,
    "torr": 0.01933678,
    "Pa": 0.0001450377,
}


class AlicatOptions(Frozen):
    """``[devices.options]``. The defaults are a 10v20 mass-flow controller's.

    What several firmwares disagree about is not offered until the profile says which command this
    device has: on one of them ``AT`` tares, on another it clears the totalizer.
    """

    columns: tuple[Column, ...] = ("pressure", "temperature", "volumetric", "flow", "setpoint")
    """The data frame's numbers in order: a totalizer adds ``total``, a meter lacks ``setpoint``."""
    check_columns: Flag = False
    """Whether ``open`` has the device declare its columns (``??D*``) and compares them."""
    identify: Flag = False
    """Whether ``open`` asks for model, serial number and software (``??M*``), ten lines."""
    setpoint_command: Literal["S", "LS"] = "S"
    """``LS`` for firmware from 9v00 on; before 8v it locks the display."""
    setpoint_decimals: int = Field(default=2, ge=0, le=4)
    """Decimals of the setpoint that are sent, and that the read-back can show."""
    pressure_unit: PressureUnit = "psia"
    flow_unit: Literal["sccm", "slpm"] = "sccm"
    """The unit that the device shows flow and setpoint in."""
    total_unit: str = "scc"
    """The unit that the device shows its total in."""
    full_scale: float = Field(default=500.0, gt=0)
    """In ``flow_unit``; a setpoint beyond it is refused before it is sent."""
    gas: str | None = None
    """The gas that the device must be set to, as its frame writes it; ``open`` checks it."""
    mixtures: dict[str, Whole] = Field(default_factory=dict)
    """Labels of gases that our table does not know, with their numbers."""
    gas_command: Literal["G", "GS"] | None = None
    """``G`` up to 10v04, ``GS`` from 10v05 on. Without it no gas can be selected."""
    tare_command: Literal["V", "T"] | None = None
    """``V`` by the manuals, ``T`` by the Serial Primer. Without it nothing can be tared."""
    reset_total_command: Literal["T", "T 1"] | None = None
    """``T`` by alicat.com, ``T 1`` by the Serial Primer (8v00 on)."""
    write_prefix: Literal["", "$$"] = ""
    """``$$`` for GP firmware, which takes no other writes."""
    begin_with_cr: Flag = False
    """Whether every request begins with a CR, for a line that Modbus devices share: their frames
    have no end that this device knows, and it would take them for the beginning of its own line."""
    stop_stream: Literal["@@ ", "@@="] | None = None
    """What ends a stream that somebody left on, in front of the unit letter: ``@@ `` on newer
    firmware, ``@@=`` on older. It makes whichever unit streams this one, so it is refused to a
    device that is not alone on its line."""
    second_look: Flag = True
    """Whether what has jumped is asked for again: lines have no check sum."""
    second_look_pct: Number = Field(default=1.0, gt=0, le=100)
    """How far a flow may move between polls unquestioned, in percent of full scale."""

    @field_validator("columns")
    @classmethod
    def _has_flow(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        if "flow" not in columns or len(set(columns)) != len(columns):
            raise ValueError("columns must be different from each other and contain flow")
        return columns

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if self.reset_total_command is not None and "total" not in self.columns:
            raise ValueError('reset_total_command: the columns have no "total" to reset')
        if self.reset_total_command == self.tare_command == "T":
            raise ValueError('"T" either tares or resets the total, by firmware; it can\'t do both')
        return self

    @property
    def lead(self) -> bytes:
        """What goes before each request."""
        return EOL if self.begin_with_cr else b""

    @property
    def steps(self) -> tuple[float, ...]:
        """How far each column may move between two polls unquestioned."""
        return tuple(self._step(column) for column in self.columns)

    def _step(self, column: Column) -> float:
        match column:
            case "pressure":
                return 0.5 / PSIA_PER[self.pressure_unit]
            case "temperature":
                return 1.0
            case "setpoint":
                return 0.5 * 10.0**-self.setpoint_decimals
            case "valve":
                return 5.0
            case "flow" | "volumetric" | "total":
                return self.full_scale * self.second_look_pct / 100.0


class AlicatTwinOptions(Frozen):
    """``[devices.twin]``: what the simulated controller is, and how it behaves."""

    plant: str = "gas"
    setpoint_source: Literal["serial", "unsaved", "analog"] = "serial"
    """With ``analog``, setpoints that come by wire are ignored without a word; with ``serial``
    each of them is saved, as far as anybody knows: also one that changes nothing."""
    full_scale: float | None = Field(default=None, gt=0)
    flow_unit: Literal["sccm", "slpm"] | None = None
    """What the simulated device has; what is None is what the profile says of the real one."""
    analog_setpoint: float = 0.0
    firmware: FirmwareName = "10v20"
    at_means: Literal["tare", "total"] = "total"
    """What a bare ``T`` does; the sources disagree."""
    out_of_range: Literal["clamp", "reject"] = "clamp"
    unsupported: Literal["?", "empty", "silence", "frame", "placeholder", "text"] = "?"
    """How it takes what its firmware does not know; ``empty`` is an empty line, then ``?``."""
    max_pressure_psia: float = Field(default=160.0, gt=0)
    """Beyond it the frame says POV; 160 stands in the captured table of a 5v12."""
    max_temperature_degC: float = 50.0
    """Beyond it the frame says TOV; 50 stands there, too."""
    max_total: float = Field(default=9_999_999.0, gt=0)
    """Beyond it the frame says OVR."""
    gas: str = "N2"
    zero_offset_pct: float = 0.0
    """What the flow shows at rest until it is tared, in percent of full scale."""
    stream_s: float | None = Field(default=None, gt=0)
    """How often it sends frames by itself, until that is stopped; 0.05 from the factory."""
    acknowledges_letter: bool = False
    """Whether it answers with a data frame to the unit letter that ends its stream."""
    auto_tare: bool = True
    """Whether a controller takes the flow for zero, 2 s after its setpoint became 0."""
    noise_pct: float = Field(default=0.0, ge=0)
    """Standard deviation of the flows that are shown, in percent of full scale."""
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
