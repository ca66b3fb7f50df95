"""Unit names and what converts into what; for loading files, never on the hot path.

Pint takes a good part of a second and 20 MB to load, so it is imported only when two unit names
differ: a profile whose channels use their devices' own units never pays for it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from capa.errors import CapaError

if TYPE_CHECKING:
    import pint

__all__ = ["Scale", "UnitError", "compatible", "difference_scale", "scale_between"]

_DEFINITIONS = (
    # A standard volume is an amount of gas, not a volume: sccm never converts to cm^3/min.
    "standard_cubic_centimeter = [standard_gas] = scc",
    "sccm = scc / minute",
    "slpm = 1000 * sccm = slm",
    "psia = psi",
    "bara = bar",
    # Gauge pressure needs the barometer of the day, so it is no absolute pressure.
    "psig = [gauge_pressure]",
    "barg = 14.503773773 * psig",
)


class UnitError(CapaError):
    """A unit that is not known, or two that do not convert into each other."""


@dataclass(frozen=True, slots=True)
class Scale:
    """``to = gain * from + offset``."""

    gain: float = 1.0
    offset: float = 0.0


def compatible(unit: str, other: str) -> bool:
    """Whether values in one unit convert into the other; False if either is unknown."""
    if unit == other:
        return True
    try:
        scale_between(unit, other)
    except UnitError:
        return False
    return True


def scale_between(unit: str, to: str) -> Scale:
    """Return how a value in ``unit`` becomes one in ``to``.

    Raises:
        UnitError: one of them is unknown, or they measure different things.
    """
    if unit == to:
        return Scale()
    zero, one = (_convert(value, unit, to) for value in (0.0, 1.0))
    return Scale(gain=one - zero, offset=zero)


def difference_scale(unit: str, to: str) -> float:
    """Return the factor between differences: 1 degC apart is 1.8 degF apart, whatever the zero."""
    return scale_between(unit, to).gain


def _convert(value: float, unit: str, to: str) -> float:
    import pint

    registry = _registry()
    try:
        quantity = registry.Quantity(value, _parsed(unit))
        return float(quantity.to(_parsed(to)).magnitude)
    except pint.DimensionalityError:
        raise UnitError(f"{unit} does not convert to {to}") from None


def _parsed(unit: str) -> "pint.Unit":
    """Parse a unit name; pint's parser raises many things for text that is no unit."""
    try:
        return _registry().parse_units("dimensionless" if unit in {"1", ""} else unit)
    except Exception:  # noqa: BLE001 - pint lets tokenizer and arithmetic errors through
        raise UnitError(f"unknown unit {unit!r}") from None


@lru_cache(maxsize=1)
def _registry() -> "pint.UnitRegistry[float]":
    import pint

    registry: pint.UnitRegistry[float] = pint.UnitRegistry(cache_folder=None)
    for definition in _DEFINITIONS:
        registry.define(definition)
    return registry
