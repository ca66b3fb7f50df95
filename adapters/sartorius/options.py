"""What a profile may say of a Sartorius balance and of its simulator."""

from typing import Literal

from pydantic import Field

from capa.models import Flag, Frozen

__all__ = ["GRAMS_PER", "SartoriusOptions", "SartoriusTwinOptions"]

MassUnit = Literal["mg", "g", "kg"]

GRAMS_PER: dict[str, float] = {"mg": 1e-3, "g": 1.0, "kg": 1e3}


class SartoriusOptions(Frozen):
    """``[devices.options]``."""

    unit: MassUnit | None = None
    """The unit the balance is set to. Used until a stable line has shown one; then it must agree.
    Without it, an unstable weight before the first stable one has no value."""
    end_with_cr_lf: bool = False
    """Send CR LF behind each command; no known balance needs it."""
    identify: Flag = False
    """Whether ``open`` asks for model, serial number and software (``ESC x1_``...): balances that
    don't know that are silent, which costs ``open`` a deadline for each."""
    tare_command: Literal["T", "U", "f4_"] = "T"
    """``T`` is taken by all models seen; ``f4_`` is the tare key of newer ones."""
    zero_command: Literal["V", "f3_"] | None = None
    """Which one sets zero depends on the model, so without it nothing does."""
    key_wait_s: float = Field(default=4.0, gt=0, le=60)
    """How long a tare or a zero may take until the display is back at nothing."""
    second_look: Flag = True
    """Whether a weight that has jumped is asked for again: lines have no check sum."""
    second_look_digits: float = Field(default=9.0, gt=0)
    """How many steps of its last place a weight may move between polls unquestioned."""


class SartoriusTwinOptions(Frozen):
    """``[devices.twin]``: what the simulated balance is, and how it behaves."""

    plant: str = "sample"
    line: Literal[16, 22] = 22
    unit: MassUnit = "g"
    decimals: int = Field(default=4, ge=0, le=6)
    capacity_g: float = Field(default=220.0, gt=0)
    underload_g: float = -2.0
    settling_s: float = Field(default=0.4, ge=0)
    """Time constant of the display behind the load."""
    stability_digits: float = Field(default=2.0, gt=0)
    """The display is stable once it has stayed within this many digits for ``stability_s``."""
    stability_s: float = Field(default=1.0, ge=0)
    standby: bool = False
    auto_print_hz: float | None = Field(default=None, gt=0, le=100)
    """How often it prints by itself, until it is first asked; a tare or a zero has it go on."""
    print_when_stable: bool = False
    """Whether ``ESC P`` waits for a steady load, as the print parameter may be set to."""
    calibration_s: float | None = Field(default=None, gt=0)
    """How long ``ESC Z`` takes, with a line a second that says so; None: it is ignored, as a Cubis
    MSE does."""
    tells_model: bool = True
    """False for one that is silent to ``ESC x1_`` and its like."""
    noise_digits: float = Field(default=0.0, ge=0)
    """Standard deviation of what is shown about the load, in digits: 0.5 to 1 on a quiet bench."""
    drift_digits_per_h: float = 0.0
    """How fast what is shown creeps away: 1 to 3 once it is warm."""
    reply_delay_s: float | tuple[float, float] = (0.002, 0.006)
    seed: int | None = None
