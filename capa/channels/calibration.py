"""From a device's number to a channel's and back: unit and calibration folded into one line."""

from dataclasses import dataclass

from capa.channels.spec import ChannelSpec, LinearCalibration
from capa.units import Scale, UnitError, scale_between

__all__ = ["IDENTITY", "Conversion", "conversion_for"]


@dataclass(frozen=True, slots=True)
class Conversion:
    """``channel = gain * device + offset``; ``gain`` is never zero."""

    gain: float = 1.0
    offset: float = 0.0

    def to_channel(self, device_value: float) -> float:
        """What the device said, as the channel's value."""
        return self.gain * device_value + self.offset

    def to_device(self, channel_value: float) -> float:
        """What the device must be told for the channel to have this value."""
        return (channel_value - self.offset) / self.gain


IDENTITY = Conversion()


def conversion_for(channel: ChannelSpec, field_unit: str) -> Conversion:
    """Fold the unit conversion and the calibration of a channel.

    The device's number is converted to the channel's unit first and calibrated there. Where the
    units do not convert, a linear calibration is itself the conversion (volts to kW/m^2).

    Raises:
        UnitError: the units do not convert and no linear calibration says how they should.
        ValueError: a gain of zero, which no commanded value can pass.
    """
    calibration = channel.calibration
    if not isinstance(calibration, LinearCalibration):
        scale = scale_between(field_unit, channel.unit)
        return _folded(scale, 1.0, 0.0)
    if calibration.gain == 0:
        raise ValueError("a gain of 0 makes every value the same")
    return _folded(_scale_or_none(field_unit, channel.unit), calibration.gain, calibration.offset)


def _scale_or_none(unit: str, to: str) -> Scale:
    try:
        return scale_between(unit, to)
    except UnitError:
        return Scale()


def _folded(scale: Scale, gain: float, offset: float) -> Conversion:
    if (scale.gain, scale.offset, gain, offset) == (1.0, 0.0, 1.0, 0.0):
        return IDENTITY
    return Conversion(gain=gain * scale.gain, offset=gain * scale.offset + offset)
