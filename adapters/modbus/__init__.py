"""Modbus RTU frames."""
