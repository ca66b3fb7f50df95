"""Modbus RTU frames, and any Modbus device by a register map."""

from adapters.modbus.family import ModbusFamily

__all__ = ["FAMILY"]

FAMILY = ModbusFamily()
