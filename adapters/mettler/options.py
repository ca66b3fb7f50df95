"""What a profile may say of a Mettler-Toledo balance and of its simulator."""

from typing import Literal

from pydantic import Field

from capa.models import Flag, Frozen

__all__ = ["GRAMS_PER", "MettlerOptions", "MettlerTwinOptions"]

MassUnit = Literal["mg", "g", "kg"]

GRAMS_PER: dict[str, float] = {"mg": 1e-3, "g": 1.0, "kg": 1e3}


class MettlerOptions(Frozen):
    """``[devices.options]``."""

    unit: MassUnit | None = None
    """The unit the balance is set to; another one in a reply is then an error."""
    poll: Literal["SI", "S"] = "SI"
    """``SI`` is answered at once; ``S`` only once the weight is stable, or with ``I``."""
    stability_timeout_s: float = Field(default=35.0, gt=0, le=120)
    """How long ``T``, ``Z`` and ``S`` may take: the balance itself gives up, after 30 s as seen
    on an ML4002E. Nothing else crosses the line meanwhile."""
    second_look: Flag = True
    """Whether a weight that has jumped is asked for again: lines have no check sum."""
    second_look_digits: float = Field(default=9.0, gt=0)
    """How many steps of its last place a weight may move between polls unquestioned."""


class MettlerTwinOptions(Frozen):
    """``[devices.twin]``: what the simulated balance is, and how it behaves."""

    plant: str = "sample"
    unit: MassUnit = "g"
    decimals: int = Field(default=5, ge=0, le=6)
    capacity_g: float = Field(default=220.0, gt=0)
    underload_g: float = -2.0
    zero_range: float = Field(default=0.02, gt=0, le=1)
    """Share of the capacity within which the balance may be set to zero."""
    settling_s: float = Field(default=0.2, ge=0)
    """Time constant of the display behind the load."""
    stability_digits: float = Field(default=2.0, gt=0)
    stability_s: float = Field(default=0.6, ge=0)
    """The weight is stable once it has stayed within ``stability_digits`` for this long."""
    give_up_s: float = Field(default=30.0, gt=0)
    """How long a command waits for a stable weight before it is answered ``I``."""
    id_of_immediate: Literal["long", "short"] = "long"
    """Whether ``ZI`` and ``TI`` are answered under their own names or as ``Z`` and ``T``."""
    stream_hz: float = Field(default=10.0, gt=0, le=100)
    """How often ``SIR`` sends a weight, and ``SR`` looks whether it has changed."""
    serial: str = "B000000001"
    noise_digits: float = Field(default=0.0, ge=0)
    """Standard deviation of what is shown about the load, in digits: 0.5 to 1 on a quiet bench."""
    drift_digits_per_h: float = 0.0
    """How fast what is shown creeps away: 1 to 3 once it is warm."""
    reply_delay_s: float | tuple[float, float] = (0.003, 0.02)
    seed: int | None = None
