"""A dosing pump: an instrument family for capa in a package of its own."""

from dosing_pump.family import DosingPumpFamily

__all__ = ["FAMILY"]

FAMILY = DosingPumpFamily()
