"""Sartorius balances over SBI."""

from adapters.sartorius.family import SartoriusFamily

__all__ = ["FAMILY"]

FAMILY = SartoriusFamily()
