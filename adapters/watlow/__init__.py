"""Watlow EZ-ZONE PM temperature controllers over Modbus RTU."""

from adapters.watlow.family import WatlowFamily

__all__ = ["FAMILY"]

FAMILY = WatlowFamily()
