"""One value of one channel at one instant."""

import math
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Sample", "Status"]


class Status(StrEnum):
    """What a value is worth. Only ``OK`` and ``SETTLING`` may be acted upon."""

    OK = "ok"
    SETTLING = "settling"
    UNDERRANGE = "underrange"
    OVERLOAD = "overload"
    SENSOR_FAIL = "sensor_fail"
    COMM_ERROR = "comm_error"
    STALE = "stale"

    @property
    def usable(self) -> bool:
        """Whether a value with this status is a measurement."""
        return self is Status.OK or self is Status.SETTLING


@dataclass(frozen=True, slots=True)
class Sample:
    """A channel's value in the channel's unit.

    ``at_s`` is trio's clock at the midpoint of the exchange that brought it; ``raw_value`` is
    what the device said, in the device's unit. ``value`` is NaN when the status is not usable.
    """

    channel: str
    value: float
    at_s: float
    status: Status = Status.OK
    raw_value: float | None = None

    @property
    def usable(self) -> bool:
        """Whether the value may be acted upon: a usable status and not NaN."""
        return self.status.usable and not math.isnan(self.value)
