"""Mettler-Toledo balances over MT-SICS."""

from adapters.mettler.family import MettlerFamily

__all__ = ["FAMILY"]

FAMILY = MettlerFamily()
