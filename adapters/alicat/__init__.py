"""Alicat mass-flow controllers and meters over their ASCII dialect."""

from adapters.alicat.family import AlicatFamily

__all__ = ["FAMILY"]

FAMILY = AlicatFamily()
