"""An alarm of the simulated controller: sides, hysteresis, latching, blocking, clearing.

Codes and settings are those of the register list ("PM - Map 1"). What a latched alarm's state
register holds, and when it may be cleared, is a modelling choice: nobody's manual says.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["ALARM_BASES", "DEVIATION", "SETPOINT_OFFSETS", "Alarm"]

ALARM_BASES: Final = (1480, 1530, 1580, 1630)
SETPOINT_OFFSETS: Final = frozenset({0, 2})
DEVIATION: Final = 24

_OFF, _YES, _NO = 62, 106, 59
_NONE, _HIGH, _LOW, _ERROR, _BLOCKED = 61, 7, 8, 28, 12
_HIGH_SIDES, _LOW_SIDES, _LATCHES = {13, 37}, {13, 53}, 49
_AT_STARTUP, _AT_SETPOINT = {88, 13}, {85, 13}
_HYSTERESIS, _SIDES, _LATCHING, _BLOCKING, _TYPE = 4, 6, 12, 14, 28
_CLEAR, _SILENCE = 24, 26
_REGISTERS = 30


class Alarm:
    """One of the four. ``values`` are the controller's registers, temperatures in degC."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._state = _NONE
        self._blocked = False
        self._silenced = False
        self._over = False

    def start(self, values: Mapping[int, float]) -> None:
        """Begin as after power-up."""
        self._state, self._silenced, self._over = _NONE, False, False
        self._blocked = values[self._base + _BLOCKING] in _AT_STARTUP

    def setpoint_written(self, values: Mapping[int, float]) -> None:
        """Wait for the process value to come within bounds, if the alarm is set to."""
        self._blocked = self._blocked or values[self._base + _BLOCKING] in _AT_SETPOINT

    def has(self, address: int) -> bool:
        """Whether a register is one of this alarm's."""
        return 0 <= address - self._base < _REGISTERS

    def is_used(self, values: Mapping[int, float]) -> bool:
        """Whether it is switched on; one that is off forgets what it was."""
        if values[self._base + _TYPE] != _OFF:
            return True
        self._state, self._over, self._blocked = _NONE, False, False
        return False

    def look(
        self, values: Mapping[int, float], pv_degC: float, setpoint_degC: float, *, broken: bool
    ) -> None:
        """Judge the process value as it is."""
        deviates = values[self._base + _TYPE] == DEVIATION
        measured = pv_degC - setpoint_degC if deviates else pv_degC
        now = _ERROR if broken else self._side(values, measured)
        self._blocked = self._blocked and now != _NONE
        if self._blocked:
            return
        latches = values[self._base + _LATCHING] == _LATCHES
        self._over = now == _NONE and latches and self._state != _NONE
        if not self._over:
            self._silenced = self._silenced and now != _NONE
            self._state = now

    def _side(self, values: Mapping[int, float], measured: float) -> int:
        base, sides = self._base, values[self._base + _SIDES]
        hysteresis = values[base + _HYSTERESIS]
        high = values[base] - (hysteresis if self._state == _HIGH else 0.0)
        low = values[base + 2] + (hysteresis if self._state == _LOW else 0.0)
        if sides in _HIGH_SIDES and measured > high:
            return _HIGH
        return _LOW if sides in _LOW_SIDES and measured < low else _NONE

    def shown(self, values: Mapping[int, float]) -> dict[int, int]:
        """Return state, latched, silenced and clearable, by register."""
        latches = values[self._base + _LATCHING] == _LATCHES
        flags = {18: latches and self._state != _NONE, 20: self._silenced, 22: self._over}
        shown = {self._base + at: _YES if flag else _NO for at, flag in flags.items()}
        return {self._base + 16: _BLOCKED if self._blocked else self._state} | shown

    def requested(self, address: int) -> None:
        """Clear what is over, or silence what is not; both by writing 0."""
        if address == self._base + _CLEAR and self._over:
            self._state, self._over = _NONE, False
        if address == self._base + _SILENCE and self._state != _NONE:
            self._silenced = True
