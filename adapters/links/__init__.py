"""Byte pipes: one exchange at a time."""
